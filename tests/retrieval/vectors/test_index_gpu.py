import faiss
import numpy as np
import pytest

from corpus.errors import ConfigError, DeviceUnavailable
from retrieval.config import VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.vectors import index_gpu, vector_index
from retrieval.vectors.vector_index import VectorIndex


def unit(n, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return unit(2000, 24, seed=1)


@pytest.fixture(scope="module")
def queries():
    return unit(50, 24, seed=2)


def has_gpu():
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def exact(queries, vectors, k):
    return np.argsort(-(queries @ vectors.T), kind="stable", axis=1)[:, :k]


def test_a_gpu_that_is_not_there_is_said_so(vectors):
    if has_gpu():
        pytest.skip("FAISS has a GPU here")
    for kind in ("flat", "ivf_flat", "hnsw"):
        with pytest.raises(DeviceUnavailable, match="device to cpu"):
            VectorIndex.build(vectors[:5], VectorIndexConfig(kind=kind, device="gpu"))


def test_a_kind_without_a_form_on_a_gpu_is_refused(vectors):
    with pytest.raises(ConfigError, match=r"flat, ivf_flat, hnsw .* got ivf_pq"):
        VectorIndex.build(vectors[:700], VectorIndexConfig(kind="ivf_pq", device="gpu"))


class Halves:
    """Searches as a GPU does: embeddings of 16 bits, no filter."""

    def __init__(self, kind, structure, vectors):
        self.vectors, self.asked = vectors.astype(np.float16).astype(np.float32), []

    def search(self, queries, k, breadth):
        self.asked.append((k, breadth.nprobe))
        return np.ascontiguousarray(exact(queries, self.vectors, k))


def test_what_the_gpu_finds_is_scored_exactly_and_filters_stay_on_the_cpu(vectors, queries, monkeypatch):
    monkeypatch.setattr(vector_index, "GpuIndex", Halves)
    for kind in ("flat", "ivf_flat"):
        index = VectorIndex.build(vectors, VectorIndexConfig(kind=kind, nprobe=9, device="gpu"))
        hits = index.search(queries, 10)
        np.testing.assert_array_equal(hits.ids, exact(queries, vectors, 10))
        np.testing.assert_allclose(hits.scores, np.take_along_axis(queries @ vectors.T, hits.ids, 1), atol=1e-6)
        rows = np.arange(0, 2000, 50)
        filtered = index.search(queries, 10, allowed=RowSet.of(rows, 2000))
        np.testing.assert_array_equal(filtered.ids, rows[exact(queries, vectors[rows], 10)])
        index.search(queries, 10, exact=True)
        assert index._gpu.asked == [(100 * index_gpu.REFINE_FACTOR, 9 if kind == "ivf_flat" else 1)]
        assert index.with_settings(nprobe=3)._gpu is index._gpu


def test_a_gpu_is_asked_for_no_more_than_it_takes(queries, monkeypatch):
    monkeypatch.setattr(vector_index, "GpuIndex", Halves)
    vectors = unit(5000, 24, seed=3)
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="flat", device="gpu"))
    for k in (1300, 2048, 2049):  # twice as many are wanted, to be scored again
        hits = index.search(queries[:2], k)
        np.testing.assert_array_equal(hits.ids[:, :1000], exact(queries[:2], vectors, 1000))
        assert hits.ids.shape == (2, k)
    assert index._gpu.asked == [(2048, 1), (2048, 1)]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "hnsw"])
def test_gpu_finds_what_the_cpu_finds(vectors, queries, kind):
    if not has_gpu():
        pytest.skip("FAISS has no GPU here")
    if kind == "hnsw" and not hasattr(faiss, "GpuIndexCagra"):
        pytest.skip("FAISS has no CAGRA here")
    index = VectorIndex.build(vectors, VectorIndexConfig(kind=kind, nprobe=51, device="gpu"))
    got, want = index.search(queries, 10).ids, exact(queries, vectors, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(got.tolist(), want.tolist(), strict=True)]) >= 0.95
