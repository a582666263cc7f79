"""Exact inner products with embeddings in an array, in memory or mapped from a file, without a copy of them."""

from typing import Any

import numpy as np

from retrieval.arrays import FloatArray, IntArray
from retrieval.vectors.faiss_runtime import faiss


def nearest(
    queries: FloatArray, vectors: FloatArray, k: int, rows: IntArray | None = None
) -> tuple[FloatArray, IntArray]:
    """Compare queries with all embeddings, or with some alone.

    Args:
        queries: float32 (n_queries, dim), C-contiguous.
        vectors: float32 (n, dim), C-contiguous.
        k: Hits per query, at most as many as there are to compare with.
        rows: Those to compare with; None: all.
    Returns:
        Scores float32 and rows int64, both (n_queries, k), best first.
    """
    scores = np.empty((len(queries), k), dtype=np.float32)
    ids = np.empty((len(queries), k), dtype=np.int64)
    # FAISS goes through an array of rows one by one, and tests no other
    among: Any = None if rows is None else faiss.IDSelectorArray(len(rows), faiss.swig_ptr(rows))
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(queries),
        len(vectors),
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(ids),
        among,
    )
    return scores, ids


def inner_products(queries: FloatArray, vectors: FloatArray, ids: IntArray) -> FloatArray:
    """Score each query's own rows.

    Args:
        queries: float32 (n_queries, dim), C-contiguous.
        vectors: float32 (n, dim), C-contiguous.
        ids: int64 (n_queries, m), C-contiguous; -1 is padding.
    Returns:
        float32 (n_queries, m); minus infinity for padding.
    """
    scores = np.empty(ids.shape, dtype=np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
        faiss.swig_ptr(scores),
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        faiss.swig_ptr(ids),
        vectors.shape[1],
        len(queries),
        ids.shape[1],
    )
    return scores
