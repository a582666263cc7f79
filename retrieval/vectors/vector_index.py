"""Nearest neighbours among item embeddings, approximately or exactly, by any kind of index.

A compressed index is asked for ``refine_factor`` times k rows, or times 100 if k is less, and these are scored again
with the exact embeddings, so that scores are exact inner products for every kind. FAISS itself is imported by
``index_kinds``, ``index_gpu`` and ``exact_search`` alone.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError, DimensionMismatch, InputError, UnknownItem
from retrieval.arrays import FloatArray, IntArray, as_embeddings, check_depth
from retrieval.config import VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.vectors.exact_search import inner_products, nearest
from retrieval.vectors.index_choice import CELLS, COMPRESSED, GRAPHS, choose_kind
from retrieval.vectors.index_gpu import MOST_ASKED, GpuIndex
from retrieval.vectors.index_gpu import REFINE_FACTOR as GPU_REFINE_FACTOR
from retrieval.vectors.index_kinds import (
    Breadth,
    Structure,
    build_structure,
    cells_of,
    read_structure,
    search_structure,
    write_structure,
)

TUNED_DEPTH = 100  # items per query that settings are tuned for; who asks for fewer gets them as surely
# where nothing is configured and nothing was tuned
EF_SEARCH = 128
PROBED_SHARE = 1 / 16  # of the cells
REFINE_FACTORS = {"flat_fp16": 1, "sq8": 2, "hnsw_sq8": 2, "ivf_pq": 8, "ivf_rabitq": 8}
# codes that are read in the time of comparing with one embedding, which has to be fetched from anywhere in memory: 10
# (ivf_pq) and 36 ns beside 150 to 200 (384 numbers, a million items, one thread)
CODES_PER_COMPARISON = {"ivf_pq": 16, "ivf_rabitq": 4}
FEW = 10_000  # rows: compared with in a millisecond, which is not worth a search of an index
SCANNED_SHARE = 0.25  # up to which the allowed rows alone are compared with, rather than all in compressed form
FAR_REFINE_FACTOR = 64  # of a query around which few rows are allowed
NEARBY_PROBES = 1 / 8  # of the cells that a search visits: as many as it takes to see which rows around it are allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorHits:
    """The nearest items of several queries, best first."""

    ids: IntArray  # (n_queries, min(k, n_items)) rows; -1 is padding, and only ever at the end
    scores: FloatArray  # the same shape: inner products


class VectorIndex:
    """Inner-product search over item embeddings; a hit's id is the item's row.

    Safe to call from several threads: FAISS's CPU indexes are for reading, and callers of a GPU's take turns.
    """

    def __init__(
        self, structure: Structure, vectors: FloatArray, config: VectorIndexConfig, gpu: GpuIndex | None = None
    ) -> None:
        """Join embeddings and what searches them; ``build`` and ``load`` are the ways in."""
        self.vectors = vectors  # float32 (n, dim), in memory or mapped; not to be changed
        self.config = _resolved(config, cells_of(structure))
        self.dim = int(vectors.shape[1])
        self._structure = structure
        self._gpu = GpuIndex(config.kind, structure, vectors) if gpu is None and config.device == "gpu" else gpu

    @classmethod
    def build(cls, vectors: FloatArray, config: VectorIndexConfig) -> "VectorIndex":
        """Index embeddings.

        Args:
            vectors: float32 (n, dim), L2-normalised; vector i belongs to row i. Kept, not copied.
            config: Kind of index and its settings.
        Raises:
            DimensionMismatch: If the shape is not (n, dim).
            InputError: If a number is not finite.
            ConfigError: If FAISS refuses the settings, or no kind fits the memory budget.
            DeviceUnavailable: If a GPU is asked for and FAISS has none.
        """
        vectors = as_embeddings(vectors)
        config = config.model_copy(update={"kind": choose_kind(config, *vectors.shape)})
        return cls(build_structure(vectors, config), vectors, config)

    @classmethod
    def load(cls, path: Path, config: VectorIndexConfig, vectors: FloatArray) -> "VectorIndex":
        """Open an index written by ``save``.

        Args:
            path: The file; there is none for ``flat``.
            config: The kind must be that of the file; how broadly it is searched may differ from the build's.
            vectors: float32 (n, dim), the very embeddings it was built from; ``open_vectors`` maps them.
        Raises:
            ArtefactError: If the file is missing, broken, of another kind, or of other embeddings.
            DeviceUnavailable: If a GPU is asked for and FAISS has none.
        """
        if config.kind == "auto":
            raise ArtefactError(f"expected the kind of the index at {path}, got auto; build the bundle again")
        return cls(read_structure(path, config, vectors), vectors, config)

    def with_settings(
        self, *, ef_search: int | None = None, nprobe: int | None = None, refine_factor: int | None = None
    ) -> "VectorIndex":
        """Return the same index, searched more or less broadly; None is the default, and each kind heeds its own."""
        settings = {"ef_search": ef_search, "nprobe": nprobe, "refine_factor": refine_factor}
        return VectorIndex(self._structure, self.vectors, self.config.model_copy(update=settings), self._gpu)

    def save(self, path: Path) -> None:
        """Write what searches the embeddings, not these themselves, to one file; ``flat`` has none.

        Raises:
            ArtefactError: If it cannot be written.
        """
        if self._structure is not None:
            write_structure(self._structure, path)

    @property
    def n_cells(self) -> int:
        """Cells of an ivf kind; 1 for any other."""
        return cells_of(self._structure)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self,
        queries: FloatArray,
        k: int,
        *,
        exact: bool = False,
        allowed: RowSet | None = None,
        complete: bool = True,
    ) -> VectorHits:
        """Find the items with the greatest inner product.

        Args:
            queries: float32 (n_queries, dim), L2-normalised.
            k: Items per query; more than there are gives all.
            exact: Compare with every item, whatever the kind of index.
            allowed: Rows to search among; None: all.
            complete: Compare with every item where the index finds fewer than k, so that a page is never short;
                False shows what it finds by itself.
        Returns:
            Hits, best first; equal scores in row order. min(k, n allowed) of them per query.
        Raises:
            DimensionMismatch: If the shape is not (n_queries, dim).
            InputError: If a number is not finite, k is below 1, or the rows are of another catalogue.
            DeviceUnavailable: If the GPU fails.
        """
        queries = as_embeddings(queries, self.dim)
        check_depth(k)
        if allowed is not None and allowed.n_items != len(self):
            raise InputError(f"expected rows of a catalogue of {len(self)} items, got ones of {allowed.n_items}")
        n_allowed = len(self) if allowed is None else len(allowed)
        k = min(k, n_allowed)
        if k == 0 or len(queries) == 0:
            shape = (len(queries), k)
            return VectorHits(ids=np.empty(shape, dtype=np.int64), scores=np.empty(shape, dtype=np.float32))
        if self._gpu is not None and k > MOST_ASKED:
            exact = True
        share = n_allowed / len(self)
        if exact or k == n_allowed or self._cheaper_exactly(allowed, share):  # who asks for all gets all
            scores, ids = self._search_exactly(queries, k, allowed)
        elif allowed is None:
            scores, ids = self._search_approximately(queries, k, None, share)
        else:
            scores, ids = self._search_among(queries, k, allowed)
        short = np.flatnonzero(ids[:, -1] < 0) if complete else ()
        if len(short):
            scores[short], ids[short] = self._search_exactly(queries[short], k, allowed)
        order = np.lexsort((ids, -scores), axis=-1)
        return VectorHits(ids=np.take_along_axis(ids, order, -1), scores=np.take_along_axis(scores, order, -1))

    def search_one(
        self, query: FloatArray, k: int, *, exact: bool = False, allowed: RowSet | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Find the items with the greatest inner product to one query.

        Args:
            query: float32 (dim,), L2-normalised.
            k: Items; more than there are gives all.
            exact: Compare with every item, whatever the kind of index.
            allowed: Rows to search among; None: all.
        Returns:
            Rows int64 (min(k, n_items),) and scores float32, best first, without padding.
        Raises:
            DimensionMismatch: If the shape is not (dim,).
            InputError: If a number is not finite or k is below 1.
        """
        if np.ndim(query) != 1:
            raise DimensionMismatch(f"expected one ({self.dim},) query embedding, got shape {np.shape(query)}")
        hits = self.search(np.asarray(query)[None], k, exact=exact, allowed=allowed)
        found = hits.ids[0] >= 0
        return hits.ids[0][found], hits.scores[0][found]

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return the embeddings of rows.

        Args:
            rows: int64 (n,).
        Returns:
            float32 (n, dim).
        Raises:
            UnknownItem: If a row is outside the index.
        """
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        if len(rows) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        if rows.min() < 0 or rows.max() >= len(self):
            raise UnknownItem(f"expected rows in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        return self.vectors[rows]

    def _search_exactly(self, queries: FloatArray, k: int, allowed: RowSet | None) -> tuple[FloatArray, IntArray]:
        return nearest(queries, self.vectors, k, None if allowed is None else allowed.rows)

    def _search_among(self, queries: FloatArray, k: int, allowed: RowSet) -> tuple[FloatArray, IntArray]:
        """Search among some rows, for each query as broadly as these are sparse around it."""
        scores = np.empty((len(queries), k), dtype=np.float32)
        ids = np.empty((len(queries), k), dtype=np.int64)
        shares = self._shares_nearby(queries, allowed)
        for share in np.unique(shares):
            those = shares == share
            if self._cheaper_exactly(allowed, share):
                scores[those], ids[those] = self._search_exactly(queries[those], k, allowed)
            else:
                scores[those], ids[those] = self._search_approximately(queries[those], k, allowed, share)
        return scores, ids

    def _shares_nearby(self, queries: FloatArray, allowed: RowSet) -> FloatArray:
        """Return which share of the rows is allowed; for a query around which it is far less, the share there.

        Who searches for lamps among books has none of the allowed rows nearby. A search as broad as the books' share of
        the catalogue demands would come to a few of them by chance, and the best would lie elsewhere.

        Returns:
            (n_queries,), above 0.
        """
        share = len(allowed) / len(self)
        usual = np.full(len(queries), share)
        if self.config.kind not in (*GRAPHS, *CELLS):
            return usual  # which look at every row
        depth = min(math.ceil(TUNED_DEPTH / share), len(self))
        breadth = Breadth(ef_search=depth, nprobe=math.ceil((self.config.nprobe or 1) * NEARBY_PROBES / share))
        _, ids = search_structure(self._structure, queries, depth, breadth, None)
        n_allowed = np.sum((ids >= 0) & allowed.mask[ids], axis=1)
        nearby = np.maximum(n_allowed, 1) / np.maximum(np.sum(ids >= 0, axis=1), 1)
        return np.where(nearby < share / 2, nearby, usual)

    def _search_approximately(
        self, queries: FloatArray, k: int, allowed: RowSet | None, share: float
    ) -> tuple[FloatArray, IntArray]:
        n_allowed = len(self) if allowed is None else len(allowed)
        # as many allowed rows are to be met as there would be rows without a filter
        breadth = Breadth(
            ef_search=math.ceil((self.config.ef_search or 1) / share),
            nprobe=math.ceil((self.config.nprobe or 1) / share),
        )
        factor = GPU_REFINE_FACTOR if self._gpu else self._refine_factor(share, n_allowed)
        wide = k if factor is None else min(max(k, TUNED_DEPTH) * factor, n_allowed)
        if self._gpu and allowed is None:
            ids = self._gpu.search(queries, min(wide, MOST_ASKED), breadth)
        else:
            scores, ids = search_structure(self._structure, queries, wide, breadth, allowed)
            if factor is None:
                return scores, ids
        scores = inner_products(queries, self.vectors, ids)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # padding last: it scores minus infinity
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)

    def _refine_factor(self, share: float, n_allowed: int) -> int | None:
        """Return how many times k rows are scored again: more where what is allowed is far, and codes confuse more."""
        factor = self.config.refine_factor
        return max(factor, FAR_REFINE_FACTOR) if factor and share < n_allowed / len(self) else factor

    def _cheaper_exactly(self, allowed: RowSet | None, share: float) -> bool:
        """Decide whether to compare with all rows that may be found."""
        if allowed is None:
            return self._structure is None and self._gpu is None
        return self._structure is None or len(allowed) <= self._comparisons(allowed, share)

    def _comparisons(self, allowed: RowSet, share: float) -> float:
        """Return how many exact comparisons a filtered search of the index costs as much as.

        A search that is to meet as many allowed rows as it would meet rows without a filter goes 1/share as broadly,
        share being that of the allowed rows, where it looks. A graph then compares with about m rows for each of the
        ef_search / share that it expands; visited cells hold n nprobe / n_cells / share rows, of which the allowed ones
        are compared with, and where they hold codes, all of these are read, and the best scored again; a scan tests
        every row. Comparing with the allowed rows alone is exact, too, so equal costs go to it. Measured on 30,000 rows
        by 384, one thread: both took equally long at a share of .3 for the scans.
        """
        config = self.config
        if config.kind in GRAPHS:
            return config.m * (config.ef_search or 1) / share
        if config.kind in CELLS:
            n_visited = len(self) * (config.nprobe or 1) / self.n_cells
            if config.refine_factor is None:
                return min(n_visited * (len(allowed) / len(self) / share), len(allowed))
            n_codes = min(n_visited / share, len(self))
            n_rescored = TUNED_DEPTH * (self._refine_factor(share, len(allowed)) or 0)
            n_compared = n_codes / CODES_PER_COMPARISON[config.kind] + n_rescored
            return max(n_compared, FEW)
        return SCANNED_SHARE * len(self)


def open_vectors(path: Path) -> FloatArray:
    """Map embeddings from a ``.npy`` file.

    Returns:
        float32 (n, dim), C-contiguous, read as they are needed.
    Raises:
        ArtefactError: If the file is missing, broken, or holds something else.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise ArtefactError(f"expected embeddings at {path}, got: {exc}; build the bundle again") from exc
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        raise ArtefactError(
            f"expected float32 (n, dim) embeddings at {path}, got {vectors.dtype} {vectors.shape}; "
            "build the bundle again"
        )
    return np.asarray(vectors)


def _resolved(config: VectorIndexConfig, n_cells: int) -> VectorIndexConfig:
    """Return a configuration in which what the kind heeds is a number, and what it does not is None."""
    kind = config.kind
    nprobe = config.nprobe or math.ceil(n_cells * PROBED_SHARE)
    return config.model_copy(
        update={
            "ef_search": (config.ef_search or EF_SEARCH) if kind in GRAPHS else None,
            "nprobe": min(nprobe, n_cells) if kind in CELLS else None,
            "refine_factor": (config.refine_factor or REFINE_FACTORS[kind]) if kind in COMPRESSED else None,
        }
    )
