from datetime import UTC, datetime

import numpy as np
import pytest

from corpus.columns import ItemColumns, TextColumn, fold, fold_path
from corpus.items import Item, ItemTable

ITEMS = [
    Item(
        item_id="a",
        title="a",
        brand="Nike",
        category=("Shoes", "Running"),
        price=50.0,
        in_stock=True,
        attributes={"Color": ("Red", "red", "Blue"), "size": ("9", "10")},
        updated_at=datetime(2026, 1, 1, 12, tzinfo=UTC),
    ),
    Item(item_id="b", title="b"),
    Item(item_id="c", title="c", brand="NIKE", category=("Shoes",), price=0.0, in_stock=False, currency="EUR"),
    Item(item_id="d", title="d", brand="nike", category=("Shoes", "running", "Trail"), attributes={"color": ("RED",)}),
    Item(item_id="e", title="e", brand="NIKE", category=("Sale > Shoes",), attributes={"size": ("XL", "inf")}),
]


@pytest.fixture(scope="module")
def columns() -> ItemColumns:
    return ItemColumns.of(ItemTable.from_items(ITEMS))


def listed(column: TextColumn) -> list[tuple[int, str]]:
    return [(row, column.values[code]) for row, code in zip(column.rows.tolist(), column.codes.tolist(), strict=True)]


def test_texts_are_compared_without_letter_case_but_with_accents():
    assert fold(" KÖLN  Straße&amp;Co ") == fold("köln strasse&co")
    assert fold("Löwe") != fold("Lowe")
    assert fold_path("Shoes>Running ") == fold_path(" shoes  >  RUNNING") == "shoes > running"


def test_a_value_is_shown_in_its_most_frequent_spelling(columns):
    brand = columns.texts["brand"]
    assert (brand.keys, brand.values) == (["nike"], ["NIKE"])
    assert brand.rows.tolist() == [0, 2, 3, 4]
    assert listed(columns.texts["currency"]) == [(2, "EUR")]


def test_an_item_has_every_value_once(columns):
    color = columns.attribute("COLOR")
    assert (color.keys, color.values) == (["blue", "red"], ["Blue", "RED"])
    assert sorted(listed(color)) == [(0, "Blue"), (0, "RED"), (3, "RED")]


def test_an_item_is_in_every_category_on_its_path(columns):
    assert sorted(listed(columns.category)) == [
        (0, "Shoes"),
        (0, "Shoes > Running"),
        (2, "Shoes"),
        (3, "Shoes"),
        (3, "Shoes > Running"),
        (3, "Shoes > running > Trail"),
        (4, "Sale"),
        (4, "Sale > Shoes"),
    ]
    assert columns.category_leaf.keys == ["sale > shoes", "shoes", "shoes > running", "shoes > running > trail"]


def test_unknown_numbers_times_and_stock_are_nan(columns):
    np.testing.assert_array_equal(columns.price, [50, np.nan, 0, np.nan, np.nan])
    np.testing.assert_array_equal(columns.in_stock, [1, np.nan, 0, np.nan, np.nan])
    np.testing.assert_array_equal(columns.updated_at, [1767268800e6, *[np.nan] * 4])


def test_an_attribute_that_no_item_has_is_an_empty_column(columns):
    nothing = columns.attribute("weight")
    assert nothing.known.tolist() == [False] * 5
    assert nothing.items_in(*nothing.code_range("red")).tolist() == [False] * 5
    assert nothing.items_of(np.zeros(0, dtype=bool)).tolist() == [False] * 5
    assert nothing.entries(np.array([0, 4]))[1].tolist() == []


def test_items_of_a_value_of_a_prefix_and_of_a_choice(columns):
    color = columns.attribute("color")
    assert color.code_range("red") == (1, 2)
    assert color.code_range("re") == (1, 1)
    assert color.code_range("zebra") == (2, 2)
    assert color.code_range("re", is_prefix=True) == (1, 2)
    assert color.code_range("", is_prefix=True) == (0, 2)
    assert color.items_in(1, 2).tolist() == [True, False, False, True, False]
    assert color.items_in(0, 2).tolist() == [True, False, False, True, False]
    assert color.items_in(0, 1).tolist() == [True, False, False, False, False]
    assert color.items_in(1, 1).tolist() == [False] * 5
    assert color.items_of(np.array([False, True])).tolist() == [True, False, False, True, False]
    assert color.known.tolist() == [True, False, False, True, False]


def test_values_that_are_numbers_are_known_as_such(columns):
    size = columns.attribute("size")
    assert size.keys == ["10", "9", "inf", "xl"]
    np.testing.assert_array_equal(size.numbers, [10, 9, np.nan, np.nan])


def test_entries_of_rows_come_in_the_order_asked_for(columns):
    positions, codes = columns.attribute("size").entries(np.array([4, 1, 0]))
    assert positions.tolist() == [0, 0, 2, 2]
    assert codes[:2].tolist() == [3, 2]
    assert sorted(codes[2:].tolist()) == [0, 1]


def test_a_catalogue_without_any_property_has_empty_columns():
    bare = ItemColumns.of(ItemTable.from_items([Item(item_id="a", title="a")]))
    assert (bare.attributes, bare.category.keys, bare.texts["brand"].keys) == ({}, [], [])
    assert bare.category.known.tolist() == [False]


def test_of_equally_frequent_spellings_the_first_in_code_points_is_shown():
    items = [Item(item_id=brand, title="t", brand=brand) for brand in ("acme", "ACME", "Acme")]
    assert ItemColumns.of(ItemTable.from_items(items)).texts["brand"].values == ["ACME"]
