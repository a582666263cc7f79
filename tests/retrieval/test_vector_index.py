import faiss
import numpy as np
import pytest

from corpus.errors import ArtefactError, ConfigError, DeviceUnavailable, DimensionMismatch, InputError, UnknownItem
from retrieval import vector_index
from retrieval.config import VectorIndexConfig
from retrieval.row_set import RowSet
from retrieval.vector_index import VectorIndex

FLAT = VectorIndexConfig(kind="flat")
HNSW = VectorIndexConfig(kind="hnsw", m=16, ef_construction=100, ef_search=64)


def unit(n, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return unit(2000, 24, seed=1)


@pytest.fixture(scope="module")
def queries():
    return unit(50, 24, seed=2)


@pytest.fixture(scope="module")
def graph(vectors):
    return VectorIndex.build(vectors, HNSW)


def exact(queries, vectors, k):
    return np.argsort(-(queries @ vectors.T), kind="stable", axis=1)[:, :k]


def test_flat_index_matches_exact_search(vectors, queries):
    hits = VectorIndex.build(vectors, FLAT).search(queries, 10)
    want = exact(queries, vectors, 10)
    np.testing.assert_array_equal(hits.ids, want)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(queries @ vectors.T, want, 1), atol=1e-6)
    assert hits.ids.dtype == np.int64
    assert hits.scores.dtype == np.float32


def test_graph_finds_nearly_all_that_exact_search_finds(vectors, queries, graph):
    want = exact(queries, vectors, 10)
    got = graph.search(queries, 10).ids
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(got.tolist(), want.tolist(), strict=True)])
    assert recall >= 0.95


def test_graph_searches_exactly_on_request(vectors, queries, graph):
    np.testing.assert_array_equal(graph.search(queries, 10, exact=True).ids, exact(queries, vectors, 10))


@pytest.mark.parametrize("config", [FLAT, HNSW], ids=["flat", "hnsw"])
def test_search_returns_everything_without_padding_when_k_exceeds_the_size(config):
    index = VectorIndex.build(unit(7, 8, seed=3), config)
    rows, scores = index.search_one(unit(1, 8, seed=4)[0], 50)
    assert sorted(rows.tolist()) == list(range(7))
    assert (np.diff(scores) <= 0).all()
    assert index.search(unit(2, 8, seed=4), 50).ids.shape == (2, 7)


def test_a_page_is_full_even_if_the_graph_leads_nowhere(vectors):
    # all edges cut: the graph reaches its entry point only
    index = VectorIndex.build(vectors[:100], HNSW)
    links = faiss.vector_to_array(index._index.hnsw.neighbors)
    faiss.copy_array_to_vector(np.full_like(links, -1), index._index.hnsw.neighbors)
    rows, _ = index.search_one(vectors[5], 20)
    np.testing.assert_array_equal(rows, exact(vectors[5:6], vectors[:100], 20)[0])


def test_a_beam_narrower_than_k_still_fills_the_page(vectors):
    index = VectorIndex.build(vectors, HNSW.model_copy(update={"ef_search": 1}))
    rows, _ = index.search_one(vectors[0], 300)
    assert len(rows) == len(set(rows.tolist())) == 300


def test_equal_scores_come_in_row_order():
    vectors = np.tile(unit(1, 4, seed=5), (6, 1))
    rows, _ = VectorIndex.build(vectors, FLAT).search_one(vectors[0], 6)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("config", [FLAT, HNSW], ids=["flat", "hnsw"])
def test_index_survives_a_round_trip(config, vectors, queries, tmp_path):
    index = VectorIndex.build(vectors, config)
    index.save(tmp_path / "vector.index")
    loaded = VectorIndex.load(tmp_path / "vector.index", config)
    assert (len(loaded), loaded.dim) == (2000, 24)
    np.testing.assert_array_equal(loaded.search(queries, 7).ids, index.search(queries, 7).ids)
    np.testing.assert_array_equal(loaded.vectors_of(np.array([1999, 0, 3])), vectors[[1999, 0, 3]])


def test_loading_another_kind_is_refused(vectors, tmp_path):
    VectorIndex.build(vectors[:10], FLAT).save(tmp_path / "vector.index")
    with pytest.raises(ArtefactError, match="kind hnsw"):
        VectorIndex.load(tmp_path / "vector.index", HNSW)


