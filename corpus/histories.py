"""Histories: what a shopper did before a search, strictly before it."""

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.event_log import IMPRESSION
from corpus.events import EventType
from corpus.prepared import EXAMPLE_SCHEMA

_KINDS = [str(kind) for kind in EventType]
_HISTORY = EXAMPLE_SCHEMA["history"]


class Histories:
    """The events of some shoppers, ready to be cut before any instant.

    Events at the very instant of a search are left out of its history: the search itself, and what a log with whole
    seconds cannot order. Impressions are no events of the shopper's.
    """

    def __init__(self, events: pl.DataFrame, item_ids: pl.Series, *, limit: int) -> None:
        """Sort the events once.

        Args:
            events: Whole logs of their shoppers, columns as in ``EventParts`` and ``shopper``.
            item_ids: Ids of the catalogue, by row.
            limit: Longest history, in events.
        """
        told = events.filter(pl.col("type") != IMPRESSION).sort("shopper", "timestamp", "file", "line", "type")
        self._limit = limit
        self._entries = told.select(
            "timestamp",
            pl.col("type").replace_strict(list(range(len(_KINDS))), _KINDS, return_dtype=pl.String),
            item_id=pl.lit(item_ids).gather(pl.col("row")),
            query="query",
        ).to_struct()
        # shoppers and instants as ranks, so that (shopper, instant) is one sorted integer
        self._shoppers = told.select("shopper").unique(maintain_order=True).with_row_index("code")
        codes = told["shopper"].rank("dense").cast(pl.Int64).to_numpy() - 1
        instants = told["timestamp"].to_physical().to_numpy()
        self._instants = np.unique(instants)
        self._codes = codes
        self._keys = self._key(codes, np.searchsorted(self._instants, instants))

    def before(self, examples: pl.DataFrame) -> pl.Series:
        """Return the history of each search, newest event first.

        Args:
            examples: Searches, with shopper and timestamp.
        Returns:
            A column ``history`` of the type in ``EXAMPLE_SCHEMA``, in the order of the examples.
        """
        counts, ends = self._spans(examples)
        # entry j of example i is the event before the search, then the one before that …
        steps = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = self._entries[np.repeat(ends - 1, counts) - steps]
        numbers = pl.Series(np.arange(examples.height, dtype=np.uint32))
        grouped = (
            pl.DataFrame({"example": np.repeat(numbers.to_numpy(), counts), "history": entries})
            .group_by("example", maintain_order=True)
            .agg("history")
        )
        joined = pl.DataFrame({"example": numbers}).join(grouped, on="example", how="left", maintain_order="left")
        empty = pl.lit([], dtype=_HISTORY)
        return joined.select(pl.col("history").cast(_HISTORY).fill_null(empty)).to_series()

    def _spans(self, examples: pl.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the length of each example's history and the position after its last event."""
        known = examples.select("shopper").join(self._shoppers, on="shopper", how="left", maintain_order="left")
        codes = known["code"].cast(pl.Int64).fill_null(len(self._shoppers)).to_numpy()
        # side left: only strictly earlier instants count
        ranks = np.searchsorted(self._instants, examples["timestamp"].to_physical().to_numpy(), side="left")
        ends = np.searchsorted(self._keys, self._key(codes, ranks), side="left")
        first = np.searchsorted(self._codes, codes, side="left")
        return np.minimum(ends - first, self._limit), ends

    def _key(self, codes: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return codes * (len(self._instants) + 1) + ranks
