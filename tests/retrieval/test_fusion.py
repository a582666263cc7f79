from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import ValidationError

from corpus.errors import InputError
from corpus.prepared import Example, Label
from retrieval.fusion import Figures, FusionWeights, fit_fusion, fuse, fuse_reciprocal_rank, make_pool

COSINES = np.array([0.9, 0.8, 0.1, 0.5, -0.2], dtype=np.float32)
EVEN = FusionWeights(dense=0.5)
MOSTLY_DENSE = FusionWeights(dense=0.75)


def hits(*pairs):
    return np.array([row for row, _ in pairs], dtype=np.int64), np.array(
        [score for _, score in pairs], dtype=np.float32
    )


@pytest.fixture
def pool():
    # dense finds 0, 1; lexical finds 4, 1, 3; the log finds 2, 1
    return make_pool(
        hits((0, 0.9), (1, 0.8)), hits((4, 10.0), (1, 6.0), (3, 2.0)), hits((2, 0.6), (1, 0.3)), COSINES.__getitem__
    )


def test_pool_is_the_union_with_exact_dense_scores(pool):
    assert pool.rows.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(pool.dense, [0.9, 0.8, 0.1, 0.5, -0.2])
    np.testing.assert_allclose(pool.lexical, [np.nan, 6, np.nan, 2, 10])
    np.testing.assert_allclose(pool.behaviour, [0, 0.3, 0.6, 0, 0])
    assert pool.dense_rank.tolist() == [1, 2, 0, 0, 0]
    assert pool.lexical_rank.tolist() == [0, 2, 0, 3, 1]


def test_dense_scores_are_asked_for_only_where_they_are_missing():
    asked = []

    def dense_of(rows):
        asked.extend(rows.tolist())
        return COSINES[rows]

    make_pool(hits((1, 0.8), (0, 0.7)), hits((1, 3.0), (3, 1.0)), hits((0, 0.2), (2, 0.1)), dense_of)
    assert asked == [2, 3]
    make_pool(hits((1, 0.8)), hits((1, 3.0)), hits((1, 0.2)), dense_of)
    assert asked == [2, 3]


def test_fused_score_is_the_convex_combination(pool):
    got = fuse(pool, MOSTLY_DENSE, k=10)
    # 0: .675 + 0; 1: .6 + .25 * .6 = .75; 3: .375 + .25 * .2 = .425; 4: -.15 + .25 = .1
    assert got.rows.tolist() == [1, 0, 3, 4]
    np.testing.assert_allclose(got.scores, [0.75, 0.675, 0.425, 0.1], atol=1e-6)
    np.testing.assert_allclose(got.dense, [0.8, 0.9, 0.5, -0.2])
    np.testing.assert_allclose(got.lexical, [6, np.nan, 2, 10])
    np.testing.assert_allclose(got.behaviour, [0.3, 0, 0, 0])  # carried along, though it weighs nothing
    assert {array.dtype for array in (got.scores, got.dense, got.lexical, got.behaviour)} == {np.dtype(np.float32)}
    assert got.rows.dtype == np.int64


def test_behaviour_adds_its_share_and_its_own_candidates(pool):
    got = fuse(pool, FusionWeights(dense=0.75, behaviour=0.2), k=10)
    # text as above, and .75 * .1 = .075 for row 2; 0: .8 * .675 = .54; 1: .8 * .75 + .2 * .3 = .66;
    # 2: .8 * .075 + .2 * .6 = .18; 3: .8 * .425 = .34; 4: .8 * .1 = .08
    assert got.rows.tolist() == [1, 0, 3, 2, 4]
    np.testing.assert_allclose(got.scores, [0.66, 0.54, 0.34, 0.18, 0.08], atol=1e-6)
    np.testing.assert_allclose(got.behaviour, [0.3, 0, 0, 0.6, 0])
    assert np.isnan(got.lexical[3])


def test_words_that_weigh_nothing_add_no_candidates_beside_behaviour(pool):
    assert fuse(pool, FusionWeights(dense=1.0, behaviour=0.5), k=10).rows.tolist() == [1, 0, 2]
    assert fuse(pool, FusionWeights(dense=0.0, behaviour=0.5), k=10).rows.tolist() == [4, 1, 2, 3]


def test_fusion_keeps_the_k_best(pool):
    assert fuse(pool, MOSTLY_DENSE, k=2).rows.tolist() == [1, 0]


def test_weights_of_one_and_zero_are_each_channel_alone(pool):
    assert fuse(pool, FusionWeights(dense=1.0), k=10).rows.tolist() == [0, 1]
    lexical = fuse(pool, FusionWeights(dense=0.0), k=10)
    assert lexical.rows.tolist() == [4, 1, 3]
    np.testing.assert_allclose(lexical.scores, [1, 0.6, 0.2], atol=1e-6)