def test_loading_another_metric_is_refused(tmp_path):
    faiss.write_index(faiss.IndexFlatL2(4), str(tmp_path / "vector.index"))
    with pytest.raises(ArtefactError, match="inner-product"):
        VectorIndex.load(tmp_path / "vector.index", FLAT)


def test_a_missing_or_truncated_file_is_an_artefact_error(vectors, tmp_path):
    path = tmp_path / "vector.index"
    with pytest.raises(ArtefactError, match="build the bundle again"):
        VectorIndex.load(path, FLAT)
    VectorIndex.build(vectors, FLAT).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="build the bundle again"):
        VectorIndex.load(path, FLAT)


def test_saving_into_a_missing_folder_is_an_artefact_error(vectors, tmp_path):
    with pytest.raises(ArtefactError, match="check the folder"):
        VectorIndex.build(vectors[:5], FLAT).save(tmp_path / "missing" / "vector.index")


def test_bad_queries_are_refused(graph):
    with pytest.raises(DimensionMismatch):
        graph.search(np.zeros((1, 23), dtype=np.float32), 5)
    with pytest.raises(DimensionMismatch):
        graph.search_one(np.zeros((1, 24), dtype=np.float32), 5)
    with pytest.raises(InputError, match="finite"):
        graph.search_one(np.full(24, np.nan, dtype=np.float32), 5)
    with pytest.raises(InputError, match="at least 1"):
        graph.search_one(np.zeros(24, dtype=np.float32), 0)


def test_vectors_of_rows_outside_the_index_are_refused(graph):
    for row in (-1, 2000):
        with pytest.raises(UnknownItem, match="2000"):
            graph.vectors_of(np.array([0, row]))
    assert graph.vectors_of(np.array([], dtype=np.int64)).shape == (0, 24)


def test_an_empty_index_finds_nothing():
    index = VectorIndex.build(np.empty((0, 4), dtype=np.float32), FLAT)
    rows, scores = index.search_one(np.ones(4, dtype=np.float32), 3)
    assert (len(rows), len(scores)) == (0, 0)


def test_a_gpu_that_is_not_there_is_said_so(vectors):
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
        pytest.skip("FAISS has a GPU here")
    with pytest.raises(DeviceUnavailable, match="device to cpu"):
        VectorIndex.build(vectors[:5], VectorIndexConfig(kind="flat", device="gpu"))


def test_a_graph_on_a_gpu_is_refused(vectors):
    with pytest.raises(ConfigError, match="flat"):
        VectorIndex.build(vectors[:5], VectorIndexConfig(kind="hnsw", device="gpu"))


@pytest.mark.gpu
def test_gpu_matches_cpu(vectors, queries):
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() < 1:
        pytest.skip("FAISS has no GPU here")
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="flat", device="gpu"))
    np.testing.assert_array_equal(index.search(queries, 10).ids, exact(queries, vectors, 10))


@pytest.mark.parametrize("n_allowed", [3, 40, 700], ids=["fewer than k", "few", "many"])
@pytest.mark.parametrize("config", [FLAT, HNSW], ids=["flat", "hnsw"])
def test_search_among_some_rows_fills_the_page_with_the_best_of_them(vectors, queries, config, n_allowed, monkeypatch):
    monkeypatch.setattr(vector_index, "FEW_ROWS", 100)
    rows = np.random.default_rng(5).choice(2000, n_allowed, replace=False)
    hits = VectorIndex.build(vectors, config).search(queries, 10, allowed=RowSet.of(rows, 2000))
    rows = np.sort(rows)
    want = rows[exact(queries, vectors[rows], 10)]
    assert hits.ids.shape == want.shape
    assert set(hits.ids.ravel()) <= set(rows)
    recall = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(hits.ids.tolist(), want.tolist(), strict=True)])
    assert recall >= (0.95 if config is HNSW else 1)


def test_rows_of_another_catalogue_are_refused(vectors, queries):
    with pytest.raises(InputError, match="catalogue of 2000 items, got ones of 5"):
        VectorIndex.build(vectors, FLAT).search(queries, 3, allowed=RowSet.of(np.array([1]), 5))
