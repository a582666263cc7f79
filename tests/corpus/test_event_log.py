import polars as pl
import pytest

from corpus.errors import BadSource, InputError
from corpus.event_log import CODES, read_events
from corpus.events import EventType
from corpus.rejects import RejectLog
from corpus.settings import DataConfig

CLICK = {"timestamp": "2024-01-01T00:00:00Z", "type": "click", "user_id": "u", "item_id": "a"}


@pytest.fixture
def read(store):
    def run(rows, **settings):
        store.rows("events.jsonl", rows)
        config = DataConfig(events="source/events.jsonl", **settings)
        work = store.root / "work"
        work.mkdir(exist_ok=True)
        with RejectLog(store.root / "rejects.jsonl") as rejects:
            log = read_events(config, store.root, pl.Series(["a", "b"]), work, rejects)
            frame = pl.concat([pl.read_ipc(part) for part in log.parts]) if log.parts else pl.DataFrame()
            return log, frame, rejects.counts

    return run


def test_rows_become_typed_and_clean(read):
    log, frame, _ = read(
        [
            {
                "timestamp": 1704067200,
                "type": "search",
                "session_id": 5,
                "query": " Red &amp; BLUE ",
                "search_id": "s1",
            },
            {**CLICK, "item_id": "b", "query": "\u200b"},
        ]
    )
    assert frame.select("session_id", "user_id", "type", "query", "row", "search_id").rows() == [
        ("5", None, CODES[EventType.SEARCH], "red & blue", None, "s1"),
        (None, "u", CODES[EventType.CLICK], None, 1, None),
    ]
    assert frame["timestamp"].dt.year().to_list() == [2024, 2024]
    assert (log.n_rows, log.n_events) == (2, 2)
    assert log.by_type == {"search": 1, "click": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp": "soon"}, "timestamp is neither ISO 8601 nor epoch time"),
        ({"timestamp": None}, "timestamp missing"),
        ({"type": " "}, "type missing"),
        ({"type": "hover"}, "unknown type 'hover': map it in data.event_types"),
        ({"user_id": None}, "neither user_id nor session_id"),
        ({"item_id": None}, "item_id missing"),
        ({"item_id": "zzz"}, "item not in the catalogue"),
        ({"type": "search", "query": " "}, "search without a visible query"),
        ({"query": "x" * 513}, "query longer than 512 characters"),
    ],
)
def test_each_fault_has_its_reason(read, change, reason):
    log, frame, counts = read([CLICK, {**CLICK, **change}], max_reject_share=0.5)
    assert counts == {f"events: {reason}": 1}
    assert frame.height == log.n_events == 1


def test_positions_are_ranks_from_1_and_unreadable_ones_unknown(read):
    given = [1, "12", 3.0, 0, -1, 2.5, "top", None, 2**40]
    _, frame, counts = read([{**CLICK, "position": position} for position in given])
    assert frame["position"].to_list() == [1, 12, 3, None, None, None, None, None, None]
    assert frame["position"].dtype == pl.UInt32
    assert not counts


def test_other_words_for_the_types_are_mapped(read):
    _, frame, counts = read([{**CLICK, "type": "buy"}, {**CLICK, "type": "purchase"}], event_types={"buy": "purchase"})
    assert frame["type"].to_list() == [CODES[EventType.PURCHASE]] * 2
    assert not counts


def test_a_log_of_another_catalogue_is_explained(read):
    with pytest.raises(InputError, match="2 x item not in the catalogue"):
        read([{**CLICK, "item_id": "x"}, {**CLICK, "item_id": "y"}])


def test_missing_columns_are_named(read):
    with pytest.raises(BadSource, match=r"'type'.*event_columns"):
        read([{"timestamp": 1704067200, "user_id": "u"}])


def test_rejects_tell_neither_queries_nor_users(store, read):
    read([CLICK, {**CLICK, "user_id": "secret-user", "query": "secret " * 100}], max_reject_share=0.5)
    assert "secret" not in (store.root / "rejects.jsonl").read_text()
