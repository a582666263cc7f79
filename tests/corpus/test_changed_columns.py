"""Columns after a change are those of the changed catalogue, whatever changed."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.changed_columns import change_columns
from corpus.columns import ItemColumns, TextColumn
from corpus.items import Item, ItemTable

BRANDS = st.sampled_from([None, "Acme", "acme", "Kiri", "Zork", "Äther"])
COLOURS = st.lists(st.sampled_from(["red", "Red", "blue", "ochre"]), max_size=2, unique=True).map(tuple)


@st.composite
def items(draw: st.DrawFn, row: int) -> Item:
    attributes = {name: values for name in ("colour", "Size") if (values := draw(COLOURS))}
    return Item(
        item_id=f"i{row}",
        title=f"item {row}",
        brand=draw(BRANDS),
        category=draw(st.sampled_from([(), ("shoes",), ("shoes", "boot"), ("Shoes", "sandal"), ("garden",)])),
        price=draw(st.sampled_from([None, 1.0, 20.0])),
        in_stock=draw(st.sampled_from([None, True, False])),
        attributes=attributes,
    )


def texts(column: TextColumn) -> list[set[str]]:
    """What each row has, by key."""
    rows: list[set[str]] = [set() for _ in range(column.n_items)]
    for row, code in zip(column.rows.tolist(), column.codes.tolist(), strict=True):
        assert column.keys[code] not in rows[row]
        rows[row].add(column.keys[code])
    return rows


def check(got: ItemColumns, want: ItemColumns) -> None:
    assert got.n_items == want.n_items
    for name in ("price", "updated_at", "in_stock"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    pairs = [(got.texts[name], want.texts[name]) for name in want.texts]
    pairs += [(got.category, want.category), (got.category_leaf, want.category_leaf)]
    assert got.attributes.keys() == want.attributes.keys()
    pairs += [(got.attributes[name], want.attributes[name]) for name in want.attributes]
    for ours, theirs in pairs:
        assert texts(ours) == texts(theirs)
        assert ours.n_items == theirs.n_items
        assert (np.diff(ours.rows) >= 0).all()
        assert ours.keys == sorted(ours.keys)
        assert ours.keys == theirs.keys
        np.testing.assert_array_equal(ours.offsets, theirs.offsets)
        assert [value.casefold() for value in ours.values] == ours.keys
        assert (ours.rows.dtype, ours.codes.dtype, ours.rows_by_code.dtype) == (np.int32, np.int32, np.int32)
        for key in theirs.keys:
            np.testing.assert_array_equal(
                ours.items_in(*ours.code_range(key)), theirs.items_in(*theirs.code_range(key)), err_msg=key
            )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_columns_are_those_of_the_changed_catalogue(data: st.DataObject):
    catalogue = [data.draw(items(row)) for row in range(data.draw(st.integers(0, 6)))]
    columns = ItemColumns.of(ItemTable.from_items(catalogue))
    for _ in range(2):  # a second change stands on the first
        n_new = data.draw(st.integers(0, 3))
        rows = data.draw(st.sets(st.integers(0, len(catalogue) - 1), max_size=3)) if catalogue else set()
        changed = {row: data.draw(items(row)) for row in rows | set(range(len(catalogue), len(catalogue) + n_new))}
        if not changed:
            continue
        catalogue = [changed.get(row, item) for row, item in enumerate(catalogue)]
        catalogue += [changed[row] for row in range(len(catalogue), len(catalogue) + n_new)]
        columns = change_columns(columns, changed, n_items=len(catalogue))
        check(columns, ItemColumns.of(ItemTable.from_items(catalogue)))


def test_a_new_price_leaves_all_other_columns_as_they_are():
    before = [Item(item_id=f"i{row}", title="pan", brand="acme", attributes={"size": ("xl",)}) for row in range(4)]
    columns = ItemColumns.of(ItemTable.from_items(before))
    after = change_columns(columns, {2: replace(before[2], price=3.5)}, n_items=4)
    assert after.price.tolist()[2] == 3.5
    assert np.isnan(columns.price).all()
    assert after.texts["brand"] is columns.texts["brand"]
    assert after.attributes["size"] is columns.attributes["size"]


def test_changes_without_end_leave_nothing_of_what_no_item_has_any_more():
    item = Item(item_id="i", title="pan")
    columns = ItemColumns.of(ItemTable.from_items([item]))
    for number in range(5):
        changed = replace(item, brand=f"brand {number}", attributes={f"name {number}": ("xl",)})
        columns = change_columns(columns, {0: changed}, n_items=1)
    assert columns.texts["brand"].keys == ["brand 4"]
    assert list(columns.attributes) == ["name 4"]
