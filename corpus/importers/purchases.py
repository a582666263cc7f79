"""Amazon review purchases with derived queries (Ai et al., SIGIR 2017): beauty, toys, games.

Files: ``catalogue.jsonl[.gz]`` (item_id, title, brand, category path) and ``purchases.csv[.gz]`` (user_id, order,
query, item_id, split). There are no times, only each user's order, so times are made up such that a split by time is
the published split: train in 2000, valid in 2001, test in 2002, one second per place in the order.
"""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from corpus.importers.report import EVENTS_FILE, ITEMS_FILE, ImportReport, find, read_table, write_events, write_items

EPOCHS = {
    "train": datetime(2000, 1, 1, tzinfo=UTC),
    "valid": datetime(2001, 1, 1, tzinfo=UTC),
    "test": datetime(2002, 1, 1, tzinfo=UTC),
}


def import_purchases(source: Path, out: Path) -> ImportReport:
    """Write items and purchases; each carries its query, one without a query only lives on in histories.

    Raises:
        BadSource: If a file is missing or laid out differently.
    """
    catalogue = find(source, "catalogue.jsonl.gz", "catalogue.jsonl")
    items = read_table(catalogue, ("item_id", "title"), ("brand", "category"))
    rows = read_table(
        find(source, "purchases.csv.gz", "purchases.csv"), ("user_id", "order", "query", "item_id", "split")
    )
    start = pl.col("split").replace_strict(EPOCHS, default=None, return_dtype=pl.Datetime("us", "UTC"))
    query = pl.col("query").str.strip_chars()
    events = rows.select(
        "user_id",
        "item_id",
        session_id="user_id",
        type=pl.lit("purchase"),
        query=pl.when(query != "").then(query),
        timestamp=start + pl.duration(seconds=pl.col("order").cast(pl.Int64)),
    )
    counts = {"items": write_items(items, out), "events": write_events(events, out)}
    settings = {
        "items": f"source/{ITEMS_FILE}",
        "events": f"source/{EVENTS_FILE}",
        "valid_from": EPOCHS["valid"],
        "test_from": EPOCHS["test"],
    }
    return ImportReport(settings=settings, counts=counts)
