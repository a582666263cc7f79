"""What a candidate has in common with the shopper's earlier items: their brand, colour, size, whatever the store tells.

For each value v that the candidate has, such as the colour blue,

    lift(v) = log( (c(v) + S p(v)) / ((n + S) p(v)) )

with ``n`` the history's items of which the property is known, ``c(v)`` those of them that have the value, and ``p(v)``
the value's share of all choices in the store: how much oftener this shopper chooses it than everybody does. ``S``
items of the usual kind are added, so that one blue chair is no passion for blue. A candidate's taste is the sum over
its properties: the log odds of naive Bayes.
Source: Cestnik 1990, "Estimating probabilities: a crucial task in machine learning" (the m-estimate).
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.columns import ItemColumns, fold
from corpus.items import Item
from retrieval.arrays import FloatArray, IntArray, look_up
from retrieval.ragged import Ragged

SMOOTHING = 2.0  # S
MAX_ATTRIBUTES = 16  # the most widely told ones; bounds memory and time in stores with hundreds
_BRAND = 0  # the first property

_Values = tuple[npt.NDArray[np.int32], FloatArray]  # numbers of an item's values, and what each counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """How well some items fit a history; float32 (n,) each, NaN for items of which no property is known."""

    total: FloatArray  # sum of the lifts of an item's properties
    strongest: FloatArray  # the greatest of them
    beyond_brand: FloatArray  # the sum without the brand


class Tastes:
    """The properties of all items, laid out so that a few hundred of them are compared at once; immutable."""

    def __init__(self, columns: ItemColumns, popularity: FloatArray) -> None:
        """Join brand and attributes to one table.

        Args:
            columns: Of the catalogue.
            popularity: float32 (n_items,), weight of each item's choices.
        """
        by_size = sorted(columns.attributes.items(), key=lambda entry: (-len(entry[1].rows), entry[0]))
        self._properties = {None: columns.texts["brand"]} | dict(by_size[:MAX_ATTRIBUTES])  # None: the brand
        chosen = popularity.astype(np.float64) + 1.0
        rows, codes, shares, usual, owner = [], [], [], [], []
        self._first: dict[str | None, int] = {}  # number of the first value of each property
        n_values = 0
        for number, (name, column) in enumerate(self._properties.items()):
            self._first[name] = n_values
            n_of_row = np.bincount(column.rows, minlength=columns.n_items)
            share = 1.0 / n_of_row[column.rows]  # an item's values of one property count as one
            weight = np.bincount(column.codes, weights=chosen[column.rows] * share, minlength=len(column.keys))
            rows.append(column.rows)
            codes.append(column.codes + n_values)
            shares.append(share)
            usual.append(weight / max(weight.sum(), 1e-9))
            owner.append(np.full(len(column.keys), number, dtype=np.int32))
            n_values += len(column.keys)
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=columns.n_items))])
        self._values = Ragged(  # of each item, the numbers of its values and what each counts
            offsets=offsets,
            rows=np.concatenate(codes).astype(np.int32)[order],
            values=np.concatenate(shares).astype(np.float32)[order],
        )
        self._usual = np.concatenate(usual).astype(np.float32)  # (n_values,) p
        self._owner = np.concatenate(owner)  # (n_values,) property that a value belongs to
        self._changed: dict[int, _Values] = {}

    def with_changes(self, changed: Mapping[int, Item]) -> "Tastes":
        """Return the tastes after live updates; a value that no item had before them is no property yet.

        Args:
            changed: The rows that are not known as they are now.
        """
        after = copy(self)
        after._changed = self._changed | {row: self._values_of(item) for row, item in changed.items()}
        return after

    def _values_of(self, item: Item) -> _Values:
        folded = {fold(name): values for name, values in item.attributes.items()}
        codes, shares = [], []
        for name, column in self._properties.items():
            texts = folded.get(name, ()) if name is not None else (item.brand,) if item.brand else ()
            keys = {fold(text) for text in texts}
            found = [first for first, end in map(column.code_range, keys) if first < end]
            codes += [self._first[name] + code for code in found]
            shares += [1 / len(keys) for _ in found]
        return np.array(codes, dtype=np.int32), np.array(shares, dtype=np.float32)

    def _entries(self, rows: IntArray) -> tuple[IntArray, npt.NDArray[np.int32], FloatArray]:
        """Return the values of rows: positions in ``rows`` ascending, value numbers, shares."""
        if not self._changed:
            return self._values.entries(rows)
        changed = {place: self._changed[row] for place, row in enumerate(rows.tolist()) if row in self._changed}
        as_built = np.array([place for place in range(len(rows)) if place not in changed], dtype=np.int64)
        positions, codes, shares = self._values.entries(rows[as_built])
        fresh = [np.full(len(of_row), place, dtype=np.int64) for place, (of_row, _) in changed.items()]
        position = np.concatenate([as_built[positions], *fresh])
        order = np.argsort(position, kind="stable")
        return (
            position[order],
            np.concatenate([codes, *(of_row for of_row, _ in changed.values())])[order],
            np.concatenate([shares, *(of_row for _, of_row in changed.values())])[order],
        )

    def compare(self, history: IntArray, rows: IntArray) -> Taste:
        """Compare items with a history.

        Args:
            history: int64 (m,), rows of the history's items, repetitions counting.
            rows: int64 (n,) of the items.
        """
        _, mine, my_shares = self._entries(history)
        known, places = np.unique(mine, return_inverse=True)
        counts = np.bincount(places, weights=my_shares, minlength=len(known))  # c, of the values in the history
        n = np.bincount(self._owner[mine], weights=my_shares, minlength=len(self._properties))
        item, theirs, shares = self._entries(rows)
        count = look_up(known, counts, theirs)
        prior = SMOOTHING * self._usual[theirs]
        owner = self._owner[theirs]
        lift = np.log((count + prior) / ((n[owner] + SMOOTHING) * self._usual[theirs]))
        return Taste(
            total=_sum(item, lift * shares, len(rows)),
            strongest=_greatest(item, lift, len(rows)),
            beyond_brand=_sum(item, np.where(owner == _BRAND, 0.0, lift * shares), len(rows)),
        )


def _sum(item: IntArray, values: npt.NDArray[np.float64], n: int) -> FloatArray:
    told = np.bincount(item, minlength=n) > 0
    total = np.bincount(item, weights=values, minlength=n)
    return np.where(told, total, np.nan).astype(np.float32)


def _greatest(item: IntArray, values: npt.NDArray[np.float64], n: int) -> FloatArray:
    greatest = np.full(n, np.nan, dtype=np.float32)
    if len(item):
        begins = np.flatnonzero(np.diff(item, prepend=-1))
        greatest[item[begins]] = np.maximum.reduceat(values, begins)
    return greatest
