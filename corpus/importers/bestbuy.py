"""Best Buy clicks (ACM/Best Buy data-mining hackathon 2012, small track, with the AI-Powered Search catalogue).

Files: ``catalogue.jsonl[.gz]`` (item_id, title, brand, description) and ``clicks.csv[.gz]`` (user_id, query, item_id,
query_time, click_time).
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from corpus.importers.report import EVENTS_FILE, ITEMS_FILE, ImportReport, find, read_table, write_events, write_items
from corpus.values import timestamps

# dev is everything from October on; the five days before it validate
VALID_FROM = datetime(2011, 9, 26, tzinfo=UTC)
TEST_FROM = datetime(2011, 10, 1, tzinfo=UTC)


def import_bestbuy(source: Path, out: Path) -> ImportReport:
    """Write items and events: each search once, and each click with its search's id and query.

    Raises:
        BadSource: If a file is missing or laid out differently.
    """
    items = read_table(
        find(source, "catalogue.jsonl.gz", "catalogue.jsonl"), ("item_id", "title"), ("brand", "description")
    ).with_columns(brand=pl.when(pl.col("brand") != "UNKNOWN").then("brand"))
    columns = ("user_id", "query", "item_id", "query_time", "click_time")
    clicks = read_table(find(source, "clicks.csv.gz", "clicks.csv"), columns)
    clicks = clicks.with_columns(
        timestamps(clicks["query_time"]).alias("query_time"),
        timestamps(clicks["click_time"]).alias("click_time"),
        pl.Series("search_id", [_search_id(*row) for row in clicks.select(*columns[:2], columns[3]).iter_rows()]),
        session_id="user_id",
    )
    shared = ["user_id", "session_id", "query", "search_id"]
    searches = clicks.select(*shared, timestamp="query_time", type=pl.lit("search")).unique(
        "search_id", keep="first", maintain_order=True
    )
    clicked = clicks.select(*shared, "item_id", timestamp="click_time", type=pl.lit("click"))
    counts = {"items": write_items(items, out)}
    counts["events"] = write_events(pl.concat([searches, clicked], how="diagonal"), out)
    settings = {
        "items": f"source/{ITEMS_FILE}",
        "events": f"source/{EVENTS_FILE}",
        "valid_from": VALID_FROM,
        "test_from": TEST_FROM,
    }
    return ImportReport(settings=settings, counts=counts)


def _search_id(user: str, query: str, instant: str) -> str:
    return hashlib.blake2b("\0".join((user, query, instant)).encode(), digest_size=8).hexdigest()
