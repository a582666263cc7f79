import numpy as np
import pytest

from corpus.columns import ItemColumns
from corpus.items import Item, ItemTable
from retrieval.filtering.filters import Comparison
from server.stages.arrangement import arrange, cut
from server.stages.ranking import Ranking
from server.stages.wishes import Boost, Diversity, Order, Wishes
from tests.server.made_rankings import ranking_of


@pytest.fixture(scope="module")
def columns(tiny_items: ItemTable) -> ItemColumns:
    return ItemColumns.of(tiny_items)


def boost(field: str, value: str | float, worth: float) -> Boost:
    return Boost(condition=Comparison(field, "=", value), boost=worth)


def arranged(ranking: Ranking, columns: ItemColumns, pins: dict[int, int] | None = None, **wishes: object) -> Ranking:
    return arrange(ranking, Wishes(**wishes), columns, pins or {}, unit_vectors)  # type: ignore[arg-type]


def unit_vectors(rows: np.ndarray) -> np.ndarray:
    """Embeddings by which items are alike whose rows leave the same rest by 4."""
    return np.eye(4, dtype=np.float32)[rows % 4]


def test_without_wishes_a_ranking_stays_as_it_is(columns):
    ranking = ranking_of([7, 3, 5], scores=[3, 2, 1])
    assert arranged(ranking, columns) is ranking


def test_a_boost_is_worth_a_share_of_the_range_of_scores(columns):
    # rows 0 to 4 are of acme, nordly, vanta, kiri and solo; scores 10 to -10 have a range of 20
    ranking = ranking_of([0, 1, 2, 3, 4], scores=[10, 4, 1, 0, -10])
    got = arranged(ranking, columns, boosts=(boost("brand", "kiri", 0.25), boost("brand", "acme", -0.4)))
    assert got.rows.tolist() == [3, 1, 0, 2, 4]
    assert got.scores.tolist() == [5, 4, 2, 1, -10]


@pytest.mark.parametrize(("brand", "worth", "score"), [("solo", 1.0, 10), ("acme", -1.0, -10)])
def test_the_greatest_boost_spans_the_whole_ranking(columns, brand, worth, score):
    ranking = ranking_of([0, 1, 4], scores=[10, 4, -10])
    got = arranged(ranking, columns, boosts=(boost("brand", brand, worth),))
    assert dict(zip(got.rows.tolist(), got.scores.tolist(), strict=True))[0 if brand == "acme" else 4] == score


def test_boosts_add_up_and_are_cut(columns):
    ranking = ranking_of([0, 1], scores=[1, 0])
    several = (boost("brand", "nordly", 0.7), boost("category", "shoes > shoe", 0.6))
    got = arranged(ranking, columns, boosts=several)
    np.testing.assert_allclose(got.scores, [1.6, 1.0])  # 0.6 for both, 1.3 cut to 1 for nordly
    assert got.rows.tolist() == [0, 1]


def test_equal_scores_are_told_apart_by_a_boost(columns):
    got = arranged(ranking_of([0, 1, 2], scores=[2, 2, 2]), columns, boosts=(boost("brand", "vanta", 0.1),))
    assert got.rows.tolist() == [2, 0, 1]
    np.testing.assert_allclose(got.scores, [2.1, 2, 2])


def test_stage_scores_move_with_their_items(columns):
    ranking = ranking_of([0, 1, 2], scores=[3, 2, 1])
    got = arranged(ranking, columns, {1: 2}, boosts=(boost("brand", "nordly", 1.0),))
    assert got.rows.tolist() == [2, 1, 0]
    for name in ("retrieval", "dense", "lexical", "behaviour", "rerank"):
        np.testing.assert_array_equal(getattr(got, name), getattr(ranking, name)[[2, 1, 0]])
    np.testing.assert_array_equal(got.probabilities, ranking.probabilities[[2, 1, 0]])


@pytest.fixture(scope="module")
def priced() -> ItemColumns:
    def item(number: int, price: float | None, day: int | None) -> Item:
        from datetime import UTC, datetime

        updated = None if day is None else datetime(2026, 1, day, tzinfo=UTC)
        return Item(item_id=f"i-{number}", title="shoe", price=price, updated_at=updated)

    known = [(5.0, 2), (None, 1), (3.0, None), (5.0, 3), (None, 3)]
    return ItemColumns.of(ItemTable.from_items(item(number, *each) for number, each in enumerate(known)))


@pytest.mark.parametrize(
    ("order", "rows"),
    [
        (Order.RELEVANCE, [4, 3, 2, 1, 0]),
        (Order.PRICE, [2, 3, 0, 4, 1]),
        (Order.PRICE_DESC, [3, 0, 2, 4, 1]),
        (Order.NEWEST, [4, 3, 0, 1, 2]),
    ],
)
def test_equals_come_by_relevance_and_what_has_no_value_comes_last(priced, order, rows):
    ranking = ranking_of([4, 3, 2, 1, 0], scores=[5, 4, 3, 2, 1])
    assert arranged(ranking, priced, order=order).rows.tolist() == rows


