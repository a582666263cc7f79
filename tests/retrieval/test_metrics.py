import math

import numpy as np
import pytest

from corpus.errors import InputError
from retrieval.metrics import MEASURES, evaluate_rankings, paired_bootstrap


def judge(ranking, grades, **options):
    values = evaluate_rankings({"q": ranking}, {"q": grades}, **options)
    return {name: float(array[0]) for name, array in values.items()}


def test_measures_match_hand_worked_numbers():
    got = judge([7, 1, 8, 2, 9], {1: 1.0, 2: 3.0, 3: 2.0, 7: 0.0})
    dcg = 1 / math.log2(3) + 3 / math.log2(5)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert got["MRR@10"] == pytest.approx(1 / 2)
    assert got["nDCG@10"] == pytest.approx(dcg / ideal, abs=1e-6)
    assert got["hit@10"] == 1
    assert got["hit@100"] == 1
    assert got["recall@100"] == pytest.approx(2 / 3)
    assert tuple(got) == MEASURES


@pytest.mark.parametrize(
    ("rank", "want"),
    [
        (10, {"MRR@10": 0.1, "nDCG@10": 1 / math.log2(11), "hit@10": 1, "hit@100": 1, "recall@100": 1}),
        (11, {"MRR@10": 0, "nDCG@10": 0, "hit@10": 0, "hit@100": 1, "recall@100": 1}),
        (100, {"MRR@10": 0, "nDCG@10": 0, "hit@10": 0, "hit@100": 1, "recall@100": 1}),
        (101, {"MRR@10": 0, "nDCG@10": 0, "hit@10": 0, "hit@100": 0, "recall@100": 0}),
    ],
)
def test_cutoffs_include_their_last_rank(rank, want):
    ranking = [*range(1000, 1000 + rank - 1), 5, *range(2000, 2050)]
    assert judge(ranking, {5: 1.0}) == pytest.approx(want, abs=1e-6)


def test_threshold_moves_the_binary_measures_only():
    grades = {1: 1.0, 2: 2.33}
    low, high = judge([1, 2], grades), judge([1, 2], grades, relevant_from=2.33)
    assert (low["MRR@10"], high["MRR@10"]) == (1, 0.5)
    assert (low["recall@100"], high["recall@100"]) == (1, 1)
    assert low["nDCG@10"] == high["nDCG@10"]
    assert judge([1], grades, relevant_from=2.0)["hit@10"] == 0
    assert judge([2], grades, relevant_from=2.5)["hit@100"] == 0


def test_fractional_and_tiny_grades_count():
    got = judge([1, 2], {1: 0.33, 2: 2.67})
    want = (0.33 + 2.67 / math.log2(3)) / (2.67 + 0.33 / math.log2(3))
    assert got["nDCG@10"] == pytest.approx(want, abs=1e-6)
    assert got["MRR@10"] == 1
    assert judge([1], {1: 1e-6})["hit@10"] == 1


def test_every_judged_query_counts_in_order():
    qrels = {"z": {1: 1.0}, "a": {2: 1.0}, "missing": {3: 1.0}, "none": {}, "zero": {4: 0.0}}
    values = evaluate_rankings({"a": [9, 2], "z": [1], "extra": [1], "zero": [4], "none": [1]}, qrels)
    np.testing.assert_allclose(values["MRR@10"], [1, 0.5, 0, 0, 0])
    assert {name: array.shape for name, array in values.items()} == dict.fromkeys(MEASURES, (5,))
    assert values["MRR@10"].dtype == np.float32


def test_order_is_the_rankings_not_the_rows():
    assert judge([900, 5, 31], {31: 1.0})["MRR@10"] == pytest.approx(1 / 3)


def test_an_empty_ranking_scores_nothing():
    assert set(judge([], {1: 1.0}).values()) == {0.0}


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_of_zero_is_refused(threshold):
    with pytest.raises(InputError, match="above 0"):
        judge([1], {1: 1.0}, relevant_from=threshold)


def test_bootstrap_of_a_constant_difference_is_that_difference():
    a = np.linspace(0, 1, 50, dtype=np.float32)
    low, high = paired_bootstrap(a, a - np.float32(0.25))
    assert (low, high) == (pytest.approx(0.25, abs=1e-6), pytest.approx(0.25, abs=1e-6))


def test_bootstrap_interval_matches_the_normal_one():
    generator = np.random.default_rng(5)
    a, b = generator.normal(0.2, 1, 2000), generator.normal(0, 1, 2000)
    difference = a - b
    error = difference.std() / math.sqrt(2000)
    low, high = paired_bootstrap(a, b, n=4000, seed=1)
    assert low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)
    assert paired_bootstrap(b, a, n=4000, seed=1) == (pytest.approx(-high), pytest.approx(-low))


def test_bootstrap_pairs_the_queries():
    # unpaired, the spread of the queries would drown the constant difference
    a = np.random.default_rng(3).normal(0, 10, 100)
    low, high = paired_bootstrap(a + 0.01, a)
    assert high - low < 1e-9


def test_bootstrap_is_the_same_for_the_same_seed_and_in_blocks(monkeypatch):
    a, b = np.random.default_rng(1).random((2, 40))
    whole = paired_bootstrap(a, b, seed=4)
    assert whole == paired_bootstrap(a, b, seed=4)
    assert whole != paired_bootstrap(a, b, seed=5)
    monkeypatch.setattr("retrieval.metrics.BOOTSTRAP_BLOCK", 100)
    assert paired_bootstrap(a, b, seed=4) == pytest.approx(whole)


@pytest.mark.parametrize(("n_a", "n_b"), [(0, 0), (2, 3)])
def test_bootstrap_refuses_unequal_or_empty_arrays(n_a, n_b):
    with pytest.raises(InputError, match="equally long"):
        paired_bootstrap(np.zeros(n_a), np.zeros(n_b))
