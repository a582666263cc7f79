"""Attribution: which search led to a click, a cart or a purchase.

An interaction belongs, in this order, to

1. the search whose ``search_id`` it carries, at that search's time, however long ago;
2. if it carries a query, the last search for that query in its session within the window, else a search of its own at
   its own time;
3. the last search of any query in its session within the window.

An interaction without a session looks at all of its shopper's searches. What finds no search stays in the history and
gives no label.
"""

from datetime import timedelta

import polars as pl

from corpus.event_log import IMPRESSION, SEARCH

ATTRIBUTED = ("shopper", "query", "searched_at", "row", "type", "observed_at")


def attribute(events: pl.DataFrame, window: timedelta) -> pl.DataFrame:
    """Find the search behind each interaction.

    Args:
        events: Whole logs of some shoppers, columns as in ``EventParts`` and ``shopper``.
        window: Longest time from a search to what it led to, where no ``search_id`` says so.
    Returns:
        One row per click, cart or purchase: shopper, query and searched_at (both null where no search was found),
        row, type, observed_at.
    """
    ordered = events.sort("shopper", "timestamp", "type", "file", "line").with_row_index("n")
    searches = ordered.filter(pl.col("type") == SEARCH)
    targets = ordered.filter(pl.col("type") > IMPRESSION)
    has_id = pl.col("search_id").is_not_null()
    has_query = pl.col("query").is_not_null()

    found = [_by_search_id(searches, targets.filter(has_id))]
    queried = targets.filter(~has_id & has_query)
    same_query = _last_search(searches, queried, ["query"], window)
    found.append(
        queried.join(same_query.select("n", "searched_at"), on="n", how="left").select(
            "n", "query", pl.col("searched_at").fill_null(pl.col("timestamp"))
        )
    )
    found.append(_last_search(searches, targets.filter(~has_id & ~has_query), [], window))

    joined = targets.drop("query").join(pl.concat(found), on="n", how="left", maintain_order="left")
    return joined.rename({"timestamp": "observed_at"}).select(ATTRIBUTED)


def _by_search_id(searches: pl.DataFrame, targets: pl.DataFrame) -> pl.DataFrame:
    """Look the search up; if the log lacks it, the interactions that share its id and carry a query stand for it."""
    key = ["shopper", "search_id"]
    first = {"searched_at": pl.col("timestamp").first(), "query": pl.col("query").first()}
    logged = searches.filter(pl.col("search_id").is_not_null()).group_by(key).agg(**first)
    # searches known only by what followed them begin with the first of it
    implied = (
        targets.join(logged, on=key, how="anti")
        .group_by(key, maintain_order=True)
        .agg(searched_at=pl.col("timestamp").min(), query=pl.col("query").drop_nulls().first())
        .filter(pl.col("query").is_not_null())
    )
    known = pl.concat([logged.select(*key, "searched_at", "query"), implied.select(*key, "searched_at", "query")])
    return targets.select("n", *key).join(known, on=key).select("n", "query", "searched_at")


def _last_search(searches: pl.DataFrame, targets: pl.DataFrame, same: list[str], window: timedelta) -> pl.DataFrame:
    """Find the last search at or before each target within the window.

    Args:
        searches: Sorted by shopper and time.
        targets: Likewise.
        same: Columns that must agree besides shopper and session.
        window: Longest time between the two.
    Returns:
        n, query, searched_at of the targets for which there is one.
    """
    in_session = pl.col("session_id").is_not_null()
    parts = [
        _asof(searches.filter(in_session), targets.filter(in_session), ["shopper", "session_id", *same], window),
        _asof(searches, targets.filter(~in_session), ["shopper", *same], window),
    ]
    return pl.concat(parts)


def _asof(searches: pl.DataFrame, targets: pl.DataFrame, by: list[str], window: timedelta) -> pl.DataFrame:
    known = searches.select(*by, "timestamp", found="query", searched_at="timestamp").sort("timestamp")
    matched = (
        targets.select("n", *by, "timestamp")
        .sort("timestamp")
        .join_asof(known, on="timestamp", by=by, strategy="backward", tolerance=window, check_sortedness=False)
    )
    return matched.filter(pl.col("searched_at").is_not_null()).select("n", query="found", searched_at="searched_at")
