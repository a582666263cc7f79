"""The catalogue: items, and the columnar table that every stage reads them from."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.errors import ArtefactError, UnknownItem
from corpus.folders import writing

ATTRIBUTES = pl.List(pl.Struct({"name": pl.String, "values": pl.List(pl.String)}))

ITEM_SCHEMA: dict[str, Any] = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "brand": pl.String,
    "category": pl.List(pl.String),  # path, root to leaf
    "price": pl.Float64,
    "currency": pl.String,
    "in_stock": pl.Boolean,
    "attributes": ATTRIBUTES,
    "image_uri": pl.String,
    "updated_at": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One catalogue entry, cleaned."""

    item_id: str  # 1-128 printable characters
    title: str
    description: str | None = None
    brand: str | None = None
    category: tuple[str, ...] = ()  # path, root to leaf
    price: float | None = None
    currency: str | None = None
    in_stock: bool | None = None
    attributes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    image_uri: str | None = None
    updated_at: datetime | None = None


class ItemTable:
    """The catalogue in catalogue order; an item's position, its row, is its number everywhere downstream.

    The columns are Arrow's; ids as Python strings and the look-up by them, which take several times as much memory,
    are made when they are first asked for. A build of a large catalogue never asks.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        """Wrap a frame whose columns and types are those of ``ITEM_SCHEMA``."""
        self.frame = frame.select(pl.col(name).cast(dtype) for name, dtype in ITEM_SCHEMA.items())

    @cached_property
    def ids(self) -> list[str]:
        """The items' ids, in row order."""
        return self.column("item_id")

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}

    @classmethod
    def from_items(cls, items: Iterable[Item]) -> "ItemTable":
        """Build a table from items, in their order."""
        rows = []
        for item in items:
            row = asdict(item)
            row["category"] = list(item.category)
            row["attributes"] = [{"name": k, "values": list(v)} for k, v in item.attributes.items()]
            rows.append(row)
        return cls(pl.DataFrame(rows, schema=ITEM_SCHEMA))

    @classmethod
    def read(cls, path: Path) -> "ItemTable":
        """Read a table written by ``write``.

        Raises:
            ArtefactError: If the file is missing or is not such a table.
        """
        try:
            return cls(pl.read_parquet(path))
        except (OSError, pl.exceptions.PolarsError) as exc:
            raise ArtefactError(f"expected an item table at {path}, got: {exc}; run `tandem prepare`") from exc

    def write(self, path: Path) -> None:
        """Write the table as zstd-compressed Parquet.

        Raises:
            ArtefactError: If the disk does not take it.
        """
        with writing(path):
            self.frame.write_parquet(path, compression="zstd")

    def __len__(self) -> int:
        return self.frame.height

    @property
    def own_bytes(self) -> int:
        """Memory, about, of what a snapshot of a catalogue holds beside it; this is the catalogue itself."""
        return 0

    def take(self, rows: npt.NDArray[np.int64] | range) -> "ItemTable":
        """Return the items of rows as a table of their own, in the order of the rows."""
        return ItemTable(self.frame[rows])

    def named(self, item_ids: Iterable[str]) -> "ItemTable":
        """Return the items of some ids as a table of their own, in catalogue order; unknown ids are left out."""
        return ItemTable(self.frame.filter(pl.col("item_id").is_in(list(item_ids))))

    def row_of(self, item_id: str) -> int | None:
        """Return the row of an item, or None if the catalogue has no such item."""
        return self._row_of.get(item_id)

    def item(self, row: int) -> Item:
        """Return the item of a row.

        Raises:
            UnknownItem: If the row is outside the table.
        """
        if not 0 <= row < len(self):
            raise UnknownItem(f"expected a row in [0, {len(self)}), got {row}")
        values = self.frame.row(row, named=True)
        values["category"] = tuple(values["category"] or ())
        values["attributes"] = {pair["name"]: tuple(pair["values"] or ()) for pair in values["attributes"] or ()}
        return Item(**values)

    def column(self, name: str) -> list[Any]:
        """Return one column as Python values, in row order."""
        return self.frame[name].to_list()

    def titles(self, rows: Sequence[int]) -> list[str]:
        """Return the titles of rows."""
        return self.frame["title"].gather(list(rows)).to_list()

    def changed_fields(self, after: "ItemTable") -> dict[str, tuple[str, ...]]:
        """Return which items have other values in a later table, and in which fields.

        Args:
            after: Another table; an item that only one of them has is left out, and the order of rows does not count.
        Returns:
            Item id → names of the fields that differ, in the later table's order.
        """
        fields = [name for name in ITEM_SCHEMA if name != "item_id"]
        both = self.frame.join(after.frame, on="item_id", how="inner", suffix=" after", maintain_order="right")
        differs = both.select(
            "item_id", *(pl.col(name).ne_missing(pl.col(f"{name} after")).alias(name) for name in fields)
        )
        return {
            row["item_id"]: tuple(name for name in fields if row[name])
            for row in differs.filter(pl.any_horizontal(fields)).iter_rows(named=True)
        }
