import shutil

import numpy as np
import pytest

from corpus.errors import InputError, ModelIndexMismatch
from retrieval.config import BehaviourConfig, FusionConfig, LexicalConfig, RetrieverConfig, VectorIndexConfig
from retrieval.engines.encoder import open_torch_encoder
from retrieval.event_log.query_log import QueryLog
from retrieval.filtering.row_set import RowSet
from retrieval.fusion import Figures, FusionWeights, fit_fusion
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.model_info import FusionInfo, RetrieverModelInfo
from retrieval.passages import passages
from retrieval.retriever import Retriever, build_retriever
from retrieval.vectors.vector_index import VectorIndex

CONFIG = RetrieverConfig(base_model="tiny", max_item_tokens=24, max_query_tokens=16)
QUERIES = ["red acme running shoe", "steel pan", "nordly", "zzz"]


@pytest.fixture(scope="module")
def model_dir(tiny_encoder_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions") / "v1"
    shutil.copytree(tiny_encoder_folder, folder / "model")
    info = RetrieverModelInfo(
        fingerprint="f",
        base_model="tiny",
        dim=32,
        config=CONFIG,
        data_fingerprint="d",
        n_pairs=1,
        n_steps=1,
        seed=1,
        metrics={},
        fusion=FusionInfo(weights=FusionWeights(dense=0.7, behaviour=0.2)),
        packages={},
    )
    (folder / "model.json").write_text(info.model_dump_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def retriever(tiny_items, model_dir, cache):
    return build_retriever(tiny_items, model_dir, CONFIG, cache, weights=FusionWeights(dense=0.6))


@pytest.fixture(scope="module")
def vectors(tiny_items, model_dir):
    encoder = open_torch_encoder(model_dir / "model", role="item", max_tokens=24)
    return encoder.encode(passages(tiny_items, CONFIG.item_fields))


@pytest.fixture(scope="module")
def query_vectors(model_dir):
    return open_torch_encoder(model_dir / "model", role="query", max_tokens=16).encode(QUERIES)


def test_candidates_carry_exact_scores_of_both_channels(retriever, vectors, query_vectors):
    for query, vector in zip(QUERIES, query_vectors, strict=True):
        got = retriever.retrieve(query, 20)
        rows, bm25 = retriever.lexical_index.search(query, 20)
        want = dict(zip(rows.tolist(), bm25.tolist(), strict=True))
        assert len(got) == len(set(got.rows.tolist())) == 20
        np.testing.assert_allclose(got.dense, vectors[got.rows] @ vector, atol=1e-5)
        np.testing.assert_allclose(got.lexical, [want.get(row, np.nan) for row in got.rows.tolist()])
        best = bm25.max(initial=0)
        lexical = np.nan_to_num(got.lexical) / (best if best > 0 else 1)
        np.testing.assert_allclose(got.scores, 0.6 * got.dense + 0.4 * lexical, atol=1e-5)
        assert (np.diff(got.scores) <= 0).all()


def test_no_candidate_of_either_channel_is_lost(retriever, vectors, query_vectors):
    pool = retriever.pools(["red acme running shoe"], 5)[0]
    dense = np.argsort(-(vectors @ query_vectors[0]), kind="stable")[:5]
    lexical, _ = retriever.lexical_index.search("red acme running shoe", 5)
    assert set(pool.rows.tolist()) == set(dense.tolist()) | set(lexical.tolist())


def test_dense_alone_is_exact_search(retriever, vectors, query_vectors):
    got = retriever.with_weights(FusionWeights(dense=1.0)).retrieve_batch(QUERIES, 10)
    for candidates, vector in zip(got, query_vectors, strict=True):
        np.testing.assert_array_equal(candidates.rows, np.argsort(-(vectors @ vector), kind="stable")[:10])
        assert np.isnan(candidates.lexical).all()


def test_lexical_alone_is_bm25(retriever):
    lexical = retriever.with_weights(FusionWeights(dense=0.0))
    for query in QUERIES:
        got, (rows, bm25) = lexical.retrieve(query, 10), retriever.lexical_index.search(query, 10)
        assert len(got) == len(rows)
        np.testing.assert_array_equal(got.lexical, bm25)
    assert len(lexical.retrieve("zzz", 10)) == 0


def test_one_by_one_equals_all_at_once(retriever):
    together = retriever.retrieve_batch(QUERIES, 7)
    for query, want in zip(QUERIES, together, strict=True):
        got = retriever.retrieve(query, 7)
        np.testing.assert_array_equal(got.rows, want.rows)
        np.testing.assert_allclose(got.scores, want.scores, atol=1e-5)


def test_a_page_is_full_and_ends_with_the_catalogue(retriever):
    assert len(retriever.retrieve("steel pan", 59)) == 59
    assert sorted(retriever.retrieve("steel pan", 1000).rows.tolist()) == list(range(60))


def test_no_queries_give_no_candidates(retriever):
    assert retriever.retrieve_batch([], 5) == []


def test_depth_below_one_is_refused(retriever):
    with pytest.raises(InputError):
        retriever.retrieve("mug", 0)


def test_exact_retrieval_ignores_the_graph(retriever, vectors, tiny_items):
    graph = VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=2, ef_construction=1, ef_search=1))
    approximate = Retriever(retriever.encoder, graph, retriever.lexical_index, retriever.weights)
    for query in QUERIES:
        got, want = approximate.retrieve(query, 10, exact=True), retriever.retrieve(query, 10)
        np.testing.assert_array_equal(got.rows, want.rows)


