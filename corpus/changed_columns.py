"""The catalogue's columns after some rows changed, without deriving them all again."""

import itertools
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from corpus.columns import BoolArray, Codes, IntArray, ItemColumns, NumberArray, TextColumn
from corpus.items import Item, ItemTable


def change_columns(columns: ItemColumns, changed: Mapping[int, Item], *, n_items: int) -> ItemColumns:
    """Return the columns after some rows changed.

    What is equal to before is not made anew: a new price leaves brands and attributes as they are.

    Args:
        columns: Before.
        changed: What stands in these rows now; rows behind the end are new, without gaps.
        n_items: How many rows there are now.
    """
    rows = np.array(sorted(changed), dtype=np.int64)
    fresh = ItemColumns.of(ItemTable.from_items(changed[row] for row in rows.tolist()))
    touched = np.zeros(n_items, dtype=np.bool_)
    touched[rows] = True

    def text(before: TextColumn, now: TextColumn) -> TextColumn:
        return _changed(before, now, rows, touched)

    names = columns.attributes.keys() | fresh.attributes.keys()
    none, none_now = TextColumn.empty(columns.n_items), TextColumn.empty(len(rows))
    attributes = {
        name: text(columns.attributes.get(name, none), fresh.attributes.get(name, none_now)) for name in names
    }
    return ItemColumns(
        n_items=n_items,
        price=_replaced(columns.price, rows, fresh.price, n_items),
        updated_at=_replaced(columns.updated_at, rows, fresh.updated_at, n_items),
        in_stock=_replaced(columns.in_stock, rows, fresh.in_stock, n_items),
        texts={name: text(column, fresh.texts[name]) for name, column in columns.texts.items()},
        category=text(columns.category, fresh.category),
        category_leaf=text(columns.category_leaf, fresh.category_leaf),
        attributes={name: column for name, column in attributes.items() if len(column.rows)},
    )


def _replaced(before: NumberArray, rows: IntArray, values: NumberArray, n_items: int) -> NumberArray:
    after = np.full(n_items, np.nan)
    after[: len(before)] = before
    after[rows] = values
    return after


def _changed(before: TextColumn, now: TextColumn, rows: IntArray, touched: BoolArray) -> TextColumn:
    """Put the entries of some rows in the place of those that they had.

    Args:
        before: The column so far.
        now: A column of the changed rows alone.
        rows: int64 (n,) ascending, the row that each row of ``now`` stands for.
        touched: bool (n_items,), the same rows.
    """
    n_items = len(touched)
    gone = touched[before.rows]
    unchanged = before if n_items == before.n_items else replace(before, n_items=n_items)
    if not len(now.rows) and not gone.any():  # as it is with most of many attributes
        return unchanged
    fresh_rows = rows[now.rows]
    known = [before.code_range(key) for key in now.keys]
    missing = [key for key, (first, end) in zip(now.keys, known, strict=True) if first == end]
    if not missing:
        known_codes = np.array([first for first, _ in known], dtype=np.int32)[now.codes]
        if _same(before.rows[gone], before.codes[gone], fresh_rows, known_codes):
            return unchanged

    places = [bisect_left(before.keys, key) for key in missing]
    keys, values = list(before.keys), list(before.values)
    shown = dict(zip(now.keys, now.values, strict=True))
    for place, key in reversed(list(zip(places, missing, strict=True))):
        keys.insert(place, key)
        values.insert(place, shown[key])
    old = np.arange(len(before.keys))
    moved = old + np.searchsorted(np.array(places, dtype=np.int64), old, "right")
    fresh_codes = np.array([bisect_left(keys, key) for key in now.keys], dtype=np.int64)[now.codes]
    old_rows, old_codes = before.rows[~gone], moved[before.codes[~gone]]

    at = np.searchsorted(old_rows, fresh_rows)
    by_code = np.repeat(moved, np.diff(before.offsets))
    kept = ~touched[before.rows_by_code]
    order = np.argsort(fresh_codes, kind="stable")
    codes = np.insert(old_codes, at, fresh_codes)
    behind = np.searchsorted(by_code[kept], fresh_codes[order], "right")
    counts = np.bincount(codes, minlength=len(keys))
    used = counts > 0  # what no item has any more goes, or changes without end would fill the memory
    return TextColumn(
        keys=list(itertools.compress(keys, used)),
        values=list(itertools.compress(values, used)),
        rows=np.insert(old_rows, at, fresh_rows).astype(np.int32),
        codes=(np.cumsum(used) - 1)[codes].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts[used])]),
        rows_by_code=np.insert(before.rows_by_code[kept], behind, fresh_rows[order]).astype(np.int32),
        n_items=n_items,
    )


def _same(rows: Codes, codes: Codes, other_rows: IntArray, other_codes: Codes) -> bool:
    """Tell whether two sets of entries are one; each has its rows ascending."""
    if len(rows) != len(other_rows):
        return False
    ours, theirs = np.lexsort((codes, rows)), np.lexsort((other_codes, other_rows))
    return bool((rows[ours] == other_rows[theirs]).all() and (codes[ours] == other_codes[theirs]).all())
