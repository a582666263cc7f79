import numpy as np
import pytest

from rerank.pruning import PAGE, fit_reach, pruned, worth_reading

NAN = float("nan")


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_who_scores_close_to_the_first_page_is_worth_reading():
    # the best ten score 20 … 11; behind them, in the order 12, 10, 11, are 10.5, 10 and 7
    first = scores(*range(20, 10, -1), 10.0, 7.0, 10.5)
    assert worth_reading(first, None, 0.75).tolist() == [*range(10), 12]
    assert worth_reading(first, None, 1.0).tolist() == [*range(10), 12, 10]
    assert worth_reading(first, None, 4.0).tolist() == [*range(10), 12, 10, 11]
    assert worth_reading(first, None, None).tolist() == [*range(10), 12, 10, 11]


def test_a_page_is_read_at_least_and_the_depth_at_most():
    first = scores(*range(30, 0, -1))
    assert worth_reading(first, 20, 0.0).tolist() == list(range(PAGE))
    assert worth_reading(first, 20, 100.0).tolist() == list(range(20))
    assert worth_reading(first, 3, 0.0).tolist() == [0, 1, 2]
    assert worth_reading(first, 0, 0.0).tolist() == []
    assert worth_reading(scores(), None, 0.0).tolist() == []


def test_of_equals_the_first_in_line_is_read_first():
    assert worth_reading(scores(*[1.0] * 12), 11, 0.0).tolist() == list(range(11))


def test_scores_are_forgotten_where_they_would_not_have_been_read():
    first = scores(*range(12, 0, -1))[::-1]
    read = np.arange(12, dtype=np.float32)
    read[0] = NAN  # it was not among the eleven that were read
    want = np.arange(12, dtype=np.float32)
    want[:2] = NAN  # two below the page's last
    np.testing.assert_array_equal(pruned(first, read, 0.5), want)
    np.testing.assert_array_equal(pruned(first, read, 1.0), read)
    np.testing.assert_array_equal(pruned(first, read, None), read)


# one search each: ten on the first page score 0, the four behind them so much less
FIRST = [scores(*[0.0] * 10, -1.0, -2.0, -3.0, -4.0), scores(*[0.0] * 10, -1.0, -2.0, -3.0, -8.0)]
READ = [np.zeros(14, dtype=np.float32)] * 2


def needing(*places: int):
    """The ideal if the candidates at these places were read, in each of the searches; else nothing."""

    def ndcg_of(number: int, read: np.ndarray) -> float:
        return float(not np.isnan(read[places[number]]))

    return ndcg_of


def test_the_shortest_reach_without_loss_is_taken():
    # the gaps are 1 1 2 2 3 3 4 8: of those tried, 2.1 is the shortest reach to take in the second behind each page
    found = fit_reach(FIRST, READ, needing(11, 11), max_lost=0.005)
    assert found.reach == pytest.approx(np.quantile([1, 1, 2, 2, 3, 3, 4, 8], 0.3))
    assert 2 <= found.reach < 3
    assert (found.lost, found.n_read) == (0.0, 12.0)


def test_no_reach_is_taken_beyond_one_that_loses():
    # losing at 3 forbids shorter ones, whatever is found there
    def ndcg_of(number: int, read: np.ndarray) -> float:
        return 0.0 if np.isnan(read[12]) and not np.isnan(read[11]) else 1.0

    found = fit_reach(FIRST, READ, ndcg_of, max_lost=0.005)
    assert found.reach >= 3
    assert found.n_read >= 13


def test_what_is_worth_its_loss_is_lost():
    # the second search alone needs its last: half is lost without, and one standard error of the two is half as well
    ndcg_of = needing(0, 13)
    assert fit_reach(FIRST, READ, ndcg_of, max_lost=0.99).reach is None
    many = [FIRST[0]] * 99 + [FIRST[1]]
    needed = needing(*[0] * 99, 13)
    found = fit_reach(many, READ[:1] * 100, needed, max_lost=0.0201)  # .01 and a standard error of .01
    assert found.reach is not None
    assert found.lost == pytest.approx(0.01)
    assert found.n_read == 11  # the gaps of all are 1 at least
    assert fit_reach(many, READ[:1] * 100, needed, max_lost=0.0199).reach is None


@pytest.mark.parametrize("n_read", [0, 3, 10])
def test_nothing_is_pruned_within_a_page(n_read: int):
    read = np.full(14, NAN, dtype=np.float32)
    read[:n_read] = 0
    found = fit_reach(FIRST, [read, read], needing(0, 0), max_lost=0.5)
    assert (found.reach, found.lost, found.n_read) == (None, 0.0, n_read)


def test_no_loss_allowed_reads_all_unasked():
    def never(number: int, read: np.ndarray) -> float:
        raise AssertionError("asked for a quality that nobody needs to know")

    assert fit_reach(FIRST, READ, never, max_lost=0.0).reach is None