def test_a_rebuild_reuses_cached_embeddings(retriever, tiny_items, model_dir, cache, caplog):
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    build_retriever(tiny_items, model_dir, CONFIG, cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == files


def test_weights_come_from_the_caller_then_the_configuration_then_what_was_fitted(tiny_items, model_dir, cache):
    def weights(config, **given):
        return build_retriever(tiny_items, model_dir, config, cache, **given).weights

    dense = CONFIG.model_copy(update={"fusion": FusionConfig(dense_weight=0.3)})
    behaviour = CONFIG.model_copy(update={"fusion": FusionConfig(behaviour_weight=0.0)})
    assert weights(dense, weights=FusionWeights(dense=0.8)) == FusionWeights(dense=0.8)
    assert weights(dense) == FusionWeights(dense=0.3, behaviour=0.2)
    assert weights(behaviour) == FusionWeights(dense=0.7, behaviour=0.0)
    assert weights(CONFIG) == FusionWeights(dense=0.7, behaviour=0.2)


@pytest.fixture(scope="module")
def log(query_vectors):
    """After "steel pan", item 59 was chosen thrice and item 3 once; nothing else was ever asked."""
    pairs = (np.zeros(2, dtype=np.int64), np.array([59, 3]), np.array([3, 1], dtype=np.float32))
    return QueryLog.build(["steel pan"], query_vectors[1:2], pairs, BehaviourConfig(prior=1.0))


def test_what_the_log_knows_joins_with_its_weight(retriever, log):
    words_first = retriever.with_weights(FusionWeights(dense=0.0))
    weights = FusionWeights(dense=0.0, behaviour=0.5)
    got = words_first.with_query_log(log).with_weights(weights).retrieve("steel pan", 10)
    # this very query: 3 / (4 + 1) and 1 / (4 + 1); no word of either item is in the query
    assert dict(zip(got.rows.tolist(), got.behaviour.tolist(), strict=True)) == {
        **dict.fromkeys(words_first.retrieve("steel pan", 10).rows.tolist(), 0.0),
        59: pytest.approx(0.6, abs=1e-5),
        3: pytest.approx(0.2, abs=1e-5),
    }
    score_of = dict(zip(got.rows.tolist(), got.scores.tolist(), strict=True))
    assert score_of[59] == pytest.approx(0.5 * 0.6, abs=1e-5)
    assert got.scores[0] == pytest.approx(0.5 * 1.0)  # the best of the words


def test_a_log_of_no_weight_is_not_asked(retriever, log):
    class Silent:
        dim = None

        def search(self, vector, k, *, allowed=None):
            raise AssertionError("asked")

    got = retriever.with_query_log(Silent()).retrieve("steel pan", 10)
    want = retriever.retrieve("steel pan", 10)
    np.testing.assert_array_equal(got.rows, want.rows)
    assert not got.behaviour.any()
    asking = retriever.with_query_log(Silent()).with_weights(FusionWeights(dense=0.6, behaviour=0.1))
    with pytest.raises(AssertionError, match="asked"):
        asking.retrieve("steel pan", 10)


def test_pools_hold_what_the_log_found_whatever_it_weighs(retriever, log):
    pool = retriever.with_query_log(log).pools(["steel pan"], 5)[0]
    assert set(pool.rows[pool.behaviour > 0].tolist()) == {3, 59}
    assert not retriever.pools(["steel pan"], 5)[0].behaviour.any()


def test_fusion_is_fitted_on_the_retrievers_own_pools(retriever, tiny_prepared):
    examples = tiny_prepared.examples("valid")
    report = fit_fusion(retriever, examples, depth=20)
    # queries name colour or brand and kind: words find them, random weights do not
    assert report.lexical_alone.mrr > report.dense_alone.mrr
    assert report.chosen == report.text
    assert report.text.mean >= report.lexical_alone.mean
    assert report.weights.behaviour == 0.0  # it has no log
    assert report.behaviour_alone == Figures(mrr=0.0, recall=0.0)


def test_fusion_is_fitted_with_the_log_if_there_is_one(retriever, tiny_prepared):
    pairs = tiny_prepared.pairs("train")
    log = QueryLog.build(
        pairs.queries,
        retriever.encoder.encode(pairs.queries),
        (pairs.query, pairs.row, pairs.weight),
        BehaviourConfig(),
    )
    examples = tiny_prepared.examples("valid")
    report = fit_fusion(retriever.with_query_log(log), examples, depth=20)
    # the same queries come again and again, and lead to the same items
    assert report.behaviour_alone.mrr > report.dense_alone.mrr
    assert report.chosen.mean >= max(report.text.mean, report.behaviour_alone.mean)
    assert report.text == fit_fusion(retriever, examples, depth=20).text
    assert report.n_examples == len(examples)


def test_parts_that_do_not_belong_together_are_refused(retriever, vectors, tiny_items):
    flat = VectorIndexConfig(kind="flat")
    lexical = LexicalIndex.build(tiny_items, LexicalConfig())
    with pytest.raises(ModelIndexMismatch, match="32 dimensions, got 16"):
        Retriever(retriever.encoder, VectorIndex.build(vectors[:, :16], flat), lexical, retriever.weights)
    with pytest.raises(ModelIndexMismatch, match="59 vectors and 60 texts"):
        Retriever(retriever.encoder, VectorIndex.build(vectors[:59], flat), lexical, retriever.weights)


def test_every_channel_searches_among_the_allowed_rows_alone(retriever, log):
    asking = retriever.with_query_log(log).with_weights(FusionWeights(dense=0.5, behaviour=0.3))
    allowed = RowSet.of(np.array([3, 8, 21, 40]), 60)
    got = asking.retrieve("steel pan", 10, allowed=allowed)
    assert sorted(got.rows.tolist()) == [3, 8, 21, 40]  # all of them: a page is full whatever the filter
    assert got.behaviour[got.rows.tolist().index(3)] > 0
    found = asking.retrieve("steel pan", 60)
    for row, dense in zip(got.rows.tolist(), got.dense.tolist(), strict=True):
        assert dense == pytest.approx(found.dense[found.rows.tolist().index(row)], abs=1e-5)


def test_a_query_encoded_before_finds_the_same(retriever, monkeypatch):
    want = retriever.retrieve("steel pan", 9)
    vector = retriever.encode("steel pan")
    monkeypatch.setattr(retriever.encoder, "encode", lambda _: pytest.fail("encoded again"))
    found = retriever.retrieve("steel pan", 9, vector=vector)
    np.testing.assert_array_equal(found.rows, want.rows)
    np.testing.assert_array_equal(found.scores, want.scores)


def test_misspelt_words_are_looked_up_corrected_or_as_they_are(retriever):
    assert retriever.correct("steel pann") == "steel pan"
    assert retriever.correct("steel pan") is None
    assert not np.isnan(retriever.retrieve("turntabel", 60).lexical).all()
    assert np.isnan(retriever.retrieve("turntabel", 60, spelling=False).lexical).all()


def test_the_nearest_to_a_vector_are_found_among_the_allowed(retriever, vectors):
    rows, scores = retriever.near(vectors[7], 5)
    want = np.argsort(-(vectors @ vectors[7]), kind="stable")[:5]
    np.testing.assert_array_equal(rows, want)
    np.testing.assert_allclose(scores, (vectors @ vectors[7])[want], rtol=1e-5)
    allowed = RowSet.of(np.array([3, 8, 50]), 60)
    assert sorted(retriever.near(vectors[7], 9, allowed=allowed)[0]) == [3, 8, 50]
    assert retriever.present(allowed) is allowed
    assert retriever.present(None) is None