def test_equal_scores_come_by_dense_score_then_row():
    pool = make_pool(hits((7, 0.5), (2, 0.5)), hits(), hits(), COSINES.__getitem__)
    assert fuse(pool, EVEN, k=5).rows.tolist() == [2, 7]
    tied = make_pool(hits((0, 0.9)), hits((3, 4.0), (4, 4.0)), hits(), COSINES.__getitem__)
    assert fuse(tied, FusionWeights(dense=0.0), k=5).rows.tolist() == [3, 4]


def test_without_lexical_hits_only_the_dense_score_counts():
    pool = make_pool(hits((1, 0.8), (0, 0.4)), hits(), hits(), COSINES.__getitem__)
    got = fuse(pool, EVEN, k=5)
    assert got.rows.tolist() == [1, 0]
    np.testing.assert_allclose(got.scores, [0.4, 0.2])
    assert np.isnan(got.lexical).all()


def test_an_empty_pool_gives_no_candidates():
    pool = make_pool(hits(), hits(), hits(), COSINES.__getitem__)
    assert len(fuse(pool, EVEN, k=5)) == len(fuse_reciprocal_rank(pool, k=5)) == 0


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_zero_to_one_is_refused(weight):
    with pytest.raises(ValidationError, match="dense"):
        FusionWeights(dense=weight)
    with pytest.raises(ValidationError, match="behaviour"):
        FusionWeights(dense=0.5, behaviour=weight)


def test_behaviour_may_not_weigh_everything():
    with pytest.raises(ValidationError, match="behaviour"):
        FusionWeights(dense=0.5, behaviour=1.0)  # queries that nobody asked before would find nothing


def test_reciprocal_rank_fusion_matches_hand_worked_scores(pool):
    got = fuse_reciprocal_rank(pool, k=3)
    # 0: 1/61; 1: 1/62 + 1/62; 3: 1/63; 4: 1/61. 0 and 4 tie, and 0 has the greater dense score
    assert got.rows.tolist() == [1, 0, 4]
    np.testing.assert_allclose(got.scores, [2 / 62, 1 / 61, 1 / 61], rtol=1e-6)


class Source:
    """Two queries: dense ranks one answer well, lexical the other."""

    def __init__(self, pools):
        self.by_query = pools
        self.asked = []

    def pools(self, queries, k):
        self.asked.append((list(queries), k))
        return [self.by_query[query] for query in queries]


def example(query, *labels):
    return Example(
        query_id=query,
        query=query,
        user_id=None,
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        labels=tuple(Label(row=row, weight=weight, grade=3 * weight) for row, weight in labels),
        history=(),
    )


def test_fit_finds_the_weight_that_serves_both_kinds_of_query():
    source = Source(
        {
            # dense alone puts row 0 first; so does any weight above 1/3 (.5 w > 1 - w would be 2/3)
            "a": make_pool(hits((0, 0.9), (1, 0.4)), hits((1, 8.0)), hits(), COSINES.__getitem__),
            # lexical alone puts row 1 first; so does any weight below 1 / 1.1
            "b": make_pool(hits((0, 0.9), (1, 0.8)), hits((1, 8.0)), hits(), COSINES.__getitem__),
        }
    )
    examples = [example("a", (0, 1.0)), example("b", (1, 0.2)), example("c", (1, 0.0)), example("a", (0, 0.2))]
    report = fit_fusion(source, examples, depth=7)
    # a: .9 w > .4 w + 1 - w  <=>  w > 2/3; b: .8 w + 1 - w > .9 w  <=>  w < 10/11; the largest on the grid is .9
    assert report.weights == FusionWeights(dense=0.9, behaviour=0.0)
    assert report.chosen == report.text == Figures(mrr=1.0, recall=1.0)
    assert report.dense_alone.mrr == pytest.approx((1 + 1 + 0.5) / 3)
    assert report.lexical_alone.mrr == pytest.approx(1 / 3)  # it does not return row 0
    assert report.behaviour_alone == Figures(mrr=0.0, recall=0.0)
    # row 1 is in both channels: 1/62 + 1/61 beats row 0's 1/61
    assert report.reciprocal_rank.mrr == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert report.n_examples == 3
    assert source.asked == [(["a", "b"], 7)]


def test_fit_prefers_the_larger_of_equal_weights():
    source = Source({"a": make_pool(hits((0, 0.9)), hits((0, 2.0)), hits((0, 0.4)), COSINES.__getitem__)})
    # all orders are alike: of equals the most of embeddings and the least of the log
    assert fit_fusion(source, [example("a", (0, 1.0))]).weights == FusionWeights(dense=0.99, behaviour=0.0)


