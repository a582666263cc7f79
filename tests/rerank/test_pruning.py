import numpy as np
import pytest

from rerank.pruning import PAGE, fit_reach, pruned, reaches_to_try, worth_reading

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
GRADES = [np.eye(14, dtype=np.float32)[0]] * 2  # the first candidate is what was chosen
GAPS = [1, 1, 2, 2, 3, 3, 4, 8]


def lifting(*places: int | None):
    """Final scores that put the candidate at a search's place before all others if it was read."""

    def final_of(number: int, read: np.ndarray) -> np.ndarray:
        final = -np.arange(14, dtype=np.float32)
        place = places[number]
        if place is not None and not np.isnan(read[place]):
            final[place] = 1.0
        return final

    return final_of


def test_reaches_take_in_shares_of_what_is_read_behind_the_page():
    assert reaches_to_try(FIRST, READ) == pytest.approx(np.quantile(GAPS, np.arange(0.9, -0.05, -0.1)))
    short = [np.where(np.arange(14) < 12, 0, NAN).astype(np.float32)] * 2  # the last two were not read
    assert reaches_to_try(FIRST, short) == pytest.approx(np.quantile([1, 1, 2, 2], np.arange(0.9, -0.05, -0.1)))


def test_without_loss_a_page_is_read():
    found = fit_reach(FIRST, READ, GRADES, lifting(None, None), max_lost=0.005)
    assert (found.reach, found.lost, found.n_read) == (1.0, 0.0, 11.0)  # the nearest is 1 behind


def test_the_reach_ends_where_an_item_that_leads_would_be_lost():
    answers = [np.eye(14, dtype=np.float32)[11]] * 2
    found = fit_reach(FIRST, READ, answers, lifting(11, 11), max_lost=0.005)
    # of the reaches tried, 2.1 is the shortest that takes in the second behind each page
    assert found.reach == pytest.approx(np.quantile(GAPS, 0.3))
    assert (found.lost, found.n_read) == (0.0, 12.0)


def test_a_loss_is_worked_by_hand():
    # read in full, the second search is led by its last candidate, which the reaches below 8 lose. What leads is
    # relevant in the first search alone, what stands second in the second alone: each rank is worth 1/2
    answers = [np.eye(14, dtype=np.float32)[0]] * 2
    final_of = lifting(None, 13)
    second = 1 / np.log2(3)
    whole = (1 + second) / 2
    # without it the item that stood second leads, and the second rank falls to one worth nothing: 1/2 + 0
    lost = (whole - 1 / 2) / 2 / whole  # in one of two searches
    found = fit_reach(FIRST, READ, answers, final_of, max_lost=lost + 0.001)
    assert found.lost == pytest.approx(lost)
    assert (found.reach, found.n_read) == (1.0, 11.0)
    strict = fit_reach(FIRST, READ, answers, final_of, max_lost=lost - 0.001)
    assert strict.reach is None  # the longest of those tried, 5.2, loses it as well
    assert (strict.lost, strict.n_read) == (0.0, 14.0)


def test_one_search_of_many_does_not_decide():
    first, answers = [FIRST[0]] * 99 + [FIRST[1]], [*GRADES * 49, GRADES[0], np.eye(14, dtype=np.float32)[13]]
    found = fit_reach(first, READ[:1] * 100, answers, lifting(*[None] * 99, 13), max_lost=0.02)
    assert found.n_read == 11
    assert 0 < found.lost < 0.02


@pytest.mark.parametrize("n_read", [0, 3, 10])
def test_nothing_is_pruned_within_a_page(n_read: int):
    read = np.full(14, NAN, dtype=np.float32)
    read[:n_read] = 0
    found = fit_reach(FIRST, [read, read], GRADES, lifting(None, None), max_lost=0.5)
    assert (found.reach, found.lost, found.n_read) == (None, 0.0, n_read)


def test_no_loss_allowed_reads_all_unasked():
    def never(number: int, read: np.ndarray) -> np.ndarray:
        raise AssertionError("asked for an order that nobody needs to know")

    assert fit_reach(FIRST, READ, GRADES, never, max_lost=0.0).reach is None