def test_pins_stand_at_their_ranks_and_the_others_close_up(columns):
    ranking = ranking_of([0, 1, 2, 3, 4], scores=[5, 4, 3, 2, 1])
    assert arranged(ranking, columns, {1: 4, 3: 0}).rows.tolist() == [4, 1, 0, 2, 3]
    assert arranged(ranking, columns, {3: 0, 1: 4}).rows.tolist() == [4, 1, 0, 2, 3]
    assert arranged(ranking, columns, {2: 1}).rows.tolist() == [0, 1, 2, 3, 4]


def test_a_pin_behind_the_end_comes_last(columns):
    ranking = ranking_of([0, 1, 2], scores=[5, 4, 3])
    assert arranged(ranking, columns, {900: 0, 1: 2}).rows.tolist() == [2, 1, 0]


def test_pins_go_before_any_order(columns):
    ranking = ranking_of([0, 1, 2], scores=[5, 4, 3])  # prices rise with the row
    assert arranged(ranking, columns, {1: 1}, order=Order.PRICE_DESC).rows.tolist() == [1, 2, 0]


def test_an_empty_ranking_can_be_boosted_and_ordered(columns):
    got = arranged(ranking_of([], scores=[]), columns, order=Order.PRICE, boosts=(boost("brand", "kiri", 1.0),))
    assert len(got) == 0


def diversity(**fields: object) -> Diversity:
    return Diversity(**{"page_size": 3, "first_page": 3, **fields})  # type: ignore[arg-type]


def test_strength_puts_what_differs_before_what_is_alike(columns):
    ranking = ranking_of([0, 4, 8, 1, 2], scores=[5, 4, 3, 2, 1])  # the first three are alike
    got = arranged(ranking, columns, diversity=diversity(strength=0.6))
    assert got.rows.tolist() == [0, 1, 2, 4, 8]
    assert got.scores.tolist() == [5, 2, 1, 4, 3]
    assert arranged(ranking, columns, diversity=diversity()).rows.tolist() == ranking.rows.tolist()


def test_only_the_best_hundred_are_chosen_to_differ(columns):
    rows = list(range(0, 60, 4)) * 8  # all alike, but for the last
    ranking = ranking_of([*rows[:101], 1], scores=list(range(102, 0, -1)))
    assert arranged(ranking, columns, diversity=diversity(strength=1.0)).rows.tolist()[-1] == 1


def test_pages_hold_no_more_of_a_brand_or_category_than_was_asked_for(columns):
    # every fifth row is of acme; rows 0 to 4 are running shoes, 5 to 9 boots, 10 to 14 sandals
    ranking = ranking_of([0, 5, 10, 15, 1, 2], scores=[6, 5, 4, 3, 2, 1])
    got = arranged(ranking, columns, diversity=diversity(max_per_brand=1))
    assert got.rows.tolist() == [0, 1, 2, 5, 10, 15]
    ranking = ranking_of([0, 1, 2, 5, 6, 10], scores=[6, 5, 4, 3, 2, 1])
    got = arranged(ranking, columns, diversity=diversity(max_per_category=2))
    assert got.rows.tolist() == [0, 1, 5, 2, 6, 10]
    got = arranged(ranking, columns, diversity=diversity(max_per_category=1, max_per_brand=1))
    assert got.rows.tolist() == [0, 6, 1, 2, 5, 10]


def test_pinned_items_count_before_the_others_of_their_page(columns):
    ranking = ranking_of([0, 1, 5, 2, 3, 10], scores=[6, 5, 4, 3, 2, 1])
    got = arranged(ranking, columns, {3: 10}, diversity=diversity(max_per_brand=1))
    assert got.rows.tolist() == [1, 2, 10, 0, 3, 5]


def test_only_what_is_likely_enough_and_what_is_pinned_survives_the_cut():
    ranking = ranking_of([4, 3, 2, 1], scores=[4, 3, 2, 1], purchase=[0.1, 0.5, np.nan, 0.3])
    left = cut(ranking, 0.3, [])
    assert left is not None
    assert (left[0].rows.tolist(), left[1]) == ([3, 1], 2)
    left = cut(ranking, 0.6, [2])
    assert left is not None
    assert (left[0].rows.tolist(), left[1]) == ([2], 0)


def test_without_any_probability_nothing_can_be_cut():
    assert cut(ranking_of([4, 3], scores=[4, 3]), 0.3, []) is None
    nothing = cut(ranking_of([], scores=[]), 0.3, [])
    assert nothing is not None
    assert (len(nothing[0]), nothing[1]) == (0, 0)
