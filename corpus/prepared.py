"""What ``tandem prepare`` leaves behind, as later stages read it.

A folder ``data/`` with::

    items.parquet      the cleaned catalogue (corpus.items.ITEM_SCHEMA)
    examples.parquet   one row per search occurrence or judged query (EXAMPLE_SCHEMA)
    exposure.parquet   one row per split and item that was shown or clicked in it (EXPOSURE_SCHEMA, corpus.exposure)
    rejects.jsonl      refused input rows: file, line, reason
    manifest.json      counts, the resolved configuration, SHA-256 of the tables
"""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.errors import ArtefactError
from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable
from corpus.live_log import Held

FORMAT_VERSION = 2
TABLES = ("items.parquet", "examples.parquet", "exposure.parquet")  # whose bytes make the fingerprint

Split = Literal["train", "valid", "test"]
Part = Literal["all", "fitting", "judging"]
JUDGING_ONE_IN = 5  # searches of a split that are kept from fitting
SPLITS: tuple[Split, ...] = ("train", "valid", "test")  # in order of time

EXAMPLE_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "query": pl.String,
    "user_id": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),  # null for judged queries
    "split": pl.String,
    "labels": pl.List(pl.Struct({"row": pl.UInt32, "weight": pl.Float32, "grade": pl.Float32})),
    "history": pl.List(
        pl.Struct({"timestamp": pl.Datetime("us", "UTC"), "type": pl.String, "item_id": pl.String, "query": pl.String})
    ),  # newest first, strictly before the query
}

