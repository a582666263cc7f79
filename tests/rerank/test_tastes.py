from math import log

import numpy as np
import pytest

from corpus.items import Item, ItemTable
from rerank.tastes import Taste, compare_history
from retrieval.event_log import traits
from retrieval.event_log.traits import Traits

NAN = float("nan")


def item(row: int, brand: str | None = None, **attributes: tuple[str, ...]) -> Item:
    return Item(item_id=f"i{row}", title=f"item {row}", brand=brand, attributes=attributes)


CATALOGUE = (
    item(0, "acme", color=("red",)),
    item(1, "acme", color=("blue", "red")),
    item(2, "kiri", color=("blue",), size=("xl",)),
    item(3),
)


def compare(history: list[int], rows: list[int], popularity: tuple[float, ...] = (0, 0, 0, 0)) -> Taste:
    table = Traits.build(ItemTable.from_items(CATALOGUE), np.array(popularity, dtype=np.float32))
    return compare_history(table, np.array(history, dtype=np.int64), np.array(rows, dtype=np.int64))


def lift(count: float, n: float, usual: float) -> float:
    return log((count + 2 * usual) / ((n + 2) * usual))


def same(got: np.ndarray, *want: float) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_lifts_are_summed_over_the_properties_of_an_item():
    got = compare([0, 0, 2], [0, 2, 3])
    # each item counts once where nobody chose anything: acme 2 of 3; red 1.5 of 3, for item 1 is half of each colour
    acme, kiri = lift(2, 3, 2 / 3), lift(1, 3, 1 / 3)
    red, blue, xl = lift(2, 3, 0.5), lift(1, 3, 0.5), lift(1, 1, 1)
    same(got.total, acme + red, kiri + blue + xl, NAN)
    same(got.strongest, max(acme, red), max(kiri, blue, xl), NAN)
    same(got.beyond_brand, red, blue + xl, NAN)


def test_of_several_values_of_one_property_the_mean_counts():
    got = compare([0], [1])
    same(got.beyond_brand, (lift(1, 1, 0.5) + lift(0, 1, 0.5)) / 2)


def test_titles_are_compared_by_their_words():
    got = compare([0, 2], [0, 1])
    # each title is "item" and a number; one of four choices is of each item
    item_word, own, other = lift(2, 2, 1), lift(1, 2, 1 / 4), lift(0, 2, 1 / 4)
    same(got.title, (item_word + own) / 2, (item_word + other) / 2)
    same(got.title_shared, own, 0)  # what every title has is nothing in common
    same(got.title_strongest, own, item_word)


def test_what_everybody_chooses_tells_little_of_a_shopper():
    rare, common = compare([0], [0]), compare([0], [0], popularity=(97, 0, 0, 0))
    assert common.total[0] < rare.total[0]
    same(common.beyond_brand, lift(1, 1, (98 + 0.5) / 100))


def test_a_history_without_known_properties_says_nothing_for_or_against_an_item():
    got = compare([3, 3], [0, 2, 3])
    same(got.total, 0, 0, NAN)


def test_only_the_most_widely_told_attributes_are_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(traits, "MAX_ATTRIBUTES", 1)
    got = compare([2], [2])
    same(got.beyond_brand, lift(1, 1, 0.5))  # colour, which three items tell, not size


def test_a_catalogue_without_properties_has_no_tastes():
    table = Traits.build(ItemTable.from_items([item(0), item(1)]), np.zeros(2, dtype=np.float32))
    got = compare_history(table, np.array([0]), np.array([0, 1]))
    same(got.total, NAN, NAN)
    same(got.strongest, NAN, NAN)


def test_changed_and_new_items_have_what_they_have_now_as_far_as_it_was_known():
    before = Traits.build(ItemTable.from_items(CATALOGUE), np.zeros(4, dtype=np.float32))
    after = before.with_changes(
        {0: item(0, "Kiri", color=("red",)), 4: item(4, "Acme", Size=("XL", "xs"), depth=("9",))}
    )
    history, rows = np.array([4, 0, 2]), np.array([4, 1, 0])
    got = compare_history(after, history, rows)
    # of the three, all have a known brand; a size of two values, of which one is known, counts half
    acme, kiri = lift(1, 3, 2 / 3), lift(2, 3, 1 / 3)
    red, blue = lift(1, 2, 0.5), lift(1, 2, 0.5)
    xl = lift(1.5, 1.5, 1)
    same(got.total, acme + xl / 2, acme + (red + blue) / 2, kiri + red)
    same(compare_history(before, np.array([0]), np.array([0])).total, lift(1, 1, 2 / 3) + lift(1, 1, 0.5))
    unchanged = before.with_changes({})
    same(compare_history(unchanged, history[1:], rows[1:]).total, *compare_history(before, history[1:], rows[1:]).total)
