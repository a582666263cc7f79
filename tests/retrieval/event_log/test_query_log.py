import hashlib
from math import exp

import numpy as np
import pytest
from pydantic import ValidationError

from corpus.errors import ArtefactError
from retrieval.config import BehaviourConfig
from retrieval.event_log.query_log import LARGEST_FLAT, NOTHING_CHOSEN, QueryLog, _index_config, query_hash

QUERIES = ["red shoe", "read shoe", "pan"]
VECTORS = np.array([[1, 0, 0], [0.96, 0.28, 0], [0, 0, 1]], dtype=np.float32)
# after "red shoe": item 7 twice (weights 1 and 2), item 3 once; after "read shoe": 3; after "pan": 5
PAIRS = (
    np.array([0, 1, 0, 2, 0]),
    np.array([7, 3, 3, 5, 7]),
    np.array([1.0, 0.5, 1.0, 4.0, 2.0], dtype=np.float32),
)
CONFIG = BehaviourConfig(temperature=0.1, prior=0.5, neighbours=2, max_items_per_query=10)


@pytest.fixture
def log() -> QueryLog:
    return QueryLog.build(QUERIES, VECTORS, PAIRS, CONFIG)


def test_the_choices_after_a_query_are_summed_most_chosen_first(log):
    chosen = log.chosen("red shoe")
    assert chosen.rows.tolist() == [7, 3]
    assert chosen.weights.tolist() == [3.0, 1.0]
    assert chosen.total == 4.0
    assert log.chosen("pan").rows.tolist() == [5]
    assert len(log) == 3


def test_a_query_that_nobody_asked_chose_nothing(log):
    for query in ("red shoes", "", "Red shoe"):
        assert log.chosen(query) is NOTHING_CHOSEN
    assert NOTHING_CHOSEN.total == 0.0


def test_the_total_counts_items_past_the_list_kept():
    log = QueryLog.build(QUERIES, VECTORS, PAIRS, CONFIG.model_copy(update={"max_items_per_query": 1}))
    chosen = log.chosen("red shoe")
    assert (chosen.rows.tolist(), chosen.total) == ([7], 4.0)
    rows, scores = log.search(VECTORS[0], 5)
    a = exp((0.96 - 1) / 0.1)
    assert rows.tolist() == [7, 3]
    np.testing.assert_allclose(scores, [3 / (4 + a * 0.5 + 0.5), a * 0.5 / (4 + a * 0.5 + 0.5)], rtol=1e-5)


def test_the_score_is_the_kernel_estimate_of_the_share_of_searches(log):
    rows, scores = log.search(VECTORS[0], 10)
    # the two nearest: itself (a = 1, total 4) and "read shoe" (cosine .96, total .5)
    a = exp((0.96 - 1) / 0.1)
    mass = 1 * 4 + a * 0.5 + 0.5
    assert rows.tolist() == [7, 3]
    np.testing.assert_allclose(scores, [3 / mass, (1 + a * 0.5) / mass], rtol=1e-5)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


def test_a_new_query_borrows_from_those_like_it(log):
    vector = np.array([0.6, 0.8, 0], dtype=np.float32)
    rows, scores = log.search(vector, 10)
    # nearest: "read shoe" (.96 * .6 + .28 * .8 = .8) before "red shoe" (.6)
    red, read = exp((0.6 - 1) / 0.1), exp((0.8 - 1) / 0.1)
    mass = red * 4 + read * 0.5 + 0.5
    assert rows.tolist() == [3, 7]
    np.testing.assert_allclose(scores, [(red + read * 0.5) / mass, red * 3 / mass], rtol=1e-4)


def test_a_query_unlike_any_logged_one_learns_next_to_nothing(log):
    _, scores = log.search(-VECTORS[2], 10)
    assert (scores < 0.01).all()


def test_a_query_that_is_worlds_apart_finds_nothing_rather_than_no_number():
    log = QueryLog.build(QUERIES, VECTORS, PAIRS, CONFIG.model_copy(update={"temperature": 0.005, "prior": 1e-6}))
    _, scores = log.search(-VECTORS[2], 10)
    assert scores.tolist() == [0.0] * len(scores)  # e^-400 is none in float32
    with pytest.raises(ValidationError, match="prior"):
        BehaviourConfig(prior=0.0)  # nothing divided by nothing


def test_a_query_asked_once_is_no_certainty():
    log = QueryLog.build(["pan"], VECTORS[2:], (np.array([0]), np.array([5]), np.ones(1, dtype=np.float32)), CONFIG)
    rows, scores = log.search(VECTORS[2], 10)
    assert rows.tolist() == [5]
    np.testing.assert_allclose(scores, [1 / 1.5], rtol=1e-6)


def test_only_the_nearest_queries_have_a_say():
    log = QueryLog.build(QUERIES, VECTORS, PAIRS, CONFIG.model_copy(update={"neighbours": 1}))
    rows, scores = log.search(VECTORS[0], 10)
    assert rows.tolist() == [7, 3]
    np.testing.assert_allclose(scores, [3 / 4.5, 1 / 4.5], rtol=1e-6)


