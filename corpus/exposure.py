"""Exposure: how often each item was shown and clicked, and how often any item would have been clicked in its places.

What stands first is clicked because it stands first. Clicks over expected clicks (COEC) takes that out: each impression
is expected to be clicked as often as impressions at its position are. A position's rate is that of the training split,
so that nothing of the later ones flows into what is known before them.

A display is an impression with a position; without one nobody knows what to expect, and it is left out. An item that
the search of one ``search_id`` shows again counts once, where it was shown first. A click counts for

1. the display of its item under the ``search_id`` that it carries, whenever either was logged;
2. without one, the last display of its item in its session within the attribution window, and for its own query if it
   carries one.

A click without a session looks at all displays to its shopper. Further clicks on one display add nothing. Each event
counts in the split of its own instant: the click on what was shown just before a split began belongs to that split.

Source: Zhang & Jones 2007, "Comparing click logs and editorial labels for training query rewriting". Chapelle & Zhang
2009, "A dynamic Bayesian network click model for web search ranking", set it among the models of position bias.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.event_log import CLICK, IMPRESSION
from corpus.folders import writing
from corpus.prepared import EXPOSURE_SCHEMA, SPLITS
from corpus.splitting import Boundaries

DISPLAY_SCHEMA: dict[str, Any] = {
    "split": pl.String,
    "row": pl.UInt32,
    "position": pl.UInt32,
    "impressions": pl.UInt32,
    "clicks": pl.UInt32,
}

_CELL = ["split", "row", "position"]
_COLUMNS = ["shopper", "session_id", "timestamp", "query", "search_id", "row"]


def count_displays(events: pl.DataFrame, window: timedelta, boundaries: Boundaries) -> pl.DataFrame:
    """Count the displays of some shoppers and those that were clicked.

    Args:
        events: Whole logs of the shoppers, columns as in ``EventParts`` and ``shopper``.
        window: Longest time from a display to its click, where no ``search_id`` joins them.
        boundaries: Where the splits begin.
    Returns:
        Columns of ``DISPLAY_SCHEMA``, a row per split, item and position, sorted by these.
    """
    displays = _displays(events)
    clicks = events.filter(pl.col("type") == CLICK).select(_COLUMNS)
    # a click is known once both it and its display are, whichever was logged first
    clicked = displays.join(_first_clicks(displays, clicks, window), on="n").with_columns(
        pl.max_horizontal("timestamp", "clicked_at").alias("timestamp")
    )
    one, none = pl.lit(1, dtype=pl.UInt32), pl.lit(0, dtype=pl.UInt32)
    counted = pl.concat(
        [
            displays.select("timestamp", "row", "position", impressions=one, clicks=none),
            clicked.select("timestamp", "row", "position", impressions=none, clicks=one),
        ]
    )
    return (
        counted.group_by(boundaries.split(pl.col("timestamp")).alias("split"), "row", "position")
        .agg(pl.sum("impressions", "clicks"))
        .select(pl.col(name).cast(dtype) for name, dtype in DISPLAY_SCHEMA.items())
        .sort(_CELL)
    )


def write_exposure(parts: Sequence[Path], n_items: int, out: Path) -> int:
    """Sum the displays up by split and item, with the clicks that their positions let expect.

    Holds one part and some numbers per item in memory. Without a display in the training split there are no rates, and
    the table is empty.

    Args:
        parts: Arrow files of ``DISPLAY_SCHEMA``.
        n_items: Size of the catalogue.
        out: The Parquet file to write, of ``EXPOSURE_SCHEMA``.
    Returns:
        The number of rows written.
    """
    positions, rates = _rates(parts)
    totals = np.zeros((3, len(SPLITS) * n_items))  # impressions, clicks, expected clicks of each (split, item)
    for part in parts if len(positions) else ():
        cells = pl.read_ipc(part)
        split = cells["split"].replace_strict(SPLITS, list(range(len(SPLITS))), return_dtype=pl.Int64).to_numpy()
        key = split * n_items + cells["row"].to_numpy()
        impressions, clicks = cells["impressions"].to_numpy(), cells["clicks"].to_numpy()
        # a position that training never showed is expected to do as the next one above it
        place = np.searchsorted(positions, cells["position"].to_numpy(), side="right") - 1
        expected = impressions * rates[np.maximum(place, 0)]
        for total, values in zip(totals, (impressions, clicks, expected), strict=True):
            total += np.bincount(key, weights=values, minlength=len(total))
    (seen,) = np.nonzero(totals[:2].sum(axis=0))
    columns = {
        "split": pl.Series(SPLITS).gather(seen // max(n_items, 1)),
        "row": pl.Series(seen % max(n_items, 1)),
        "impressions": pl.Series(totals[0, seen]),
        "clicks": pl.Series(totals[1, seen]),
        "expected_clicks": pl.Series(totals[2, seen]),
    }
    table = pl.DataFrame(columns).select(pl.col(name).cast(dtype) for name, dtype in EXPOSURE_SCHEMA.items())
    with writing(out):
        table.write_parquet(out, compression="zstd")
    return table.height


def _displays(events: pl.DataFrame) -> pl.DataFrame:
    """Return the impressions that count, numbered by ``n``, in order of time."""
    shown = (
        events.filter((pl.col("type") == IMPRESSION) & pl.col("position").is_not_null())
        .sort("timestamp", "position", "file", "line")
        .select(*_COLUMNS, "position")
        .with_row_index("n")
    )
    has_id = pl.col("search_id").is_not_null()
    once = shown.filter(has_id).unique(["shopper", "search_id", "row"], keep="first", maintain_order=True)
    return pl.concat([once, shown.filter(~has_id)]).sort("n")


def _first_clicks(displays: pl.DataFrame, clicks: pl.DataFrame, window: timedelta) -> pl.DataFrame:
    """Return the number ``n`` of each display that was clicked, and ``clicked_at``, when it first was."""
    has_id, has_query = pl.col("search_id").is_not_null(), pl.col("query").is_not_null()
    by_id = clicks.filter(has_id).select("shopper", "search_id", "row", clicked_at="timestamp")
    rest = clicks.filter(~has_id)
    found = [
        displays.join(by_id, on=["shopper", "search_id", "row"]).select("n", "clicked_at"),
        _last_display(displays, rest.filter(has_query), ["row", "query"], window),
        _last_display(displays, rest.filter(~has_query), ["row"], window),
    ]
    return pl.concat(found).group_by("n").agg(pl.min("clicked_at"))


def _last_display(displays: pl.DataFrame, clicks: pl.DataFrame, same: list[str], window: timedelta) -> pl.DataFrame:
    """Find the last display at or before each click within the window; ``same`` are columns that must agree."""
    in_session = pl.col("session_id").is_not_null()
    parts = []
    for chosen, shown, by in (
        (clicks.filter(in_session), displays.filter(in_session), ["shopper", "session_id", *same]),
        (clicks.filter(~in_session), displays, ["shopper", *same]),
    ):
        matched = (
            chosen.select(*by, "timestamp", clicked_at="timestamp")
            .sort("timestamp")
            .join_asof(
                shown.select(*by, "timestamp", "n"),
                on="timestamp",
                by=by,
                strategy="backward",
                tolerance=window,
                check_sortedness=False,
            )
        )
        parts.append(matched.filter(pl.col("n").is_not_null()).select("n", "clicked_at"))
    return pl.concat(parts)


def _rates(parts: Sequence[Path]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Return the positions that the training split shows, rising, and the share of clicked impressions at each."""
    if not parts:
        return np.empty(0, dtype=np.uint32), np.empty(0)
    known = (
        pl.scan_ipc(list(parts))
        .filter(pl.col("split") == SPLITS[0])
        .group_by("position")
        .agg(pl.sum("impressions", "clicks"))
        .filter(pl.col("impressions") > 0)
        .sort("position")
        .collect(engine="streaming")
    )
    return known["position"].to_numpy(), (known["clicks"] / known["impressions"]).to_numpy()
