"""The catalogue's properties as arrays, on which conditions are decided and counts are taken for all items at once.

Here and not in ``retrieval/``, because only this package may read the item table's frame; what comes out is numpy, for
``retrieval.filtering.predicates``, ``retrieval.filtering.facets`` and through them the server. Derived when a catalogue
is opened and not kept in the bundle: 50,000 items take a quarter of a second, a million some seconds beside the
gigabytes that opening them reads and verifies, and a file could only disagree with the table that it was made from.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.cleaning import clean_text
from corpus.items import ItemTable

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
NumberArray = npt.NDArray[np.float64]

TEXTS = ("brand", "currency")
PATH_SEPARATOR = ">"  # between the levels of a category
_JOINT = f" {PATH_SEPARATOR} "
_LAST = "\U0010ffff"  # no text that a catalogue holds continues with it


def fold(text: str) -> str:
    """Return the form in which texts are compared: letter case does not count, accents do.

    Accents count although the words of a query are compared without them: a condition names a value of the catalogue,
    mostly one that a facet listed, and ``Löwe`` and ``Lowe`` are two brands.
    """
    return clean_text(text).casefold()


def fold_path(text: str) -> str:
    """Return the form in which category paths are compared: ``Shoes>Running`` becomes ``shoes > running``."""
    return _JOINT.join(level for part in text.split(PATH_SEPARATOR) if (level := fold(part)))


@dataclass(frozen=True, kw_only=True)
class TextColumn:
    """Which items have which texts, dictionary-coded; an item may have several."""

    keys: list[str]  # (n_values,) folded, ascending in code points: a text's place is its code
    values: list[str]  # (n_values,) the same as they are shown, in the most frequent spelling
    rows: Codes  # (n,) ascending; a row comes once for each of its values
    codes: Codes  # (n,) of the value, parallel to ``rows``
    offsets: IntArray  # (n_values + 1,) into ``rows_by_code``: where the rows of each code begin
    rows_by_code: Codes  # (n,) the same rows, those of one code together
    n_items: int

    @classmethod
    def empty(cls, n_items: int) -> "TextColumn":
        """Return the column of what no item has."""
        nothing = np.empty(0, dtype=np.int32)
        return cls(
            keys=[],
            values=[],
            rows=nothing,
            codes=nothing,
            offsets=np.zeros(1, dtype=np.int64),
            rows_by_code=nothing,
            n_items=n_items,
        )

    def code_range(self, key: str, *, is_prefix: bool = False) -> tuple[int, int]:
        """Return the codes of a folded text, or of all texts that begin with it, as a half-open range."""
        first = bisect_left(self.keys, key)
        if is_prefix:
            return first, bisect_left(self.keys, key + _LAST, lo=first)
        return first, first + (first < len(self.keys) and self.keys[first] == key)

    def items_in(self, first: int, end: int) -> BoolArray:
        """Return which items have a code in a half-open range: bool (n_items,)."""
        return self._mask(self.rows_by_code[self.offsets[first] : self.offsets[end]])

    def items_of(self, chosen: BoolArray) -> BoolArray:
        """Return which items have a value of those chosen: bool (n_values,) to bool (n_items,)."""
        return self._mask(self.rows_by_code[np.repeat(chosen, np.diff(self.offsets))])

    @cached_property
    def known(self) -> BoolArray:
        """Which items have any value: bool (n_items,). Not to be changed."""
        return self._mask(self.rows)

    @cached_property
    def numbers(self) -> NumberArray:
        """The values as numbers: float64 (n_values,), NaN for those that are none."""
        return np.array([_number(key) for key in self.keys], dtype=np.float64)

    def entries(self, rows: IntArray) -> tuple[IntArray, Codes]:
        """Return the values of some rows.

        Args:
            rows: int64 (n_rows,), distinct.
        Returns:
            Positions in ``rows`` and codes, in parallel, one pair for each value of each row.
        """
        wanted = rows.astype(np.int32)  # of another type, numpy would copy the whole column
        begins = np.searchsorted(self.rows, wanted)
        counts = np.searchsorted(self.rows, wanted, side="right") - begins
        positions = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
        return positions, self.codes[begins[positions] + within]

    def _mask(self, rows: Codes) -> BoolArray:
        mask = np.zeros(self.n_items, dtype=np.bool_)
        mask[rows] = True
        return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemColumns:
    """The columns of one catalogue; a row is a row of its item table."""

    n_items: int
    price: NumberArray  # (n_items,) NaN where unknown
    updated_at: NumberArray  # (n_items,) microseconds since 1970, UTC; NaN where unknown
    in_stock: NumberArray  # (n_items,) 1 or 0; NaN where unknown
    texts: dict[str, TextColumn]  # of ``TEXTS``
    category: TextColumn  # every path that an item is in: "Shoes", "Shoes > Running"
    category_leaf: TextColumn  # the whole path alone
    attributes: dict[str, TextColumn]  # by folded name

    @classmethod
    def of(cls, items: ItemTable) -> "ItemColumns":
        """Derive the columns of a catalogue."""
        frame = items.frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("row"))
        prefixes, leaves = _paths(frame)
        return cls(
            n_items=len(items),
            price=frame["price"].fill_null(math.nan).to_numpy(),
            updated_at=frame["updated_at"].dt.timestamp("us").cast(pl.Float64).fill_null(math.nan).to_numpy(),
            in_stock=frame["in_stock"].cast(pl.Float64).fill_null(math.nan).to_numpy(),
            texts={name: _text_column(frame.select("row", value=name).drop_nulls(), len(items)) for name in TEXTS},
            category=prefixes,
            category_leaf=leaves,
            attributes=_attributes(frame),
        )

    def attribute(self, name: str) -> TextColumn:
        """Return an attribute's column, an empty one if no item has it."""
        found = self.attributes.get(fold(name))
        return TextColumn.empty(self.n_items) if found is None else found


