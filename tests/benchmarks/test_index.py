import gzip
import json

import numpy as np
import pytest

from benchmarks import index as benchmark
from benchmarks import index_timing, index_vectors
from benchmarks.index import exponents
from benchmarks.index_report import index_markdown
from benchmarks.index_timing import SHARES, bandwidth, filtered, timings
from benchmarks.index_vectors import Noise, Real, extend, nearest_similarities, similarity
from benchmarks.peers.usearch_graph import UsearchGraph
from corpus.errors import ConfigError
from retrieval.config import VectorIndexConfig
from retrieval.vectors.vector_index import VectorIndex


def clustered(n, seed):
    """A few topics in few of 32 directions, as texts have them."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).normal(size=(20, 6))
    rows = (topics[rng.integers(0, 20, n)] + 0.3 * rng.normal(size=(n, 6))) @ np.eye(6, 32)
    rows += 0.02 * rng.normal(size=(n, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


REAL = clustered(1500, seed=1)


def test_made_up_items_follow_the_real_ones_and_smaller_files_are_their_beginning(tmp_path):
    vectors = extend(REAL, 70_000, tmp_path / "a.npy", seed=3)
    assert (vectors.shape, vectors.dtype) == ((70_000, 32), np.float32)
    np.testing.assert_array_equal(vectors[:1500], REAL)
    np.testing.assert_allclose(np.linalg.norm(vectors[1500:], axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors[1500:], axis=0)) == 68_500
    np.testing.assert_array_equal(extend(REAL, 3000, tmp_path / "b.npy", seed=3)[:1500], vectors[:1500])
    np.testing.assert_array_equal(extend(REAL, 67_500, tmp_path / "c.npy", seed=3), vectors[:67_500])
    np.testing.assert_array_equal(extend(REAL, 40, tmp_path / "none.npy", seed=3), REAL[:40])
    assert not (tmp_path / "none.npy").exists()


def test_made_up_items_differ_as_real_items_do_in_direction_and_distance():
    made = Noise(REAL, 3).made_up(1500, 0)
    spread = np.linalg.svd(made - made.mean(0), compute_uv=False) ** 2
    assert spread[:6].sum() / spread.sum() > 0.95  # isotropic noise would leave the six directions
    found = similarity(REAL, 3)
    assert abs(found["real"]["p50"] - found["made up"]["p50"]) < 0.1


def test_the_nearest_other_item_is_not_the_item_itself():
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    assert sorted(nearest_similarities(vectors, 0).tolist()) == pytest.approx([0.6, 0.8, 0.8])


def test_growth_is_the_slope_between_the_smallest_and_the_largest_size():
    def at(p50):
        return {"at": {"0.95": {"p50": p50}}}

    sizes = {"100": {"flat": at(1.0), "hnsw": at(2.0)}, "10000": {"flat": at(100.0), "hnsw": at(4.0), "sq8": at(1.0)}}
    assert exponents(sizes, 8) == {"auto": 1.0, "flat": 1.0, "hnsw": 0.151}  # log 2 / log 100
    larger = {"100": sizes["100"], "1000000": {"flat": at(1e4), "hnsw": at(10.0)}}
    assert exponents(larger, 8)["auto"] == 0.25  # flat, then a graph


def test_timings_and_bandwidth_are_of_real_work(monkeypatch):
    monkeypatch.setattr(index_timing, "TIMED_SECONDS", 0.05)
    monkeypatch.setattr(index_timing, "READ_BYTES", 2**20)
    calls = []
    found = timings(calls.append, REAL[:50])
    assert 0 < found["p50"] <= found["p99"]
    assert found["qps"] > 0
    assert len(calls) == 1 + 50 + index_timing.n_cores() * 50
    assert bandwidth()["one"] > 1e6


def test_filters_are_measured_against_exact_search(monkeypatch):
    monkeypatch.setattr(index_timing, "TIMED_SECONDS", 0.0)
    index = VectorIndex.build(REAL, VectorIndexConfig(kind="ivf_flat", nprobe=1))
    found = filtered(index, clustered(30, seed=2), seed=1)
    assert list(found) == [f"{share:g}" for share in SHARES]
    assert found["0.01"]["recall"] == 1  # so few are compared exactly
    assert 0 < found["0.5"]["recall"] <= 1


def test_the_peer_finds_what_exact_search_finds():
    graph = UsearchGraph(REAL, m=16, ef_construction=100)
    graph.set_breadth(200)
    queries = clustered(20, seed=2)
    want = np.argsort(-(queries @ REAL.T), axis=1)[:, :10]
    got = graph.search(queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(got.tolist(), want.tolist(), strict=True)]) > 0.95
    assert graph.search(queries[0], 10).shape == (10,)
    assert graph.size_bytes > REAL.nbytes


@pytest.fixture
def quick(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(index_timing, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(index_timing, "READ_BYTES", 2**20)
    real = Real(items=REAL, queries=clustered(40, seed=2))
    monkeypatch.setattr(benchmark, "load_real", lambda *_, **__: real)
    return tmp_path


def test_a_run_writes_its_results_and_a_second_one_measures_only_what_is_missing(quick, monkeypatch):
    benchmark.index(sizes="400,2500", kinds="ivf_pq,usearch", stores=quick, shared=quick, real=None, seed=0)
    document = json.loads((quick / "results" / "index.json").read_text())
    assert list(document["sizes"]) == ["400", "2500"]
    for size in document["sizes"].values():
        assert list(size) == ["flat", "ivf_pq", "usearch"]
        assert size["ivf_pq"]["at"]["0.99"]["recall"] > 0.9
        assert size["ivf_pq"]["curve"]
        assert size["flat"]["times_floor"] > 0
    assert {"auto", "ivf_pq", "usearch", "flat"} == set(document["exponents"])
    assert document["versions"]["usearch"]
    assert document["machine"]["n_cores"] > 0
    text = (quick / "results" / "index.md").read_text()
    assert text == index_markdown(document)
    assert "| usearch |" in text
    assert (quick / "results" / "index.png").read_bytes().startswith(b"\x89PNG")

    measured = []
    kept = benchmark._measure_kind
    monkeypatch.setattr(benchmark, "_measure_kind", lambda *args: measured.append(args[2].kind) or kept(*args))
    benchmark.index(sizes="400,2500", kinds="ivf_pq,sq8", stores=quick, shared=quick, real=None, seed=0)
    assert measured == ["sq8", "sq8"]


def test_what_would_take_too_long_or_too_much_is_said_so():
    assert "hours" in benchmark._skipped("hnsw", 10**7, 384)
    assert "hours" in benchmark._skipped("usearch", 10**7, 384)
    assert "12 GiB" in benchmark._skipped("ivf_flat", 10**7, 384)  # 15.4 GB
    assert benchmark._skipped("ivf_pq", 10**7, 384) is None
    assert benchmark._skipped("hnsw", 10**6, 384) is None


def test_an_unknown_kind_is_refused(quick):
    with pytest.raises(ConfigError, match="got hsnw"):
        benchmark.index(sizes="10", kinds="hsnw", stores=quick, shared=quick, real=None, seed=0)


def test_titles_and_queries_are_read_from_the_data_sets(tmp_path):
    with gzip.open(tmp_path / "catalogue.jsonl.gz", "wt") as file:
        file.write('{"item_id": "1", "title": " Red Shoe "}\n{"item_id": "2", "title": ""}\n')
    with gzip.open(tmp_path / "clicks.csv.gz", "wt") as file:
        file.write("user,query\nu1,Red  SHOE\nu2,red shoe\nu3,\n")
    assert index_vectors._titles(tmp_path / "catalogue.jsonl.gz") == ["Red Shoe"]
    assert set(index_vectors._queries(tmp_path / "clicks.csv.gz")) == {"red shoe"}
