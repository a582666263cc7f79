from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from corpus.events import EventType, HistoryEvent
from corpus.prepared import Example, Label
from rerank.candidates import TrainingList, add_candidates, choices_per_head, collect_lists, draw, n_draws

PAST = (HistoryEvent(timestamp=datetime(2026, 1, 1, tzinfo=UTC), type=EventType.CLICK, item_id="i-00"),)


def example(query: str, grades: dict[int, float], *, history: bool = False) -> Example:
    labels = tuple(Label(row=row, weight=grade / 3, grade=grade) for row, grade in grades.items())
    return Example(
        query_id=query, query=query, user_id=None, timestamp=None, labels=labels, history=PAST if history else ()
    )


def with_candidates(lists: list[TrainingList], rows: list[int]) -> list[TrainingList]:
    for entry in lists:
        entry.pool.candidates = np.array(rows, dtype=np.int64)
    return lists


def draws(entry: TrainingList, *, anonymous: bool = False, list_size: int = 4) -> list[dict[int, float]]:
    found = []
    for seed in range(200):
        drawn = draw(entry, list_size=list_size, anonymous=anonymous, generator=np.random.default_rng(seed))
        assert len(set(drawn.rows.tolist())) == len(drawn.rows)
        assert drawn.rates[:, 0].max() > 0
        assert (np.diff(drawn.rates, axis=1) <= 0).all()  # a purchase is a click too
        found.append(dict(zip(drawn.rows.tolist(), drawn.rates[:, 0].tolist(), strict=True)))
    return found


