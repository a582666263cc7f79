"""Embeddings that are drawn, an index of every kind, and what is right to find."""

import numpy as np
import pytest

from retrieval.config import VectorIndexConfig

FLAT = VectorIndexConfig(kind="flat")
HNSW = VectorIndexConfig(kind="hnsw", m=16, ef_construction=100, ef_search=64)
# broad enough for the recall that is asked below
KINDS = [
    FLAT,
    VectorIndexConfig(kind="flat_fp16"),
    VectorIndexConfig(kind="sq8"),
    HNSW,
    VectorIndexConfig(kind="hnsw_sq8", m=16, ef_construction=100, ef_search=64),
    VectorIndexConfig(kind="ivf_flat", nprobe=30),
    VectorIndexConfig(kind="ivf_pq", nprobe=30, refine_factor=20),
    VectorIndexConfig(kind="ivf_rabitq", nprobe=40, refine_factor=40),
]
every_kind = pytest.mark.parametrize("config", KINDS, ids=[config.kind for config in KINDS])


def unit(n, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exact(queries, vectors, k):
    return np.argsort(-(queries @ vectors.T), kind="stable", axis=1)[:, :k]


def recall(got, want):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(got.tolist(), want.tolist(), strict=True)])
