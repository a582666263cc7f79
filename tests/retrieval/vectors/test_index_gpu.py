import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from corpus.errors import ConfigError, DeviceUnavailable
from retrieval.config import VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.vectors import index_gpu, vector_index
from retrieval.vectors.index_kinds import Breadth
from retrieval.vectors.vector_index import VectorIndex
from tests.retrieval.vectors.made_up import exact, unit


def has_gpu():
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


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


class GpuFaiss:
    """FAISS's names for a GPU over its CPU indexes: notes what it is asked for, and fails on demand."""

    METRIC_INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT
    GpuIndexFlatConfig = GpuIndexCagraConfig = GpuClonerOptions = SearchParametersCagra = SimpleNamespace
    SearchParametersIVF = faiss.SearchParametersIVF

    def __init__(self):
        self.copied, self.asked, self.broken = [], [], False

    def get_num_gpus(self):
        return 1

    def StandardGpuResources(self):
        return SimpleNamespace()

    def GpuIndexFlatIP(self, resources, dim, config):
        return Copy(self, "flat", faiss.IndexFlatIP(dim), config)

    def GpuIndexCagra(self, resources, dim, metric, config):
        assert metric == faiss.METRIC_INNER_PRODUCT
        return Copy(self, "cagra", faiss.IndexFlatIP(dim), config)

    def index_cpu_to_gpu(self, resources, device, index, options):
        assert device == 0
        copy = Copy(self, "cloned", index, options)
        copy.fail_if_broken()
        return copy


class Copy:
    """An index that would be on a GPU."""

    def __init__(self, gpu, form, index, config):
        self.gpu, self.form, self.index = gpu, form, index
        gpu.copied.append((form, config))

    def fail_if_broken(self):
        if self.gpu.broken:
            raise RuntimeError("CUDA error 2 out of memory")

    def add(self, vectors):
        self.fail_if_broken()
        self.index.add(vectors)

    train = add  # a CAGRA graph holds what it was trained on

    def search(self, queries, k, *, params=None):
        self.fail_if_broken()
        self.gpu.asked.append((k, params))
        return self.index.search(queries, k, params=params if self.form == "cloned" else None)


@pytest.fixture
def gpu(monkeypatch):
    fake = GpuFaiss()
    monkeypatch.setattr(index_gpu, "faiss", fake)
    return fake


def on_gpu(kind, vectors):
    return VectorIndex.build(vectors, VectorIndexConfig(kind=kind, nprobe=51, device="gpu"))


def test_each_kind_has_its_form_on_a_gpu(vectors, queries, gpu):
    for kind in ("flat", "ivf_flat", "hnsw"):
        np.testing.assert_array_equal(
            on_gpu(kind, vectors).search(queries, 10).ids[:, 0], exact(queries, vectors, 1).T[0]
        )
    assert [form for form, _ in gpu.copied] == ["flat", "cloned", "cagra"]
    assert [config.useFloat16 for _, config in gpu.copied[:2]] == [True, True]


def test_a_gpu_visits_no_more_cells_than_it_takes(vectors, queries, gpu):
    index = on_gpu("ivf_flat", vectors)._gpu
    for nprobe in (9, 2048, 2049):
        index.search(queries, 10, Breadth(ef_search=1, nprobe=nprobe))
    assert [(k, params.nprobe) for k, params in gpu.asked] == [(10, 9), (10, 2048), (10, 2048)]


def test_a_graph_on_a_gpu_keeps_at_least_as_many_as_are_wanted(vectors, queries, gpu):
    index = on_gpu("hnsw", vectors)._gpu
    for ef_search, k in ((80, 50), (16, 50)):
        index.search(queries, k, Breadth(ef_search=ef_search, nprobe=1))
    assert [params.itopk_size for _, params in gpu.asked] == [80, 50]


def test_a_graph_without_cagra_is_refused(vectors, gpu, monkeypatch):
    monkeypatch.delattr(GpuFaiss, "GpuIndexCagra")
    with pytest.raises(ConfigError, match=r"CAGRA .* set the kind to flat or ivf_flat"):
        on_gpu("hnsw", vectors)


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "hnsw"])
def test_callers_of_a_gpu_take_turns(vectors, queries, gpu, monkeypatch, kind):
    index, both = on_gpu(kind, vectors), threading.Barrier(2)
    search, met = Copy.search, []

    def meet(copy, *arguments, **options):
        with suppress(threading.BrokenBarrierError):  # nobody else came
            met.append(both.wait(timeout=0.2))
        return search(copy, *arguments, **options)

    monkeypatch.setattr(Copy, "search", meet)
    with ThreadPoolExecutor(2) as pool:
        for hits in pool.map(lambda view: view.search(queries, 10), [index, index.with_settings(nprobe=51)]):
            np.testing.assert_array_equal(hits.ids[:, 0], exact(queries, vectors, 1).T[0])
    assert len(gpu.asked) == 2
    assert not met


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "hnsw"])
def test_a_gpu_that_fails_is_said_so(vectors, queries, gpu, kind):
    index = on_gpu(kind, vectors)
    gpu.broken = True
    with pytest.raises(DeviceUnavailable, match=r"out of memory; set retriever\.index\.device to cpu"):
        on_gpu(kind, vectors)
    with pytest.raises(DeviceUnavailable, match=r"out of memory; set retriever\.index\.device to cpu"):
        index.search(queries, 10)
    gpu.broken = False
    assert index.search(queries, 10).ids.shape == (50, 10)  # whoever failed has left


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
