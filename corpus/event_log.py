"""The event log as a store delivers it: validated, cleaned and laid down in parts that fit into memory."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from corpus.errors import EmptyQuery, InputError
from corpus.events import EventType
from corpus.progress import track
from corpus.queries import MAX_QUERY_CHARACTERS, normalize_query
from corpus.rejects import RejectLog
from corpus.settings import DataConfig
from corpus.sources import Block, TableSchema, read_blocks
from corpus.values import identifiers, map_text, texts, timestamps, whole_numbers

EVENTS = TableSchema(
    name="events",
    setting="event_columns",
    required=("timestamp", "type"),
    optional=("user_id", "session_id", "query", "item_id", "position", "search_id"),
)

# the order of EventType, so that at one instant a search comes before what it led to
CODES = {kind: code for code, kind in enumerate(EventType)}
SEARCH, IMPRESSION, CLICK = CODES[EventType.SEARCH], CODES[EventType.IMPRESSION], CODES[EventType.CLICK]

_TOO_LONG = "\0"


@dataclass(slots=True)
class EventParts:
    """The cleaned log: files of at most a block's rows, in reading order.

    Columns: file (UInt16, position in ``files``), line, timestamp, user_id, session_id, type (UInt8, see ``CODES``),
    query, position (UInt32, from 1; null where unknown or unreadable), row (UInt32, the item's; null for searches),
    search_id.
    """

    files: list[str] = field(default_factory=list)
    parts: list[Path] = field(default_factory=list)
    n_rows: int = 0  # read, refused ones included
    n_events: int = 0
    by_type: Counter[str] = field(default_factory=Counter)


def read_events(config: DataConfig, root: Path, item_ids: pl.Series, folder: Path, rejects: RejectLog) -> EventParts:
    """Read, validate and clean the event log.

    Args:
        config: Where the log lies and how its columns and event types are called.
        root: Folder of the workspace.
        item_ids: Ids of the catalogue, by row.
        folder: Takes the parts.
        rejects: Takes the refused rows; events on items outside the catalogue are among them.
    Raises:
        BadSource: If the files cannot be read.
        InputError: If too many rows were refused.
    """
    if not config.events:
        return EventParts()
    rows = pl.DataFrame({"item_id": item_ids, "row": pl.int_range(len(item_ids), dtype=pl.UInt32, eager=True)})
    log = EventParts()
    blocks = read_blocks(config.events, root, EVENTS, config.event_columns)
    for number, block in enumerate(track(blocks, description="reading events, blocks")):
        if block.file not in log.files:
            log.files.append(block.file)
        log.n_rows += block.frame.height + len(block.broken)
        rejects.add(EVENTS.name, block.file, block.broken)
        frame = _clean(block, config, rows)
        refused = frame.filter(pl.col("reason").is_not_null())
        rejects.add(EVENTS.name, block.file, refused.select("line", "reason").iter_rows())
        kept = frame.filter(pl.col("reason").is_null()).drop("reason", "item_id")
        kept = kept.with_columns(pl.lit(len(log.files) - 1, dtype=pl.UInt16).alias("file"))
        log.n_events += kept.height
        kinds = list(EventType)
        log.by_type.update({kinds[code]: n for code, n in kept["type"].value_counts().iter_rows()})
        log.parts.append(folder / f"part-{number:05d}.arrow")
        kept.write_ipc(log.parts[-1], compression="lz4")
    rejects.check(EVENTS.name, log.n_rows, config.max_reject_share)
    return log


def _clean(block: Block, config: DataConfig, rows: pl.DataFrame) -> pl.DataFrame:
    def given(name: str) -> pl.Series:
        missing = pl.Series(name, [None] * block.frame.height, dtype=pl.String)
        return block.frame[name] if name in block.frame.columns else missing

    words = {**{str(kind): kind for kind in EventType}, **config.event_types}
    word = texts(given("type")).str.strip_chars()
    code = word.replace_strict(
        list(words), [CODES[kind] for kind in words.values()], default=None, return_dtype=pl.UInt8
    )
    frame = pl.DataFrame(
        {
            "line": pl.Series(block.lines, dtype=pl.UInt64),
            "timestamp": timestamps(given("timestamp")),
            "user_id": identifiers(given("user_id")),
            "session_id": identifiers(given("session_id")),
            "type": code,
            "query": map_text(texts(given("query")), _query),
            "item_id": identifiers(given("item_id")),
            "position": _ranks(given("position")),
            "search_id": identifiers(given("search_id")),
        }
    ).join(rows, on="item_id", how="left", maintain_order="left")
    is_search = pl.col("type") == SEARCH
    has_time = texts(given("timestamp")).str.strip_chars().str.len_chars() > 0
    shown = word.str.slice(0, 40)
    reason = pl.coalesce(
        _when(pl.col("timestamp").is_null() & has_time, "timestamp is neither ISO 8601 nor epoch time"),
        _when(pl.col("timestamp").is_null(), "timestamp missing"),
        _when((word == "") | word.is_null(), "type missing"),
        pl.when(pl.col("type").is_null()).then(pl.format("unknown type '{}': map it in data.event_types", shown)),
        _when(pl.col("user_id").is_null() & pl.col("session_id").is_null(), "neither user_id nor session_id"),
        _when(pl.col("query") == _TOO_LONG, f"query longer than {MAX_QUERY_CHARACTERS} characters"),
        _when(is_search & pl.col("query").is_null(), "search without a visible query"),
        _when(~is_search & pl.col("item_id").is_null(), "item_id missing"),
        _when(~is_search & pl.col("row").is_null(), "item not in the catalogue"),
    )
    return frame.with_columns(reason=reason, row=pl.when(~is_search).then("row"))


def _when(condition: pl.Expr | pl.Series, reason: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(reason))


def _ranks(column: pl.Series) -> pl.Series:
    """Return a column of ranks from 1; what is none becomes null."""
    numbers = whole_numbers(column).cast(pl.UInt32, strict=False)
    return pl.select(pl.when(numbers > 0).then(numbers)).to_series()


def _query(text: str) -> str | None:
    try:
        return normalize_query(text)
    except EmptyQuery:
        return None
    except InputError:
        return _TOO_LONG
