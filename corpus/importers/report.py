"""What an importer hands back, and how it finds and reads its files."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from corpus.errors import BadSource
from corpus.sources import TableSchema, read_blocks

logger = logging.getLogger(__name__)

ITEMS_FILE = "items.parquet"
EVENTS_FILE = "events.parquet"
JUDGMENTS_FILE = "judgments.parquet"

EVENT_COLUMNS: dict[str, Any] = {
    "timestamp": pl.Datetime("us", "UTC"),
    "user_id": pl.String,
    "session_id": pl.String,
    "type": pl.String,
    "query": pl.String,
    "item_id": pl.String,
    "position": pl.Int64,
    "search_id": pl.String,
}


class ImportReport(BaseModel):
    """What was imported."""

    settings: dict[str, Any]  # for [data]: paths relative to the workspace, dates, thresholds
    counts: dict[str, int]  # rows by table


def find(source: Path, *names: str) -> Path:
    """Return the first of some files that the folder has.

    Raises:
        BadSource: If it has none of them.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    have = ", ".join(sorted(path.name for path in source.iterdir())[:12]) or "nothing"
    raise BadSource(f"expected {' or '.join(names)} in {source}, found: {have}; check the folder")


def read_table(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> pl.DataFrame:
    """Read a small table as text; columns that the file lacks are null, unreadable rows are left out with a warning.

    Raises:
        BadSource: If the file cannot be read or lacks a required column.
    """
    return read_schema(
        path, TableSchema(name="import", setting="columns", required=tuple(required), optional=tuple(optional))
    )


def read_schema(path: Path, schema: TableSchema) -> pl.DataFrame:
    """Read a table as ``read_table`` does, by a schema that exists already; Parquet keeps its own types."""
    frames = [pl.DataFrame(schema=dict.fromkeys(schema.columns, pl.String))]
    for block in read_blocks(path.name, path.parent, schema, {}):
        frames.append(block.frame)
        for line, reason in block.broken:
            logger.warning("%s, line %d is left out: %s", path.name, line, reason)
    return pl.concat(frames, how="diagonal_relaxed")


def write_items(frame: pl.DataFrame, out: Path) -> int:
    """Write the catalogue; return its rows."""
    frame.write_parquet(out / ITEMS_FILE, compression="zstd")
    return frame.height


def write_events(frame: pl.DataFrame, out: Path) -> int:
    """Write the log in order of time, absent columns as null; return its rows."""
    have = {name: pl.col(name) if name in frame.columns else pl.lit(None) for name in EVENT_COLUMNS}
    events = frame.select(have[name].cast(dtype).alias(name) for name, dtype in EVENT_COLUMNS.items())
    events.sort("timestamp", maintain_order=True).write_parquet(out / EVENTS_FILE, compression="zstd")
    return events.height


def write_judgments(frame: pl.DataFrame, out: Path) -> int:
    """Write judgments; return their rows."""
    frame.write_parquet(out / JUDGMENTS_FILE, compression="zstd")
    return frame.height
