from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from corpus.event_log import CODES
from corpus.events import EventType
from corpus.histories import Histories

START = datetime(2024, 1, 1, tzinfo=UTC)
IDS = pl.Series(["a", "b", "c"])
EVENTS = {
    "shopper": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "type": pl.UInt8,
    "row": pl.UInt32,
    "query": pl.String,
    "file": pl.UInt16,
    "line": pl.UInt64,
}


def histories(events, searches, limit=50):
    """Return for each (shopper, second) the history as (second, type, item_id, query)."""
    rows = [
        (shopper, START + timedelta(seconds=at), CODES[EventType(kind)], row, query, 0, line)
        for line, (shopper, at, kind, row, query) in enumerate(events)
    ]
    told = Histories(pl.DataFrame(rows, schema=EVENTS, orient="row"), IDS, limit=limit)
    examples = pl.DataFrame(
        [(shopper, START + timedelta(seconds=at)) for shopper, at in searches],
        schema={"shopper": pl.String, "timestamp": pl.Datetime("us", "UTC")},
        orient="row",
    )
    return [
        [(int((e["timestamp"] - START).total_seconds()), e["type"], e["item_id"], e["query"]) for e in history]
        for history in told.before(examples).to_list()
    ]


def test_newest_first_and_strictly_before():
    events = [
        ("u", 0, "search", None, "red"),
        ("u", 1, "click", 0, None),
        ("u", 2, "impression", 1, None),
        ("u", 5, "search", None, "blue"),
        ("u", 5, "click", 2, None),
        ("u", 6, "purchase", 1, None),
        ("v", 3, "click", 2, None),
    ]
    got = histories(events, [("u", 5), ("u", 7), ("u", 0), ("v", 9), ("nobody", 9)])
    assert got == [
        [(1, "click", "a", None), (0, "search", None, "red")],
        [
            (6, "purchase", "b", None),
            (5, "click", "c", None),
            (5, "search", None, "blue"),
            (1, "click", "a", None),
            (0, "search", None, "red"),
        ],
        [],
        [(3, "click", "c", None)],
        [],
    ]


def test_without_events_or_examples():
    assert histories([], [("u", 5)]) == [[]]
    assert histories([("u", 0, "click", 0, None)], []) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from("uvw"),
            st.integers(0, 20),
            st.sampled_from(["search", "click", "impression", "purchase"]),
            st.integers(0, 2),
            st.none(),
        ),
        max_size=40,
    ),
    st.lists(st.tuples(st.sampled_from("uvwx"), st.integers(0, 21)), min_size=1, max_size=15),
    st.integers(0, 6),
)
def test_any_history_is_the_shoppers_last_events_before_the_search(events, searches, limit):
    for (shopper, at), history in zip(searches, histories(events, searches, limit), strict=True):
        before = [e for e in events if e[0] == shopper and e[1] < at and e[2] != "impression"]
        newest = sorted((e[1] for e in before), reverse=True)[:limit]
        assert [e[0] for e in history] == newest
        known = {(e[1], e[2], "abc"[e[3]]) for e in before}
        assert all((second, kind, item) in known for second, kind, item, _ in history)
