"""The catalogue under live updates: a base whose rows stay, and the items that changed since."""

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Self

import polars as pl

from corpus.errors import UnknownItem
from corpus.items import Item, ItemTable
from corpus.live_log import Change


class LiveItems(ItemTable):
    """A base table with some rows replaced, some added behind, and some that are gone; immutable.

    A row that is gone keeps its number: it is found by no id, but answers that were ranked before may still show it.
    """

    def __init__(self, base: ItemTable) -> None:
        """Begin without changes."""
        self.base = base
        self.n_rows = len(base)
        self.changed: Mapping[int, Item] = {}  # row -> what stands there now, or stood there last
        self.gone: frozenset[int] = frozenset()
        self._added: Mapping[str, int] = {}  # id -> row behind the base

    def with_changes(self, upserts: Mapping[str, Item], deletions: Iterable[str]) -> Self:
        """Return the table after a change.

        Args:
            upserts: Items to put in place, by id; one whose row was gone comes back to it.
            deletions: Ids to remove, none of them upserted; unknown ones are passed over.
        """
        after = type(self)(self.base)
        new = [item_id for item_id in upserts if self.any_row_of(item_id) is None]
        # shared where nothing changes: kept answers hold many tables
        after._added = {**self._added, **{each: self.n_rows + n for n, each in enumerate(new)}} if new else self._added
        after.n_rows = self.n_rows + len(new)
        found = {row: item for item_id, item in upserts.items() if (row := after.any_row_of(item_id)) is not None}
        after.changed = {**self.changed, **found} if found else self.changed
        removed = {row for item_id in deletions if (row := self.any_row_of(item_id)) is not None}
        after.gone = (self.gone - found.keys()) | removed
        return after

    @property
    def frame(self) -> pl.DataFrame:  # type: ignore[override]
        """The whole table, the gone rows included: written anew at each call."""
        return replace_rows(self.base.frame, self.changed)

    @property
    def ids(self) -> list[str]:
        """The ids in row order, those of gone rows included."""
        return [*self.base.ids, *self._added]

    def __len__(self) -> int:
        return self.n_rows

    @property
    def own_bytes(self) -> int:
        """See ``ItemTable.own_bytes``: its look-ups; items themselves are shared by many snapshots."""
        return sum(map(sys.getsizeof, (self.changed, self._added, self.gone)))

    def any_row_of(self, item_id: str) -> int | None:
        """Return the row of an item even if it is gone, or None if there never was such an item."""
        row = self.base.row_of(item_id)
        return self._added.get(item_id) if row is None else row

    def row_of(self, item_id: str) -> int | None:
        """Return the row of an item, or None if the catalogue has no such item any more."""
        row = self.any_row_of(item_id)
        return None if row in self.gone else row

    def item(self, row: int) -> Item:
        """Return the item of a row.

        Raises:
            UnknownItem: If the row is outside the table.
        """
        if row in self.changed:
            return self.changed[row]
        if row >= len(self.base):
            raise UnknownItem(f"expected a row in [0, {self.n_rows}), got {row}")
        return self.base.item(row)

    def column(self, name: str) -> list[Any]:
        """Return one column as Python values, in row order."""
        return self.frame[name].to_list()

    def titles(self, rows: Iterable[int]) -> list[str]:
        """Return the titles of rows."""
        return [self.item(row).title for row in rows]


def replace_rows(frame: pl.DataFrame, changed: Mapping[int, Item]) -> pl.DataFrame:
    """Return an item frame with some rows replaced; numbers behind its end add rows, without gaps."""
    if not changed:
        return frame
    fresh = ItemTable.from_items(changed.values()).frame.with_columns(pl.Series("row", list(changed), dtype=pl.UInt32))
    old = frame.with_row_index("row").join(fresh.select("row"), on="row", how="anti")
    return pl.concat([old, fresh.select(old.columns)]).sort("row").drop("row")


def latest_changes(
    items: ItemTable, changes: Iterable[Change], *, read_at: datetime | None = None
) -> dict[str, Item | None]:
    """Return what changes make of the items that they name: what each is now, or None where it is gone.

    Of an exported item and a live one the later counts where both can be told: an export's ``updated_at`` after the
    live item's own, or after the time at which that was accepted, wins. Elsewhere the live one does.

    Args:
        items: As exported.
        changes: Oldest first.
        read_at: What was accepted later than that is later than any export here, whatever the items say.
    """
    latest: dict[str, tuple[Item | None, datetime | None]] = {}
    for change in changes:
        counts_anyway = read_at is not None and change.time > read_at
        for item in change.upserts:
            latest[item.item_id] = (item, None if counts_anyway else item.updated_at or change.time)
        for item_id in change.deletions:
            latest[item_id] = (None, None if counts_anyway else change.time)
    current: dict[str, Item | None] = {}
    for item_id, (live, time) in latest.items():
        row = None if time is None else items.row_of(item_id)
        exported = None if row is None else items.item(row).updated_at
        if time is None or exported is None or exported <= time:
            current[item_id] = live
    return current


def merge_changes(items: ItemTable, changes: Iterable[Change]) -> ItemTable:
    """Return a catalogue with live updates in it: rows keep their order, new items come behind, gone ones leave.

    Args:
        items: As exported.
        changes: Oldest first; see ``latest_changes``.
    """
    current = latest_changes(items, changes)
    live = LiveItems(items).with_changes(
        {item_id: item for item_id, item in current.items() if item is not None},
        [item_id for item_id, item in current.items() if item is None],
    )
    if not live.changed and not live.gone:
        return items
    return ItemTable(live.frame.with_row_index("n").filter(~pl.col("n").is_in(sorted(live.gone))).drop("n"))
