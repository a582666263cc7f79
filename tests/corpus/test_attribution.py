from datetime import UTC, datetime, timedelta

import polars as pl

from corpus.attribution import attribute
from corpus.event_log import CODES
from corpus.events import EventType

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOW = timedelta(minutes=30)
SCHEMA = {
    "file": pl.UInt16,
    "line": pl.UInt64,
    "timestamp": pl.Datetime("us", "UTC"),
    "session_id": pl.String,
    "type": pl.UInt8,
    "query": pl.String,
    "row": pl.UInt32,
    "search_id": pl.String,
    "shopper": pl.String,
}


def event(minute, kind, *, query=None, row=None, session="s", search_id=None, shopper="u1"):
    return {
        "file": 0,
        "timestamp": START + timedelta(minutes=minute),
        "session_id": session,
        "type": CODES[EventType(kind)],
        "query": query,
        "row": row,
        "search_id": search_id,
        "shopper": shopper,
    }


def found(*events):
    """Return (row, query, minute of the search or None) of each interaction, in row order."""
    rows = [{**e, "line": n} for n, e in enumerate(events)]
    attributed = attribute(pl.DataFrame(rows, schema=SCHEMA), WINDOW).sort("row")
    return [
        (row, query, None if at is None else (at - START).total_seconds() / 60)
        for row, query, at in attributed.select("row", "query", "searched_at").iter_rows()
    ]


def test_interactions_belong_to_the_last_search_before_them():
    got = found(
        event(0, "search", query="red"),
        event(1, "click", row=1),
        event(5, "search", query="blue"),
        event(6, "click", row=2),
        event(7, "add_to_cart", row=3),
        event(9, "purchase", row=4),
    )
    assert got == [(1, "red", 0), (2, "blue", 5), (3, "blue", 5), (4, "blue", 5)]


def test_the_window_includes_its_end_and_nothing_after():
    got = found(event(0, "search", query="q"), event(30, "click", row=1), event(30.001, "click", row=2))
    assert got == [(1, "q", 0), (2, None, None)]


def test_a_search_at_the_same_instant_counts_whatever_the_order_in_the_file():
    assert found(event(3, "click", row=1), event(3, "search", query="q")) == [(1, "q", 3)]


def test_nothing_is_attributed_to_later_searches_other_sessions_or_other_shoppers():
    got = found(
        event(0, "click", row=1),
        event(1, "search", query="q"),
        event(2, "click", row=2, session="other"),
        event(3, "click", row=3, shopper="u2"),
        event(4, "impression", row=9),
    )
    assert got == [(1, None, None), (2, None, None), (3, None, None)]


def test_an_interaction_without_a_session_looks_at_all_of_its_shoppers_searches():
    assert found(event(0, "search", query="q"), event(1, "purchase", row=1, session=None)) == [(1, "q", 0)]


def test_a_search_id_leads_back_however_long_ago_and_into_other_sessions():
    got = found(
        event(0, "search", query="red", search_id="A"),
        event(1, "search", query="blue", search_id="B"),
        event(2, "click", row=1, search_id="A"),
        event(5000, "purchase", row=2, search_id="A", session="later"),
        event(5001, "purchase", row=3, search_id="A", shopper="u2"),
        event(5002, "purchase", row=4, search_id="gone"),
    )
    assert got == [(1, "red", 0), (2, "red", 0), (3, None, None), (4, None, None)]


def test_pages_of_one_search_are_its_first_page():
    got = found(
        event(0, "search", query="q", search_id="A"),
        event(2, "search", query="q", search_id="A"),
        event(3, "click", row=1, search_id="A"),
    )
    assert got == [(1, "q", 0)]


def test_events_that_share_the_id_of_an_unlogged_search_are_one_search():
    got = found(
        event(4, "click", row=1, query="q", search_id="A"),
        event(9, "purchase", row=2, search_id="A"),
        event(50, "purchase", row=3, query="q", search_id="A"),
    )
    assert got == [(1, "q", 4), (2, "q", 4), (3, "q", 4)]


def test_an_event_with_a_query_finds_that_search_or_is_one_itself():
    got = found(
        event(0, "search", query="red"),
        event(1, "search", query="blue"),
        event(2, "click", row=1, query="red"),
        event(3, "click", row=2, query="green"),
        event(60, "click", row=3, query="red"),
    )
    assert got == [(1, "red", 0), (2, "green", 3), (3, "red", 60)]


def test_purchases_one_after_another_that_carry_their_query_stay_apart():
    assert found(event(0, "purchase", row=1, query="q"), event(0.1, "purchase", row=2, query="q")) == [
        (1, "q", 0),
        (2, "q", 0.1),
    ]