EXPOSURE_SCHEMA: dict[str, Any] = {
    "split": pl.String,  # by the instant of the event itself
    "row": pl.UInt32,
    "impressions": pl.UInt32,  # at a known position
    "clicks": pl.UInt32,  # impressions that were clicked
    "expected_clicks": pl.Float64,  # sum over the impressions of the click rate of their position in training
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is known about one item for one query."""

    row: int  # in the prepared item table
    weight: float  # training weight; 0 for an item judged irrelevant
    grade: float  # 0-3, for evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One search of one shopper (or one judged query) with the items that answered it."""

    query_id: str
    query: str
    user_id: str | None
    timestamp: datetime | None
    labels: tuple[Label, ...]
    history: tuple[HistoryEvent, ...]  # newest first, strictly before the query


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The (query, item) labels of some splits, as columns: one row per example and item."""

    queries: list[str]  # distinct texts, in the order of their first appearance
    query: npt.NDArray[np.int64]  # (n,) position in ``queries``
    row: npt.NDArray[np.int64]  # (n,) in the prepared item table
    weight: npt.NDArray[np.float32]  # (n,) above 0, or all 0 for items judged irrelevant
    shopper: npt.NDArray[np.int64]  # (n,) equal for the pairs of one shopper; -1 where nobody knows whose it is
    timestamp: npt.NDArray[np.datetime64]  # (n,) UTC, microseconds; NaT for judged queries

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Pairs":
        """Return some of the pairs, under the same queries."""
        return Pairs(
            queries=self.queries,
            query=self.query[chosen],
            row=self.row[chosen],
            weight=self.weight[chosen],
            shopper=self.shopper[chosen],
            timestamp=self.timestamp[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How often items were shown and clicked in some splits, as columns: one row per item."""

    row: npt.NDArray[np.int64]  # (n,) in the prepared item table
    impressions: npt.NDArray[np.float32]  # (n,)
    clicks: npt.NDArray[np.float32]  # (n,)
    expected_clicks: npt.NDArray[np.float32]  # (n,) of an item like any other at the same positions

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Exposure":
        """Return the exposure of some of the items."""
        return Exposure(
            row=self.row[chosen],
            impressions=self.impressions[chosen],
            clicks=self.clicks[chosen],
            expected_clicks=self.expected_clicks[chosen],
        )


T = TypeVar("T", Pairs, Exposure)


class Prepared:
    """Reader of a prepared ``data/`` folder."""

    def __init__(self, folder: Path) -> None:
        """Open the folder.

        Raises:
            ArtefactError: If the folder was not written by this version's ``tandem prepare``.
        """
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise ArtefactError(f"expected prepared data in {folder}, found none; run `tandem prepare` first") from exc
        found = self.manifest.get("format_version")
        if found != FORMAT_VERSION:
            raise ArtefactError(
                f"expected prepared data of format {FORMAT_VERSION} in {folder}, got {found!r}; "
                "run `tandem prepare` again"
            )
        self._items: ItemTable | None = None
        self._places: npt.NDArray[np.int64] | None = None  # row in the folder's table -> row in ``items``, or -1

    def under(self, items: ItemTable) -> "Prepared":
        """Return the same data with the rows of another catalogue.

        What it says about an item that this catalogue lacks is left out.

        Args:
            items: What rows are to be numbers of.
        """
        other = Prepared(self.folder)
        other._items = items
        own = self.items if self._places is None else Prepared(self.folder).items
        if own.ids != items.ids:
            rows = (items.row_of(item_id) for item_id in own.ids)
            other._places = np.array([-1 if row is None else row for row in rows], dtype=np.int64)
        return other

    @property
    def held(self) -> Held:
        """The live updates that the export itself holds (``tandem prepare --as-of``)."""
        as_of = self.manifest.get("live_as_of")
        return Held(
            log=str(self.manifest.get("live_log", "")),
            sequence=int(self.manifest.get("live_sequence", 0)),
            as_of=None if as_of is None else datetime.fromisoformat(as_of),
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the tables, as hexadecimal digits."""
        return str(self.manifest["fingerprint"])

    @property
    def items(self) -> ItemTable:
        """The catalogue, read once."""
        if self._items is None:
            self._items = ItemTable.read(self.folder / "items.parquet")
        return self._items

    def examples(
        self,
        split: Split,
        *,
        limit: int | None = None,
        seed: int = 0,
        with_history: bool = True,
        part: Part = "all",
    ) -> list[Example]:
        """Read the examples of one split, in the order of their query ids' hash if limited, else of the file.

        Args:
            split: Which part.
            limit: Keep at most so many, drawn uniformly by a seeded hash of the query id.
            seed: Seed of that draw.
            with_history: False leaves the histories empty, which take most of the memory and the time.
            part: ``judging`` is a fifth of the split, drawn by a hash of the query id that is the same everywhere, and
                ``fitting`` the rest: the blend's trees are fitted on the one and judged on the other.
        """
        frame = pl.scan_parquet(self.folder / "examples.parquet").filter(pl.col("split") == split)
        if part != "all":
            ids = frame.select("query_id").collect()["query_id"].to_list()
            judging = pl.col("query_id").is_in([query_id for query_id in ids if _judges(query_id)])
            frame = frame.filter(judging if part == "judging" else ~judging)
        if not with_history:
            frame = frame.with_columns(pl.lit(None).alias("history"))
        if limit is not None:
            frame = frame.sort(pl.col("query_id").hash(seed)).head(limit)
        found = [_example(row) for row in frame.collect(engine="streaming").iter_rows(named=True)]
        return found if self._places is None else [_moved(example, self._places) for example in found]

    def pairs_before(self, split: Split) -> Pairs:
        """Read the pairs of all splits before one: what may be known when its searches are answered."""
        return self.pairs(*SPLITS[: SPLITS.index(split)])

    def pairs(self, *splits: Split, irrelevant: bool = False) -> Pairs:
        """Read the query-item pairs of some splits without histories, for logs too large for ``examples``.

        Args:
            splits: Which parts.
            irrelevant: Read the labels of weight 0 instead of those above.
        """
        frame = (
            pl.scan_parquet(self.folder / "examples.parquet")
            .filter(pl.col("split").is_in(splits))
            .select("query", "user_id", "timestamp", "labels")
            .explode("labels", empty_as_null=False, keep_nulls=False)
            .unnest("labels")
            .filter(pl.col("weight") == 0 if irrelevant else pl.col("weight") > 0)
            .select("query", "user_id", "timestamp", "row", "weight")
            .collect(engine="streaming")
        )
        shoppers = frame["user_id"].rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
        queries = frame.select(pl.col("query").unique(maintain_order=True))
        numbered = frame.join(queries.with_row_index("number"), on="query", how="left", maintain_order="left")
        found = Pairs(
            queries=queries["query"].to_list(),
            query=numbered["number"].cast(pl.Int64).to_numpy(),
            row=numbered["row"].cast(pl.Int64).to_numpy(),
            weight=numbered["weight"].to_numpy(),
            shopper=shoppers,
            timestamp=frame["timestamp"].dt.replace_time_zone(None).to_numpy(),
        )
        return found if self._places is None else in_rows(found, self._places)

    def exposure_before(self, split: Split) -> Exposure:
        """Read the exposure in all splits before one: what may be known when its searches are answered."""
        return self.exposure(*SPLITS[: SPLITS.index(split)])

    def exposure(self, *splits: Split) -> Exposure:
        """Read how often items were shown and clicked in some splits; no rows if the log holds no impressions."""
        frame = (
            pl.scan_parquet(self.folder / "exposure.parquet")
            .filter(pl.col("split").is_in(splits))
            .group_by("row", maintain_order=True)
            .agg(pl.sum("impressions", "clicks", "expected_clicks").cast(pl.Float32))
            .sort("row")
            .collect()
        )
        found = Exposure(
            row=frame["row"].cast(pl.Int64).to_numpy(),
            impressions=frame["impressions"].to_numpy(),
            clicks=frame["clicks"].to_numpy(),
            expected_clicks=frame["expected_clicks"].to_numpy(),
        )
        return found if self._places is None else in_rows(found, self._places)


def in_rows(columns: T, places: npt.NDArray[np.int64]) -> T:
    """Translate pairs or exposure to the rows of another catalogue; ``places`` is -1 for items that it lacks."""
    rows = places[columns.row]
    return replace(columns, row=rows).take(rows >= 0)


def _moved(example: Example, places: npt.NDArray[np.int64]) -> Example:
    labels = (replace(label, row=int(places[label.row])) for label in example.labels)
    return replace(example, labels=tuple(label for label in labels if label.row >= 0))


def _judges(query_id: str) -> bool:
    digest = hashlib.blake2b(query_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % JUDGING_ONE_IN == 1


def _example(row: dict[str, Any]) -> Example:
    return Example(
        query_id=row["query_id"],
        query=row["query"],
        user_id=row["user_id"],
        timestamp=row["timestamp"],
        labels=tuple(Label(**label) for label in row["labels"]),
        history=tuple(HistoryEvent(**{**event, "type": EventType(event["type"])}) for event in row["history"] or ()),
    )
