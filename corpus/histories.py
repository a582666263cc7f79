"""Histories: what a shopper did before a search, strictly before it."""

import numpy as np
import polars as pl

from corpus.event_log import IMPRESSION
from corpus.events import EventType
from corpus.prepared import EXAMPLE_SCHEMA

_KINDS = [str(kind) for kind in EventType]


def add_histories(examples: pl.DataFrame, events: pl.DataFrame, item_ids: pl.Series, *, limit: int) -> pl.DataFrame:
    """Give each search the shopper's last events before it, newest first.

    Events at the very instant of the search are left out: the search itself, and what a log with whole seconds cannot
    order. Impressions are no events of the shopper's.

    Args:
        examples: Searches, with shopper and timestamp.
        events: Whole logs of their shoppers, columns as in ``EventParts`` and ``shopper``.
        item_ids: Ids of the catalogue, by row.
        limit: Longest history, in events.
    Returns:
        The examples, in their order, with a column ``history``.
    """
    told = events.filter(pl.col("type") != IMPRESSION).sort("shopper", "timestamp", "file", "line", "type")
    counts, starts = _spans(examples, told, limit)
    n_entries = int(counts.sum())
    # entry j of example i is the event before the search, then the one before that …
    example = np.repeat(np.arange(examples.height, dtype=np.uint32), counts)
    step = np.arange(n_entries) - np.repeat(np.cumsum(counts) - counts, counts)
    position = np.repeat(starts + counts - 1, counts) - step
    entries = told.select(
        "timestamp",
        pl.col("type").replace_strict(list(range(len(_KINDS))), _KINDS, return_dtype=pl.String),
        item_id=pl.lit(item_ids).gather(pl.col("row")) if len(item_ids) else pl.lit(None, dtype=pl.String),
        query="query",
    )[position]
    grouped = (
        pl.DataFrame({"example": example, "entry": entries.to_struct()})
        .group_by("example", maintain_order=True)
        .agg(history="entry")
    )
    order = pl.DataFrame({"example": np.arange(examples.height, dtype=np.uint32)})
    history = order.join(grouped, on="example", how="left", maintain_order="left")["history"]
    empty = pl.lit([], dtype=EXAMPLE_SCHEMA["history"])
    return examples.with_columns(history.cast(EXAMPLE_SCHEMA["history"]).fill_null(pl.select(empty).to_series()))


def _spans(
    examples: pl.DataFrame, events: pl.DataFrame, limit: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return how many events each example's history has and where in the sorted events it starts."""
    shoppers = pl.concat([events["shopper"], examples["shopper"]]).rank("dense").to_numpy()
    instants = pl.concat([events["timestamp"], examples["timestamp"]]).to_physical().to_numpy()
    is_event = np.arange(len(shoppers)) < events.height
    # on a tie the search comes first: only strictly earlier events are counted before it
    order = np.lexsort((is_event, instants, shoppers))
    seen = np.cumsum(is_event[order])
    ends = np.empty(len(order), dtype=np.int64)
    ends[order] = seen
    ends = ends[events.height :]
    first = np.searchsorted(shoppers[: events.height], shoppers[events.height :])  # events are sorted by shopper
    counts = np.minimum(ends - first, limit)
    return counts, ends - counts
