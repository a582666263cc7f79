"""User Behavior Insights 1.x (github.com/o19s/ubi, the standard of OpenSearch, Solr and Elasticsearch).

Files, JSON Lines, plain or compressed: ``ubi_queries`` (query_id, client_id, user_query, timestamp) and ``ubi_events``
(action_name, query_id, client_id, session_id, user_id, timestamp, event_attributes.object.object_id,
event_attributes.position.ordinal), or both in one ``ubi_queries_events``, bulk-API action lines included; and the
catalogue as ``items`` in any format and with the columns that Tandem reads.
"""

import logging
from pathlib import Path

import polars as pl

from corpus.catalogue import ITEMS
from corpus.errors import BadSource
from corpus.importers.report import EVENTS_FILE, ITEMS_FILE, ImportReport, find, read_schema, write_events, write_items
from corpus.sources import TableSchema
from corpus.values import timestamps, whole_numbers

logger = logging.getLogger(__name__)

# the specification leaves action names open; these are its own and those of its examples
ACTIONS = {
    "click": "click",
    "click_through": "click",
    "item_click": "click",
    "product_click": "click",
    "view": "click",
    "add_to_cart": "add_to_cart",
    "product_purchase": "purchase",
    "purchase": "purchase",
    "impression": "impression",
}

_OBJECT, _ORDINAL = "event_attributes.object.object_id", "event_attributes.position.ordinal"
_RECORDS = TableSchema(
    name="ubi",
    setting="columns",
    required=("timestamp",),
    optional=("query_id", "user_query", "client_id", "session_id", "user_id", "action_name", _OBJECT, _ORDINAL),
)


def import_ubi(source: Path, out: Path) -> ImportReport:
    """Write items and events: each query is a search, each known action an event that carries its query's id.

    A client stands for the user where none is signed in. Actions on nothing or of other names are counted and left
    out.

    Raises:
        BadSource: If a file is missing, is no UBI, or no event is of a known action.
    """
    items = read_schema(find(source, *_names("items", ".csv", ".jsonl", ".ndjson", ".parquet")), ITEMS)
    records = pl.concat([read_schema(path, _RECORDS) for path in _record_files(source)])
    records = records.with_columns(
        user_id=pl.coalesce("user_id", "client_id"),
        session_id=pl.coalesce("session_id", "client_id"),
        timestamp=timestamps(records["timestamp"]),
        search_id="query_id",
        item_id=_OBJECT,
        position=whole_numbers(records[_ORDINAL]),
    )
    kind = pl.col("action_name").replace_strict(ACTIONS, default=None, return_dtype=pl.String)
    is_action = pl.col("action_name").is_not_null()
    searches = records.filter(~is_action & pl.col("user_query").is_not_null()).with_columns(type=pl.lit("search"))
    actions = records.filter(is_action).with_columns(type=kind)
    known = actions.filter(pl.col("type").is_not_null() & pl.col("item_id").is_not_null())
    if known.is_empty():
        raise BadSource(
            f"expected events with an object_id and an action_name of {', '.join(ACTIONS)} in {source}, found none"
        )
    if known.height < actions.height:
        logger.warning("left out %s actions that are no interest in an item", f"{actions.height - known.height:,}")
    columns = ["timestamp", "user_id", "session_id", "type", "item_id", "position", "search_id"]
    events = pl.concat(
        [
            searches.select(*columns, query="user_query").with_columns(item_id=pl.lit(None, dtype=pl.String)),
            known.select(*columns, query="user_query"),
        ]
    )
    counts = {"items": write_items(items, out), "events": write_events(events, out)}
    counts["actions left out"] = actions.height - known.height
    return ImportReport(settings={"items": f"source/{ITEMS_FILE}", "events": f"source/{EVENTS_FILE}"}, counts=counts)


def _record_files(source: Path) -> list[Path]:
    endings = (".jsonl", ".ndjson", ".json")
    both = _names("ubi_queries_events", *endings)
    if any((source / name).is_file() for name in both):
        return [find(source, *both)]
    return [find(source, *_names("ubi_queries", *endings)), find(source, *_names("ubi_events", *endings))]


def _names(stem: str, *endings: str) -> list[str]:
    return [f"{stem}{ending}{packed}" for ending in endings for packed in ("", ".gz", ".zst")]