def test_anonymous_searches_of_equal_words_merge_and_give_rates_per_head():
    lists = collect_lists([example("pan", {1: 3.0}), example("pan", {1: 1.0, 2: 2.0}), example("mug", {3: 1.0})])
    assert [(entry.pool.query, entry.n_searches) for entry in lists] == [("pan", 2), ("mug", 1)]
    everyone = lists[0].pool.everyone()
    assert everyone.rows.tolist() == [1, 2]
    np.testing.assert_allclose(everyone.rates, [[1.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    assert choices_per_head(lists).tolist() == [4.0, 2.0, 1.0]


def test_searches_with_a_history_stay_apart_but_count_for_the_pool():
    lists = collect_lists([example("pan", {1: 2.0}, history=True), example("pan", {2: 1.0})])
    assert [entry.history for entry in lists] == [PAST, ()]
    assert lists[0].own is not None
    assert lists[0].own.rows.tolist() == [1]
    assert lists[0].own.rates.tolist() == [[1.0, 1.0, 0.0]]
    assert lists[0].pool is lists[1].pool
    assert lists[0].pool.everyone().rates.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.0]]


def test_an_item_labelled_twice_in_one_search_counts_once():
    labels = (Label(row=1, weight=1.0, grade=3.0), Label(row=1, weight=0.2, grade=1.0))
    search = Example(query_id="q", query="pan", user_id=None, timestamp=None, labels=labels, history=())
    assert collect_lists([search])[0].pool.everyone().rates.tolist() == [[1.0, 1.0, 1.0]]


def test_a_search_without_choice_only_tells_what_is_irrelevant():
    lists = collect_lists([example("pan", {5: 0.0, 1: 0.0}), example("pan", {1: 1.0})])
    assert len(lists) == 1
    assert lists[0].pool.irrelevant == {5}  # 1 was chosen by somebody


def test_a_drawn_list_never_holds_a_known_positive_as_negative_without_history():
    (entry,) = with_candidates(
        collect_lists([example("pan", {1: 3.0, 2: 1.0}), example("pan", {1: 1.0})]), [1, 2, 3, 4, 5, 6]
    )
    for drawn in draws(entry):
        assert drawn[1] == pytest.approx(1.0)
        assert drawn[2] == pytest.approx(0.5)
        assert all(rate == 0 for row, rate in drawn.items() if row > 2)
    assert set().union(*draws(entry)) == {1, 2, 3, 4, 5, 6}  # every candidate gets its turn


def negatives(entry: TrainingList, *, n: int) -> Counter[int]:
    """Draw pairs of one chosen item and one negative, and count the negatives."""
    generator = np.random.default_rng(3)
    drawn = [draw(entry, list_size=2, anonymous=False, generator=generator) for _ in range(n)]
    return Counter(int(entry.rows[1]) for entry in drawn)


def test_negatives_come_by_rank():
    (entry,) = with_candidates(collect_lists([example("pan", {99: 1.0, 77: 0.0})]), list(range(50)))
    found = negatives(entry, n=20_000)
    total = sum(1 / (rank + 10) for rank in range(1, 51)) + 1 / 61  # the judged one stands behind the candidates
    for row, rank in ((0, 1), (9, 10), (49, 50), (77, 51)):
        assert found[row] / 20_000 == pytest.approx(1 / (rank + 10) / total, rel=0.15)


def test_a_chosen_item_keeps_no_trace_of_its_rank_in_the_draw():
    # half of the shoppers choose the first candidate, half the last: the pair of both must not tell who is who
    shoppers = [example("pan", {0: 1.0}, history=True), example("pan", {49: 1.0}, history=True)]
    first, last = with_candidates(collect_lists(shoppers), list(range(50)))
    last_as_negative, first_as_negative = negatives(first, n=20_000)[49], negatives(last, n=20_000)[0]
    chances = [1 / (rank + 10) for rank in range(1, 51)]
    mean = sum(chances) / 50
    want = 20_000 * mean / (mean + sum(chances[1:-1]))
    assert last_as_negative == pytest.approx(want, rel=0.15)
    assert first_as_negative == pytest.approx(want, rel=0.15)
    assert negatives(first, n=20_000)[1] > 1.5 * last_as_negative  # what nobody chose still comes by rank


def test_what_other_shoppers_chose_is_an_alternative_for_a_shopper_with_a_history():
    lists = collect_lists([example("pan", {1: 1.0}, history=True), example("pan", {2: 1.0}, history=True)])
    entry = with_candidates(lists, [1, 2])[0]
    assert draws(entry)[0] == {1: 1.0, 2: 0.0}
    assert draws(entry, anonymous=True)[0] == {1: 0.5, 2: 0.5}  # with the history dropped both answers count


def test_judged_irrelevant_items_are_negatives_although_retrieval_missed_them():
    lists = with_candidates(collect_lists([example("pan", {1: 1.0, 9: 0.0})]), [3])
    assert set(draws(lists[0])[0]) == {1, 3, 9}


def test_chosen_items_take_half_of_a_list_and_the_better_ones_come_oftener():
    seldom, often = example("pan", {row: 1.0 for row in range(10)}), example("pan", {10: 3.0})
    (entry,) = with_candidates(collect_lists([seldom] + [often] * 5), list(range(30)))
    found = draws(entry)
    assert all(sum(rate > 0 for rate in drawn.values()) == 2 for drawn in found)
    assert sum(10 in drawn for drawn in found) > sum(0 in drawn for drawn in found) * 2


def test_chosen_items_fill_a_list_that_has_no_negatives():
    (entry,) = with_candidates(collect_lists([example("pan", {row: 1.0 for row in range(10)})]), [0, 1])
    assert all(len(drawn) == 4 for drawn in draws(entry))


def test_frequent_queries_are_drawn_oftener_but_not_in_proportion():
    lists = collect_lists([example("pan", {1: 1.0})] * 100 + [example("mug", {1: 1.0})])
    assert [n_draws(entry) for entry in lists] == [7, 1]


def test_lists_with_nothing_to_compare_are_left_out(word_retriever, tiny_items):
    sure, open_question = (example(tiny_items.titles([row])[0], {choice: 1.0}) for row, choice in [(0, 0), (1, 7)])
    kept = add_candidates(collect_lists([sure, open_question]), word_retriever, depth=1)
    assert [entry.pool.query for entry in kept] == [open_question.query]
    assert kept[0].pool.candidates.tolist() == [1]
