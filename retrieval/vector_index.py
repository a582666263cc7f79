"""Nearest neighbours among item embeddings, by FAISS. The only module that imports faiss."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corpus.errors import ArtefactError, ConfigError, DeviceUnavailable, DimensionMismatch, InputError, UnknownItem
from retrieval.arrays import FloatArray, IntArray, as_embeddings, check_depth
from retrieval.config import VectorIndexConfig
from retrieval.row_set import RowSet

FEW_ROWS = 2_000  # comparing with so few is cheaper than walking a graph around all the others


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorHits:
    """The nearest items of several queries, best first."""

    ids: IntArray  # (n_queries, min(k, n_items)) rows; -1 is padding, and only ever at the end
    scores: FloatArray  # the same shape: inner products


class VectorIndex:
    """Inner-product search over item embeddings; a hit's id is the item's row.

    Safe to call from several threads: FAISS's CPU indexes are for reading, and callers of a GPU index take turns.
    """

    def __init__(self, index: Any, config: VectorIndexConfig) -> None:  # noqa: ANN401 - a faiss index
        """Wrap a FAISS index on the CPU; ``build`` and ``load`` are the ways in."""
        self.config = config
        self.dim = int(index.d)
        self._index = index
        self._stored = faiss.downcast_index(index.storage) if config.kind == "hnsw" else index  # all vectors, exact
        self._gpu = _to_gpu(index, config) if config.device == "gpu" else None
        self._gpu_lock = threading.Lock()

    @classmethod
    def build(cls, vectors: FloatArray, config: VectorIndexConfig) -> "VectorIndex":
        """Index embeddings.

        Args:
            vectors: float32 (n, dim), L2-normalised; vector i belongs to row i.
            config: Kind of index and its settings.
        Raises:
            DimensionMismatch: If the shape is not (n, dim).
            InputError: If a number is not finite.
            ConfigError: If FAISS refuses the settings.
            DeviceUnavailable: If a GPU is asked for and FAISS has none.
        """
        vectors = as_embeddings(vectors)
        index: Any
        try:
            if config.kind == "flat":
                index = faiss.IndexFlatIP(vectors.shape[1])
            else:
                index = faiss.IndexHNSWFlat(vectors.shape[1], config.m, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction = config.ef_construction
            index.add(vectors)
        except RuntimeError as exc:
            raise ConfigError(f"expected [retriever.index] settings that FAISS takes, got: {exc}") from exc
        return cls(index, config)

    @classmethod
    def load(cls, path: Path, config: VectorIndexConfig) -> "VectorIndex":
        """Open an index written by ``save``.

        Args:
            path: The file.
            config: The kind must be that of the file; ``ef_search`` and the device may differ from the build's.
        Raises:
            ArtefactError: If the file is missing, broken, or of another kind.
            DeviceUnavailable: If a GPU is asked for and FAISS has none.
        """
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as exc:
            raise ArtefactError(f"expected a FAISS index at {path}, got: {exc}; build the bundle again") from exc
        kind = faiss.IndexHNSWFlat if config.kind == "hnsw" else faiss.IndexFlat
        if not isinstance(index, kind) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ArtefactError(
                f"expected an inner-product index of kind {config.kind} at {path}, got {type(index).__name__}; "
                "build the bundle again"
            )
        return cls(index, config)

    def with_ef_search(self, ef_search: int) -> "VectorIndex":
        """Return the same index, searched more or less broadly; a flat one is always searched exactly."""
        return VectorIndex(self._index, self.config.model_copy(update={"ef_search": ef_search}))

    def save(self, path: Path) -> None:
        """Write the index to one file.

        Raises:
            ArtefactError: If it cannot be written.
        """
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as exc:
            raise ArtefactError(f"expected to write an index to {path}, got: {exc}; check the folder") from exc

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: FloatArray, k: int, *, exact: bool = False, allowed: RowSet | None = None) -> VectorHits:
        """Find the items with the greatest inner product.

        Args:
            queries: float32 (n_queries, dim), L2-normalised.
            k: Items per query; more than there are gives all.
            exact: Compare with every item, whatever the kind of index.
            allowed: Rows to search among; None: all.
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
        k = min(k, len(self) if allowed is None else len(allowed))
        if k == 0 or len(queries) == 0:
            shape = (len(queries), k)
            return VectorHits(ids=np.empty(shape, dtype=np.int64), scores=np.empty(shape, dtype=np.float32))
        if allowed is not None and len(allowed) <= FEW_ROWS:
            scores, ids = self._search_rows(queries, k, allowed.rows)
        elif exact or self.config.kind == "flat":
            scores, ids = self._search_flat(queries, k, allowed)
        else:
            # a beam narrower than k could not return k items
            options = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
                efSearch=max(self.config.ef_search, k), sel=_selector(allowed)
            )
            scores, ids = self._index.search(queries, k, params=options)
            # the graph may not lead to k items: complete short rows, so that a page is never short
            short = np.flatnonzero(ids[:, -1] < 0)
            if len(short):
                scores[short], ids[short] = self._search_flat(queries[short], k, allowed)
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
        vectors: FloatArray = self._stored.reconstruct_batch(rows)
        return vectors

    def _search_rows(self, queries: FloatArray, k: int, rows: IntArray) -> tuple[FloatArray, IntArray]:
        """Compare with some rows alone."""
        scores = queries @ self.vectors_of(rows).T  # (n_queries, n_rows)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), rows[best]

    def _search_flat(self, queries: FloatArray, k: int, allowed: RowSet | None) -> tuple[FloatArray, IntArray]:
        if self._gpu is None or allowed is not None:  # FAISS's GPU indexes heed no selector
            options = faiss.SearchParameters(sel=_selector(allowed))  # type: ignore[call-arg]
            scores, ids = self._stored.search(queries, k, params=options)
            return scores, ids
        try:
            with self._gpu_lock:  # FAISS's GPU indexes are not thread-safe, not even for reading
                scores, ids = self._gpu.search(queries, k)
        except RuntimeError as exc:
            raise DeviceUnavailable(f"the GPU failed to search: {exc}; set retriever.index.device to cpu") from exc
        return scores, ids


def _selector(allowed: RowSet | None) -> Any:  # noqa: ANN401 - a faiss selector
    return None if allowed is None else faiss.IDSelectorBitmap(allowed.bitmap)  # type: ignore[call-arg, arg-type]


def _to_gpu(index: Any, config: VectorIndexConfig) -> Any:  # noqa: ANN401 - a faiss index
    if config.kind != "flat":
        raise ConfigError(
            f"expected retriever.index.kind = flat with device = gpu, got {config.kind}; FAISS has no other"
        )
    n_gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if n_gpus < 1 or not hasattr(faiss, "StandardGpuResources"):
        raise DeviceUnavailable(
            "expected a FAISS with a GPU for retriever.index.device = gpu, found none; install the `gpu` extra "
            "instead of faiss-cpu, or set the device to cpu"
        )
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as exc:
        raise DeviceUnavailable(f"the GPU does not take the index: {exc}; set retriever.index.device to cpu") from exc
