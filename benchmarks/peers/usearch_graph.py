"""The peer of the index benchmark: usearch's HNSW graph, with as many links and as broad a construction as ours."""

import numpy as np

from retrieval.arrays import FloatArray, IntArray


class UsearchGraph:
    """usearch over float32 embeddings, inner product."""

    def __init__(self, vectors: FloatArray, *, m: int, ef_construction: int) -> None:
        """Build the graph.

        Args:
            vectors: float32 (n, dim), L2-normalised.
            m: Links per item.
            ef_construction: Breadth of search while building.
        """
        from usearch.index import Index

        self._index = Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=m, expansion_add=ef_construction
        )
        self._index.add(np.arange(len(vectors)), vectors)

    @property
    def size_bytes(self) -> int:
        """Size of its file: embeddings and links."""
        return int(self._index.serialized_length)

    def set_breadth(self, ef_search: int) -> None:
        """Search more or less broadly from now on."""
        self._index.expansion_search = ef_search

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """Return the rows of the k nearest items, int64 (n_queries, k); one query alone: (k,)."""
        return np.asarray(self._index.search(queries, k, threads=1).keys, dtype=np.int64)