def test_fit_gives_the_log_no_more_weight_than_it_needs():
    source = Source(
        {
            # text puts row 0 first at every weight; with hardly any words the log puts row 1 first as soon as about
            # .8 (1 - b) + .6 b > .9 (1 - b)  <=>  b > 1/7
            "a": make_pool(hits((0, 0.9), (1, 0.8)), hits((0, 8.0)), hits((1, 0.6)), COSINES.__getitem__),
            "new": make_pool(hits((0, 0.9), (1, 0.8)), hits(), hits(), COSINES.__getitem__),
        }
    )
    report = fit_fusion(source, [example("a", (1, 1.0)), example("new", (0, 1.0))])
    assert report.weights == FusionWeights(dense=0.99, behaviour=0.2)
    assert report.chosen.mrr == 1.0
    assert report.text.mrr == pytest.approx((0.5 + 1) / 2)
    assert report.behaviour_alone.mrr == pytest.approx((1 + 0) / 2)


def test_fit_weighs_recall_as_much_as_the_rank():
    # row 0 leads by cosine, rows 1 and 2 by words; with two candidates, words alone find both relevant ones
    pool = make_pool(hits((0, 0.9), (1, 0.1)), hits((1, 8.0), (2, 7.0)), hits(), lambda rows: COSINES[rows])
    examples = [example("a", (1, 1.0), (2, 1.0))]
    report = fit_fusion(Source({"a": pool}), examples, depth=2)
    # 1 first: .1 w + 1 - w > .9 w  <=>  w < 1/1.8; 2 second: .1 w + .875 (1 - w) > .9 w  <=>  w < .875 / 1.675 = .522
    assert report.weights == FusionWeights(dense=0.5)
    assert report.chosen == Figures(mrr=1.0, recall=1.0)
    assert report.dense_alone == Figures(mrr=0.5, recall=0.5)
    assert report.lexical_alone == Figures(mrr=1.0, recall=1.0)
    # 1: 1/62 + 1/61, then 0: 1/61, then 2: 1/62
    assert report.reciprocal_rank == Figures(mrr=1.0, recall=0.5)
    assert report.depth == 2


def test_the_best_lexical_hits_keep_their_places_whatever_the_weight():
    # 40 dense hits, 0 first; the words find three others, all of them far from the query
    dense = hits(*((row, 1 - row / 100) for row in range(40)))
    lexical = hits((102, 9.0), (101, 8.0), (100, 7.0))
    pool = make_pool(dense, lexical, hits(), lambda rows: np.full(len(rows), -0.5))
    got = fuse(pool, FusionWeights(dense=0.99), k=35)
    assert got.rows.tolist() == [*range(9), 102, *range(9, 18), 101, *range(18, 27), 100, *range(27, 32)]
    # each has the score of what follows it
    assert (np.diff(got.scores) <= 0).all()
    assert got.scores[9] == got.scores[10] == pytest.approx(0.99 * 0.91)
    np.testing.assert_allclose(got.dense[[9, 19, 29]], -0.5)
    # a cut keeps the places: two of the first 29, none of the first 9
    assert fuse(pool, FusionWeights(dense=0.99), k=29).rows.tolist() == got.rows.tolist()[:29]
    assert fuse(pool, FusionWeights(dense=0.99), k=9).rows.tolist() == list(range(9))
    # either channel alone stays alone
    assert fuse(pool, FusionWeights(dense=1.0), k=35).rows.tolist() == list(range(35))
    assert fuse(pool, FusionWeights(dense=0.0), k=35).rows.tolist() == [102, 101, 100]


def test_a_lexical_hit_that_stands_higher_already_is_not_moved():
    dense = hits(*((row, 1 - row / 100) for row in range(25)))
    lexical = hits((4, 9.0), (15, 8.0), (24, 7.0))
    pool = make_pool(dense, lexical, hits(), lambda rows: np.full(len(rows), -0.5))
    rows = fuse(pool, FusionWeights(dense=0.99), k=25).rows.tolist()
    plain = (0.99 * pool.dense + 0.01 * np.nan_to_num(pool.lexical) / 9).astype(np.float32)
    assert rows == np.argsort(-plain, kind="stable").tolist()
    assert sorted(rows) == list(range(25))


def test_ranks_past_ten_count_nothing():
    dense = hits(*((row, 1 - row / 100) for row in range(12)))
    source = Source({"a": make_pool(dense, hits(), hits(), COSINES.__getitem__)})
    assert fit_fusion(source, [example("a", (9, 1.0))]).dense_alone.mrr == pytest.approx(0.1)
    assert fit_fusion(source, [example("a", (10, 1.0))]).dense_alone.mrr == 0


def test_fit_without_positive_labels_is_refused():
    with pytest.raises(InputError, match="positive label"):
        fit_fusion(Source({}), [example("a", (0, 0.0))])
