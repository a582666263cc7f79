"""FAISS's structures behind the kinds of vector index: how each is built, kept in a file, and searched.

The exact embeddings are the caller's, in memory or mapped from ``vectors.npy``. ``flat`` has no structure beside them,
and the file of ``hnsw`` holds the links alone, which are laid over those embeddings. All other kinds hold their own,
smaller form of the embeddings, or, ``ivf_flat``, the same numbers in the order of its cells. Files are mapped into
memory, not read (``IO_FLAG_MMAP_IFC``): servers on one machine share their pages. The codes of ``ivf_pq`` and
``ivf_rabitq`` alone, in blocks as FAISS's fast scans want them, are read into each process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.errors import ArtefactError, ConfigError
from corpus.folders import writing
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.vectors.faiss_runtime import faiss
from retrieval.vectors.index_choice import GRAPHS, TRAINING_POINTS, most_parts, n_cells, n_subvectors

Structure = Any  # a FAISS index

TRAINING_SEED = 0
MOST_TRAINING = 100_000  # embeddings that decide the ranges of 8-bit numbers and, beyond cells, codebooks
TRAINING_ROUNDS = 5  # of k-means; FAISS's 25 move the centres hardly any further
ROTATION_ROUNDS = 5  # of the rotation before codes; FAISS's 50 find hardly more
ADDED_ROWS = 65_536  # at one time: embeddings mapped from a file need not fit the memory
TABLE_BYTES = 2**28  # of look-up tables in one call
WRITTEN_BYTES = 2**20  # at one time
CODE_BITS = 4  # what FAISS scans fast
N_CODES = 2**CODE_BITS

_FACTORY = {
    "flat_fp16": "SQfp16",
    "sq8": "SQ8",
    "hnsw": "HNSW{m},Flat",
    "hnsw_sq8": "HNSW{m},SQ8",
    "ivf_flat": "IVF{cells},Flat",
    "ivf_pq": "OPQ{parts},IVF{cells},PQ{parts}x4fs",
    "ivf_rabitq": "IVF{cells},RaBitQfs",
}
_CLASSES: dict[str, Any] = {
    "flat_fp16": faiss.IndexScalarQuantizer,
    "sq8": faiss.IndexScalarQuantizer,
    "hnsw": faiss.IndexHNSWFlat,
    "hnsw_sq8": faiss.IndexHNSWSQ,
    "ivf_flat": faiss.IndexIVFFlat,
    "ivf_pq": faiss.IndexIVFPQFastScan,
    "ivf_rabitq": faiss.IndexIVFRaBitQFastScan,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Breadth:
    """How broadly one search goes; each kind heeds its own."""

    ef_search: int
    nprobe: int


def build_structure(vectors: FloatArray, config: VectorIndexConfig) -> Structure:
    """Build what searches embeddings; None for ``flat``.

    Args:
        vectors: float32 (n, dim), L2-normalised.
        config: Kind, not ``auto``, and its settings.
    Raises:
        ConfigError: If FAISS refuses the settings.
    """
    if config.kind == "flat":
        return None
    n, dim = vectors.shape
    recipe = _FACTORY[config.kind].format(m=config.m, cells=n_cells(n), parts=n_subvectors(dim))
    try:
        structure: Structure = faiss.index_factory(dim, recipe, faiss.METRIC_INNER_PRODUCT)
        if config.kind in GRAPHS:
            structure.hnsw.efConstruction = config.ef_construction
        if n:
            _train(structure, vectors, config)
            for start in range(0, n, ADDED_ROWS):
                structure.add(vectors[start : start + ADDED_ROWS])
            if config.kind == "ivf_pq":
                _shrink_centres(_cells(structure))
    except RuntimeError as exc:
        raise ConfigError(f"expected [retriever.index] settings that FAISS takes, got: {exc}") from exc
    return structure


def write_structure(structure: Structure, path: Path) -> None:
    """Write a structure to one file.

    Raises:
        ArtefactError: If it cannot be written.
    """
    flags = faiss.IO_FLAG_SKIP_STORAGE if isinstance(structure, faiss.IndexHNSWFlat) else 0
    # through Python's file: FAISS's own says nothing of what the disk does not take at the end
    with writing(path), path.open("wb") as file:
        writer = faiss.PyCallbackIOWriter(file.write, WRITTEN_BYTES)  # type: ignore[attr-defined]
        faiss.write_index(structure, writer, flags)


def read_structure(path: Path, config: VectorIndexConfig, vectors: FloatArray) -> Structure:
    """Open a structure that was written, mapped into memory; None for ``flat``.

    Args:
        path: The file.
        config: The kind must be that of the file.
        vectors: float32 (n, dim), what it was built from; the caller keeps it alive.
    Raises:
        ArtefactError: If the file is missing, broken, of another kind, or of other embeddings.
    """
    if config.kind == "flat":
        return None
    flags = faiss.IO_FLAG_MMAP_IFC | (faiss.IO_FLAG_SKIP_STORAGE if config.kind == "hnsw" else 0)
    try:
        structure: Structure = faiss.read_index(str(path), flags)
    except RuntimeError as exc:
        raise ArtefactError(f"expected a FAISS index at {path}, got: {exc}; build the bundle again") from exc
    searched = structure if (cells := _cells(structure)) is None else cells
    if not isinstance(searched, _CLASSES[config.kind]) or structure.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ArtefactError(
            f"expected an inner-product index of kind {config.kind} at {path}, got {type(searched).__name__}; "
            "build the bundle again"
        )
    if (structure.ntotal, structure.d) != vectors.shape:
        raise ArtefactError(
            f"expected an index of {len(vectors):,} embeddings by {vectors.shape[1]} numbers at {path}, "
            f"got {structure.ntotal:,} by {structure.d}; build the bundle again"
        )
    if config.kind == "hnsw":
        _lay_over(structure, vectors)
    return structure


def search_structure(
    structure: Structure, queries: FloatArray, k: int, breadth: Breadth, allowed: RowSet | None
) -> tuple[FloatArray, IntArray]:
    """Search approximately.

    Args:
        structure: From ``build_structure`` or ``read_structure``.
        queries: float32 (n_queries, dim).
        k: Hits per query.
        breadth: Of the search; a graph's is at least k, or it could not return k.
        allowed: Rows to search among; None: all.
    Returns:
        Scores as the structure estimates them, float32, and rows int64, both (n_queries, k); -1 pads short rows.
    """
    among = None if allowed is None else faiss.IDSelectorBitmap(allowed.bitmap)  # type: ignore[call-arg, arg-type]
    cells, at_once = _cells(structure), max(len(queries), 1)
    options: Any
    if isinstance(structure, faiss.IndexHNSW):
        options = faiss.SearchParametersHNSW(efSearch=max(breadth.ef_search, k), sel=among)  # type: ignore[attr-defined]
    elif cells is not None:
        nprobe = min(breadth.nprobe, cells.nlist)
        options = faiss.SearchParametersIVF(nprobe=nprobe, sel=among)  # type: ignore[call-arg]
        if cells is not structure:
            options = faiss.SearchParametersPreTransform(index_params=options)  # type: ignore[call-arg]
        if isinstance(cells, faiss.IndexIVFRaBitQFastScan):
            at_once = _at_once(cells.d, nprobe)
    else:
        options = faiss.SearchParameters(sel=among)  # type: ignore[call-arg]
    starts = range(0, max(len(queries), 1), at_once)
    found = [structure.search(queries[start : start + at_once], k, params=options) for start in starts]
    return np.concatenate([scores for scores, _ in found]), np.concatenate([ids for _, ids in found])


def cells_of(structure: Structure) -> int:
    """Return how many cells an IVF structure has; 1 for any other."""
    cells = _cells(structure)
    return 1 if cells is None else int(cells.nlist)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS search on the calling thread alone: on a busy machine a search mostly waits for the other threads."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _train(structure: Structure, vectors: FloatArray, config: VectorIndexConfig) -> None:
    """Fit rotations, ranges, centres and codebooks to a sample of the embeddings."""
    if (cells := _cells(structure)) is not None:
        cells.cp.niter = TRAINING_ROUNDS
        cells.cp.min_points_per_centroid = 1  # n_cells sees to it; FAISS would print a warning
    rotation: Any = None
    if config.kind == "ivf_pq":
        cells.by_residual = False  # see _shrink_centres
        cells.pq.cp.min_points_per_centroid = 1
        rotation = faiss.downcast_VectorTransform(structure.chain.at(0))
        rotation.niter = ROTATION_ROUNDS
        codes = faiss.ProductQuantizer(vectors.shape[1], rotation.M, CODE_BITS)  # FAISS's own prints the warning
        codes.cp.min_points_per_centroid = 1
        rotation.pq = codes  # borrowed while training
    wanted = max(TRAINING_POINTS * cells_of(structure), MOST_TRAINING)
    sample = vectors
    if wanted < len(vectors):
        rows = np.random.default_rng(TRAINING_SEED).choice(len(vectors), wanted, replace=False)
        sample = vectors[np.sort(rows)]
    if len(sample) < N_CODES:  # fewer embeddings than codes: k-means wants as many points as centres
        sample = np.resize(sample, (N_CODES, vectors.shape[1]))
    structure.train(sample)
    if rotation is not None:
        rotation.pq = None


def _shrink_centres(cells: Structure) -> None:
    """Let searches look for the nearest centres among codes of 4 bits for 2 numbers, instead of the embeddings.

    The codes of items are of whole embeddings, not of what is beside a centre, so that centres choose cells and nothing
    else. Comparing with 8,192 centres by 384 numbers takes .45 ms, with their codes .06.
    """
    centres: Any = faiss.downcast_index(cells.quantizer)
    small: Any = faiss.IndexPQFastScan(
        cells.d, most_parts(cells.d, cells.d // 2), CODE_BITS, faiss.METRIC_INNER_PRODUCT
    )
    small.pq.cp.min_points_per_centroid = 1
    numbers = centres.reconstruct_n(0, cells.nlist)
    small.train(np.resize(numbers, (max(len(numbers), N_CODES), cells.d)))
    small.add(numbers)
    cells.quantizer = small
    small.this.disown()  # now the cells', as these were, which are freed here
    centres.this.own(True)


def _cells(structure: Structure) -> Structure:
    """Return the part of a structure that has cells, which may stand behind a rotation; None if it has none."""
    if isinstance(structure, faiss.IndexPreTransform):
        structure = faiss.downcast_index(structure.index)
    return structure if isinstance(structure, faiss.IndexIVF) else None


def _at_once(dim: int, nprobe: int) -> int:
    """Return for how many queries ``ivf_rabitq`` may be searched in one call.

    FAISS makes a table of 20 bytes per number for each query and each cell that it visits, and counts their bytes in 32
    bits: 500 queries by 384 numbers in 2,796 cells of theirs killed the process (FAISS 1.15).
    """
    return max(1, TABLE_BYTES // (20 * dim * nprobe))


def _lay_over(structure: Structure, vectors: FloatArray) -> None:
    """Let a graph without embeddings of its own read those of an array."""
    storage = faiss.IndexFlatIP(vectors.shape[1])
    if len(vectors):
        numbers = faiss.swig_ptr(vectors.reshape(-1).view(np.uint8))
        nobody = faiss.MaybeOwnedVectorUInt8().owner  # type: ignore[attr-defined]  # the caller owns it
        storage.codes = faiss.MaybeOwnedVectorUInt8.create_view(numbers, vectors.nbytes, nobody)  # type: ignore[attr-defined]
    storage.ntotal = len(vectors)
    structure.storage = storage
    structure.own_fields = False
    structure.referenced_objects = [storage, vectors]  # kept alive
