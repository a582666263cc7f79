from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.columns import ItemColumns
from corpus.errors import BadFilter
from corpus.items import Item, ItemTable
from retrieval.filtering.facets import Facet, FacetSpec, count_facet
from tests.retrieval.some_items import ITEMS, values_of

BOUNDS = (9.0, 10.5, 50.0)


def items() -> list[Item]:
    return [
        Item(item_id="a", title="a", brand="Nike", category=("Shoes", "Running"), price=10.0, in_stock=True),
        Item(item_id="b", title="b", brand="Acme", category=("Shoes",), price=50.0, attributes={"size": ("9", "9.5")}),
        Item(item_id="c", title="c", brand="nike", category=("Shoes", "Running"), price=49.9, in_stock=False),
        Item(
            item_id="d", title="d", brand="Nike", category=("Sale",), in_stock=True, attributes={"size": ("XL", "12")}
        ),
    ]


def counts(facet: Facet) -> list[tuple[str, int]]:
    return [(value.value, value.count) for value in facet.values]


def count(rows: list[int], **spec: object) -> list[tuple[str, int]]:
    columns = ItemColumns.of(ItemTable.from_items(items()))
    return counts(count_facet(FacetSpec(**{"limit": 10, **spec}), np.array(rows, dtype=np.int64), columns))


def test_values_are_counted_most_frequent_first_and_equals_by_text():
    assert count([0, 1, 2, 3], field="brand") == [("Nike", 3), ("Acme", 1)]
    assert count([1, 0], field="brand") == [("Acme", 1), ("Nike", 1)]
    assert count([3, 0, 1, 2], field="brand", limit=1) == [("Nike", 3)]
    assert count([], field="brand") == []


def test_an_item_counts_on_every_level_of_its_path():
    assert count([0, 1, 2, 3], field="category") == [("Shoes", 3), ("Shoes > Running", 2), ("Sale", 1)]


def test_stock_is_counted_where_it_is_known():
    assert count([0, 1, 2, 3], field="in_stock") == [("true", 2), ("false", 1)]


def test_intervals_hold_their_lower_bound_and_come_in_order():
    assert count([0, 1, 2, 3], field="price", interval_bounds=(10, 50), limit=1) == [
        ("(-inf, 10)", 0),
        ("[10, 50)", 2),
        ("[50, inf)", 1),
    ]
    columns = ItemColumns.of(ItemTable.from_items(items()))
    facet = count_facet(FacetSpec(field="price", limit=1, interval_bounds=(9.99,)), np.array([0]), columns)
    assert [(value.value, value.low, value.high) for value in facet.values] == [
        ("(-inf, 9.99)", None, 9.99),
        ("[9.99, inf)", 9.99, None),
    ]


def test_an_item_with_two_numbers_in_an_interval_counts_once():
    assert count([0, 1, 2, 3], field="attributes.Size", interval_bounds=(10.0,)) == [
        ("(-inf, 10)", 1),
        ("[10, inf)", 1),
    ]
    assert count([1], field="attributes.size") == [("9", 1), ("9.5", 1)]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"field": "colour"}, None, "one of the fields"),
        ({"field": "updated_at"}, None, "got updated_at"),
        ({"field": "price"}, "interval_bounds", "to count prices between"),
        ({"field": "brand", "interval_bounds": (1.0,)}, "interval_bounds", "no interval_bounds for brand"),
        ({"field": "price", "interval_bounds": (2.0, 1.0)}, "interval_bounds", "ascending"),
        ({"field": "price", "interval_bounds": (1.0, 1.0)}, "interval_bounds", "ascending"),
        ({"field": "price", "interval_bounds": (float("nan"),)}, "interval_bounds", "ascending"),
    ],
)
def test_facets_that_make_no_sense_are_refused(spec, field, message):
    with pytest.raises(BadFilter, match=message) as caught:
        FacetSpec(limit=1, **spec)
    assert caught.value.field == field


@settings(max_examples=40)
@given(st.lists(ITEMS, min_size=1, max_size=8), st.data())
def test_counts_are_those_of_counting_item_by_item(found, data):
    columns = ItemColumns.of(ItemTable.from_items(found))
    rows = data.draw(st.lists(st.integers(0, len(found) - 1), unique=True))
    for field in ("brand", "currency", "category", "attributes.color"):
        expected = Counter(key for row in rows for key in {value.casefold() for value in values_of(found[row], field)})
        facet = count_facet(FacetSpec(field=field, limit=100), np.array(rows, dtype=np.int64), columns)
        assert {value.casefold(): n for value, n in counts(facet)} == expected
        assert counts(facet) == sorted(counts(facet), key=lambda each: (-each[1], each[0].casefold()))
    intervals = [0] * (len(BOUNDS) + 1)
    for row in rows:
        numbers = [float(text) for text in values_of(found[row], "attributes.color") if text in ("9", "10.5")]
        for place in {sum(bound <= number for bound in BOUNDS) for number in numbers}:
            intervals[place] += 1
    spec = FacetSpec(field="attributes.color", limit=1, interval_bounds=BOUNDS)
    facet = count_facet(spec, np.array(rows, dtype=np.int64), columns)
    assert [value.count for value in facet.values] == intervals