def test_search_keeps_the_k_best_and_equal_scores_come_in_row_order():
    pairs = (np.zeros(3, dtype=np.int64), np.array([9, 2, 4]), np.array([1, 1, 2], dtype=np.float32))
    log = QueryLog.build(["pan"], VECTORS[2:], pairs, CONFIG)
    assert log.search(VECTORS[2], 10)[0].tolist() == [4, 2, 9]
    assert log.search(VECTORS[2], 2)[0].tolist() == [4, 2]


def test_the_order_that_queries_are_given_in_does_not_matter(log):
    turned = QueryLog.build(QUERIES[::-1], VECTORS[::-1].copy(), (2 - PAIRS[0], PAIRS[1], PAIRS[2]), CONFIG)
    np.testing.assert_array_equal(turned.hashes, log.hashes)
    np.testing.assert_array_equal(turned.totals, log.totals)
    for vector in VECTORS:
        for got, want in zip(turned.search(vector, 9), log.search(vector, 9), strict=True):
            np.testing.assert_array_equal(got, want)


def test_an_empty_log_finds_nothing():
    empty = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    log = QueryLog.build([], np.empty((0, 3), dtype=np.float32), empty, CONFIG)
    rows, scores = log.search(VECTORS[0], 5)
    assert (len(log), rows.tolist(), scores.tolist()) == (0, [], [])
    assert log.chosen("pan") is NOTHING_CHOSEN


def test_a_query_is_kept_as_eight_bytes_of_its_digest():
    assert query_hash("pan") == int.from_bytes(hashlib.blake2b(b"pan", digest_size=8).digest(), "big")
    assert query_hash("pan") != query_hash("pans")
    assert query_hash("lone \ud800 surrogate") != query_hash("lone \ud801 surrogate")


def test_no_query_text_reaches_the_disk(log, tmp_path):
    log.save(tmp_path)
    for path in tmp_path.iterdir():
        assert b"shoe" not in path.read_bytes()


def test_a_log_survives_the_disk(log, tmp_path):
    log.save(tmp_path)
    loaded = QueryLog.load(tmp_path, CONFIG, n_items=8)
    for query in (*QUERIES, "sandal"):
        want = log.chosen(query)
        got = loaded.chosen(query)
        assert (got.rows.tolist(), got.weights.tolist(), got.total) == (
            want.rows.tolist(),
            want.weights.tolist(),
            want.total,
        )
    for vector in VECTORS:
        for one, other in zip(loaded.search(vector, 9), log.search(vector, 9), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_empty_log_survives_the_disk(tmp_path):
    empty = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    QueryLog.build([], np.empty((0, 3), dtype=np.float32), empty, CONFIG).save(tmp_path)
    assert len(QueryLog.load(tmp_path, CONFIG, n_items=8)) == 0


def test_a_log_of_another_catalogue_is_refused(log, tmp_path):
    log.save(tmp_path)
    with pytest.raises(ArtefactError, match="7 items"):
        QueryLog.load(tmp_path, CONFIG, n_items=7)


@pytest.mark.parametrize(
    "name", ["query_hashes.npy", "query_totals.npy", "choices_rows.npy", "choices_values.npy", "query_vectors.npy"]
)
def test_a_missing_or_cut_file_is_refused(log, tmp_path, name):
    log.save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtefactError):
        QueryLog.load(tmp_path, CONFIG, n_items=8)
    (tmp_path / name).unlink()
    with pytest.raises(ArtefactError):
        QueryLog.load(tmp_path, CONFIG, n_items=8)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("query_hashes.npy", np.arange(2, dtype=np.uint64)),
        ("query_hashes.npy", np.arange(3, dtype=np.int64)),
        ("query_totals.npy", np.ones(4, dtype=np.float32)),
        ("query_totals.npy", np.ones(3)),
        ("choices_offsets.npy", np.array([0, 2, 4])),
    ],
)
def test_parts_that_do_not_fit_are_refused(log, tmp_path, name, array):
    log.save(tmp_path)
    np.save(tmp_path / name, array)
    with pytest.raises(ArtefactError, match="build the bundle again"):
        QueryLog.load(tmp_path, CONFIG, n_items=8)


def test_an_index_of_other_queries_is_refused(log, tmp_path):
    log.save(tmp_path)
    other = QueryLog.build(QUERIES[:2], VECTORS[:2], tuple(part[:2] for part in PAIRS), CONFIG)
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    (tmp_path / "query_vectors.npy").write_bytes((tmp_path / "other" / "query_vectors.npy").read_bytes())
    with pytest.raises(ArtefactError, match="parts fit"):
        QueryLog.load(tmp_path, CONFIG, n_items=8)


def test_a_large_log_is_searched_by_a_graph():
    assert _index_config(LARGEST_FLAT).kind == "flat"
    assert _index_config(LARGEST_FLAT + 1).kind == "hnsw"
