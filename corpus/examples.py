"""Examples from behaviour: one per search that led to something, with its labels, history and split.

Two passes over the buckets: the first attributes, and so learns when searches happened; the second, which then knows
where the splits begin, labels, tells histories and counts what was shown. Each holds one bucket in memory.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.attribution import attribute
from corpus.event_log import SEARCH, EventParts
from corpus.events import GRADES, EventType
from corpus.exposure import count_displays
from corpus.histories import Histories
from corpus.prepared import EXAMPLE_SCHEMA
from corpus.progress import track
from corpus.rejects import RejectLog
from corpus.settings import DataConfig
from corpus.shoppers import bucket_by_shopper, read_bucket
from corpus.splitting import Boundaries, time_boundaries

SLICE_EXAMPLES = 10_000  # up to 500,000 history events at a time

_SEARCH_KEY = ["shopper", "query", "searched_at"]


@dataclass(slots=True)
class Behaviour:
    """What became of the event log."""

    parts: list[Path] = field(default_factory=list)  # Arrow files of EXAMPLE_SCHEMA
    displays: list[Path] = field(default_factory=list)  # Arrow files of corpus.exposure.DISPLAY_SCHEMA
    boundaries: Boundaries = field(default_factory=lambda: Boundaries(valid_from=None, test_from=None))
    counts: Counter[str] = field(default_factory=Counter)


def make_examples(
    log: EventParts, config: DataConfig, item_ids: pl.Series, folder: Path, rejects: RejectLog
) -> Behaviour:
    """Turn the cleaned log into examples.

    Args:
        log: The cleaned log; its parts are consumed.
        config: Window, weights, boundaries, length of histories.
        item_ids: Ids of the catalogue, by row.
        folder: Takes the work files and the examples.
        rejects: Takes events that were delivered twice.
    Raises:
        InputError: If no time boundaries can be drawn.
    """
    result = Behaviour()
    window = timedelta(minutes=config.attribution_window_minutes)
    buckets = bucket_by_shopper(log, folder)
    worked: list[tuple[Path, Path]] = []
    instants: list[npt.NDArray[np.int64]] = []
    for number, paths in enumerate(track(buckets, description="attributing, buckets")):
        if not paths:
            continue
        events = read_bucket(paths, log, rejects)
        labels = _labels(attribute(events, window), config, result.counts)
        result.counts["n_searches"] += events.filter(pl.col("type") == SEARCH).height
        instants.append(labels.unique(_SEARCH_KEY)["searched_at"].to_physical().to_numpy())
        files = folder / f"events-{number:04d}.arrow", folder / f"labels-{number:04d}.arrow"
        events.write_ipc(files[0], compression="lz4")
        labels.write_ipc(files[1], compression="lz4")
        worked.append(files)
        for path in paths:
            path.unlink()
    if instants:
        result.boundaries = time_boundaries(np.concatenate(instants), config)
    for number, files in enumerate(track(worked, description="telling histories, buckets")):
        events, labels = (pl.read_ipc(file) for file in files)
        examples = _examples(labels, result.boundaries, result.counts)
        displays = count_displays(events, window, result.boundaries)
        if displays.height:
            result.displays.append(folder / f"displays-{number:04d}.arrow")
            displays.write_ipc(result.displays[-1], compression="lz4")
        histories = Histories(events, item_ids, limit=config.history_max_events)
        # in slices: one busy shopper may have as many searches as all others of a bucket
        for piece, rows in enumerate(examples.iter_slices(SLICE_EXAMPLES)):
            part = folder / f"examples-{number:04d}-{piece:04d}.arrow"
            told = rows.with_columns(histories.before(rows), user_id=pl.col("shopper").str.slice(1))
            told.select(pl.col(name).cast(dtype) for name, dtype in EXAMPLE_SCHEMA.items()).write_ipc(
                part, compression="lz4"
            )
            result.parts.append(part)
        for file in files:
            file.unlink()
    return result


def _labels(attributed: pl.DataFrame, config: DataConfig, counts: Counter[str]) -> pl.DataFrame:
    """Weigh the interactions that belong to a search."""
    found = attributed.filter(pl.col("searched_at").is_not_null())
    counts["n_unattributed"] += attributed.height - found.height
    kinds = list(EventType)
    weight = {code: config.event_weights.get(kind, 0.0) for code, kind in enumerate(kinds)}
    grade = {code: GRADES.get(kind, 0.0) for code, kind in enumerate(kinds)}
    return found.with_columns(
        weight=pl.col("type").replace_strict(weight, return_dtype=pl.Float32),
        grade=pl.col("type").replace_strict(grade, return_dtype=pl.Float32),
    ).filter(pl.col("weight") > 0)


def _examples(labels: pl.DataFrame, boundaries: Boundaries, counts: Counter[str]) -> pl.DataFrame:
    """Gather the labels of each search; an item counts once, by its strongest event."""
    known = labels.filter(boundaries.known_in_time(pl.col("searched_at"), pl.col("observed_at")))
    counts["n_labels_past_split"] += labels.height - known.height
    examples = (
        known.group_by(*_SEARCH_KEY, "row")
        .agg(pl.col("weight").max(), pl.col("grade").max())
        .sort(*_SEARCH_KEY, "row")
        .group_by(_SEARCH_KEY, maintain_order=True)
        .agg(labels=pl.struct("row", "weight", "grade"))
        .rename({"searched_at": "timestamp"})
    )
    keys = zip(
        examples["shopper"].to_list(), examples["query"].to_list(), examples["timestamp"].to_physical(), strict=True
    )
    ids = [_query_id(shopper, query, instant) for shopper, query, instant in keys]
    return examples.with_columns(
        pl.Series("query_id", ids, dtype=pl.String), split=boundaries.split(pl.col("timestamp"))
    ).sort("timestamp", "query_id")


def _query_id(shopper: str, query: str, instant: int) -> str:
    """Name a search without telling who searched for what."""
    text = f"{shopper}\0{query}\0{instant}"
    return f"s{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