def _text_column(entries: pl.DataFrame, n_items: int, *, path: bool = False) -> TextColumn:
    """Code entries (row, value) whose rows ascend."""
    known = entries["value"].value_counts(name="n")
    folded = [(fold_path if path else fold)(value) for value in known["value"]]
    known = known.with_columns(pl.Series("key", folded, dtype=pl.String))
    known = known.sort("key", "n", "value", descending=[False, True, False])
    known = known.with_columns(code=pl.col("key").rle_id().cast(pl.Int32))
    shown = known.unique("code", keep="first", maintain_order=True)
    # the cast is for a column without entries, of which polars does not heed the type
    codes = entries["value"].replace_strict(known["value"], known["code"], return_dtype=pl.Int32).cast(pl.Int32)
    # two spellings of one value, on one item
    distinct = pl.DataFrame({"row": entries["row"], "code": codes}).unique(maintain_order=True)
    return TextColumn(
        keys=shown["key"].to_list(),
        values=shown["value"].to_list(),
        rows=distinct["row"].to_numpy(),
        codes=distinct["code"].to_numpy(),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(distinct["code"].to_numpy(), minlength=shown.height))]),
        rows_by_code=distinct.sort("code", maintain_order=True)["row"].to_numpy(),
        n_items=n_items,
    )


def _paths(frame: pl.DataFrame) -> tuple[TextColumn, TextColumn]:
    """Return the columns of all paths that items are in, and of their whole paths."""
    leaves = frame.select("row", value=pl.col("category").list.join(_JOINT)).filter(pl.col("value") != "")
    whole = leaves["value"].unique().to_list()
    above = pl.DataFrame({"value": whole, "prefix": [_prefixes(path) for path in whole]}, schema_overrides=_PREFIXES)
    prefixes = leaves.join(above.explode("prefix"), on="value", how="left", maintain_order="left")
    return (
        _text_column(prefixes.select("row", value="prefix"), frame.height, path=True),
        _text_column(leaves, frame.height, path=True),
    )


_PREFIXES: dict[str, Any] = {"value": pl.String, "prefix": pl.List(pl.String)}


def _prefixes(path: str) -> list[str]:
    levels = path.split(_JOINT)
    return [_JOINT.join(levels[:depth]) for depth in range(1, len(levels) + 1)]


def _attributes(frame: pl.DataFrame) -> dict[str, TextColumn]:
    entries = (
        frame.select("row", "attributes")
        .explode("attributes")
        .unnest("attributes")
        .explode("values")
        .select("row", "name", value="values")
        .drop_nulls()
    )
    names = entries["name"].unique().to_list()
    keys = entries["name"].replace_strict(names, [fold(name) for name in names], return_dtype=pl.String)
    parts = entries.with_columns(key=keys).partition_by("key", as_dict=True, include_key=False)
    return {str(key): _text_column(part.select("row", "value"), frame.height) for (key,), part in parts.items()}


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
