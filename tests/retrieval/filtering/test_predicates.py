import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.columns import ItemColumns
from corpus.errors import BadFilter
from corpus.items import Item, ItemTable
from retrieval.filtering.filter_language import parse_filter
from retrieval.filtering.filters import render, without
from retrieval.filtering.predicates import matching_rows, number_column, text_column
from tests.retrieval.some_items import ITEMS, filters, holds

few = settings(max_examples=40)  # each makes a catalogue's columns
CATALOGUES = st.lists(ITEMS, min_size=1, max_size=8)


def columns_of(items) -> ItemColumns:
    return ItemColumns.of(ItemTable.from_items(items))


@few
@given(CATALOGUES, filters())
def test_a_filter_holds_for_the_items_for_which_it_holds_one_by_one(items, found):
    assert matching_rows(found, columns_of(items)).mask.tolist() == [holds(found, item) for item in items]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('brand = "a *"', [1]),
        ('brand = "a*"', [0, 1, 2]),
        ('brand = " *"', []),
        ('category:"shoe > *"', [0]),
        ('category:"shoe >*"', [0]),
        ('category:"shoe*"', [0, 1, 2]),
    ],
)
def test_a_beginning_that_ends_with_a_blank_ends_with_its_word(text, rows):
    items = [
        Item(item_id="0", title="t", brand="AND", category=("Shoe", "Boot")),
        Item(item_id="1", title="t", brand="A Bit", category=("Shoes",)),
        Item(item_id="2", title="t", brand="a", category=("Shoe care",)),
    ]
    assert np.flatnonzero(matching_rows(parse_filter(text), columns_of(items)).mask).tolist() == rows


@few
@given(CATALOGUES, filters())
def test_text_and_values_mean_the_same(items, found):
    columns = columns_of(items)
    read = parse_filter(render(found))
    assert matching_rows(read, columns).mask.tolist() == matching_rows(found, columns).mask.tolist()


@few
@given(CATALOGUES, filters(), st.sets(st.sampled_from(["brand", "price", "category", "attributes.color"])))
def test_leaving_conditions_out_loses_no_item(items, found, fields):
    left = without(found, fields)
    if left is not None:
        columns = columns_of(items)
        kept, more = matching_rows(found, columns).mask, matching_rows(left, columns).mask
        assert (more | ~kept).all()
        assert not any(f"{field} " in render(left) for field in fields)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("brand = ACME", 12),
        ("brand:(acme OR solo)", 24),
        ("brand = a*", 12),
        ("NOT brand = acme", 48),
        ("category:shoes", 15),
        ('category:"shoes > boot"', 5),
        ("category = shoes", 0),
        ('category = "Shoes>Boot"', 5),
        ("price < 20", 10),
        ("price >= 20 price < 30", 10),
        ("in_stock = false", 9),
        ("attributes.colour:red", 15),
        ("attributes.weight:red", 0),
        ("updated_at:*", 0),
        ("currency = EUR", 60),
    ],
)
def test_examples_on_the_tiny_catalogue(tiny_items, text, n):
    assert len(matching_rows(parse_filter(text), ItemColumns.of(tiny_items))) == n


def test_evaluating_leaves_the_columns_as_they_were(tiny_items):
    columns = ItemColumns.of(tiny_items)
    found = parse_filter("NOT brand:* OR NOT attributes.colour:*")
    assert len(matching_rows(found, columns)) == len(matching_rows(found, columns)) == 0
    assert columns.texts["brand"].known.all()


def test_columns_are_found_by_field(tiny_items):
    columns = ItemColumns.of(tiny_items)
    assert number_column(columns, "price") is columns.price
    assert number_column(columns, "brand") is None
    assert text_column(columns, "category") is columns.category
    with pytest.raises(BadFilter, match="with texts, got price"):
        text_column(columns, "price")
