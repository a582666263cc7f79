import sqlite3
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from corpus.errors import ArtefactError
from corpus.events import EventType, HistoryEvent
from server.history_store import HistoryStore, Recorded, ShopperEvent

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def click(shopper: str, item_id: str, minutes: float = 0.0) -> ShopperEvent:
    return ShopperEvent(
        shopper=shopper, timestamp=NOON + timedelta(minutes=minutes), type=EventType.CLICK, item_id=item_id
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite3"


@pytest.fixture
def store(path):
    store = HistoryStore(path, max_events=3, ttl=timedelta(days=10), now=lambda: NOON + timedelta(hours=1))
    yield store
    store.close()


def test_history_is_read_newest_first_and_only_of_that_shopper(store):
    search = ShopperEvent(
        shopper="user:ada", timestamp=NOON + timedelta(minutes=2), type=EventType.SEARCH, query="red shoe"
    )
    store.record([click("user:ada", "i-1"), search, click("user:bob", "i-9"), click("user:ada", "i-2", 1)])
    assert store.history("user:ada") == (
        HistoryEvent(timestamp=NOON + timedelta(minutes=2), type=EventType.SEARCH, query="red shoe"),
        HistoryEvent(timestamp=NOON + timedelta(minutes=1), type=EventType.CLICK, item_id="i-2"),
        HistoryEvent(timestamp=NOON, type=EventType.CLICK, item_id="i-1"),
    )


def test_a_shopper_never_seen_has_no_history(store):
    assert store.history("user:nobody") == ()


def test_user_and_visitor_of_the_same_name_are_two_shoppers(store):
    store.record([click("user:ada", "i-1")])
    assert store.history("visitor:ada") == ()


def test_recording_twice_changes_nothing(store):
    events = [click("user:ada", "i-1"), click("user:ada", "i-2")]
    assert store.record(events) == Recorded(n_recorded=2, n_already_known=0)
    assert store.record([*events, click("user:ada", "i-3")]) == Recorded(n_recorded=1, n_already_known=2)
    assert len(store.history("user:ada")) == 3


def test_a_repetition_within_one_call_is_counted_as_known(store):
    assert store.record([click("user:ada", "i-1")] * 2) == Recorded(n_recorded=1, n_already_known=1)


def test_only_the_newest_events_are_kept_on_disk(store, path):
    store.record([click("user:ada", f"i-{n}", n) for n in range(5)])
    store.record([click("user:bob", "i-0")])
    assert [event.item_id for event in store.history("user:ada")] == ["i-4", "i-3", "i-2"]
    with sqlite3.connect(path) as other:
        kept = other.execute("SELECT item_id FROM events WHERE shopper = 'user:ada' ORDER BY 1").fetchall()
    other.close()
    assert kept == [("i-2",), ("i-3",), ("i-4",)]
    assert len(store.history("user:bob")) == 1


def test_events_older_than_their_time_are_forgotten_on_disk_too(path):
    clock = [NOON]
    store = HistoryStore(path, ttl=timedelta(days=10), now=lambda: clock[0])
    store.record([click("user:ada", "old"), click("user:ada", "new", 60 * 24 * 5)])
    clock[0] = NOON + timedelta(days=10)
    assert [event.item_id for event in store.history("user:ada")] == ["new"]
    store.close()
    HistoryStore(path, ttl=timedelta(days=10), now=lambda: clock[0]).close()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT item_id FROM events").fetchall() == [("new",)]
    other.close()


def test_every_field_of_an_event_is_kept(store, path):
    event = ShopperEvent(
        shopper="user:ada",
        timestamp=NOON + timedelta(microseconds=7),
        type=EventType.PURCHASE,
        item_id="i-1",
        session_id="s",
        search_id="q",
        position=4,
        price=2.5,
        quantity=3,
    )
    store.record([event])
    with sqlite3.connect(path) as other:
        row = other.execute("SELECT type, item_id, session_id, search_id, position, price, quantity FROM events")
        assert row.fetchone() == ("purchase", "i-1", "s", "q", 4, 2.5, 3)
    other.close()
    assert store.history("user:ada")[0].timestamp == event.timestamp


def test_what_was_recorded_is_there_after_reopening(path):
    store = HistoryStore(path, now=lambda: NOON)
    store.record([click("user:ada", "i-1")])
    # no close: the process may die at any moment after `record`
    again = HistoryStore(path, now=lambda: NOON)
    assert len(again.history("user:ada")) == 1
    again.close()
    store.close()


def test_every_commit_reaches_the_disk(store):
    # 2 = FULL: in write-ahead mode, fsync at every commit; the default build's NORMAL is 1
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_call_is_written_whole_or_not_at_all(store):
    broken = ShopperEvent(shopper="user:ada", timestamp=NOON, type=EventType.CLICK, item_id=object())  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match="history store"):
        store.record([click("user:ada", "i-1"), broken])
    assert store.history("user:ada") == ()
    assert store.record([click("user:ada", "i-1")]).n_recorded == 1


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_bytes(b"a shopping list" * 100)
    with pytest.raises(ArtefactError, match="cannot be used"):
        HistoryStore(path)
    assert path.read_bytes() == b"a shopping list" * 100


def test_a_store_of_another_version_is_refused(path):
    HistoryStore(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(ArtefactError, match=r"expected a history store of version 1 .* got version 99"):
        HistoryStore(path)


def test_a_database_of_something_else_is_refused(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE invoices (id INTEGER)")
    other.close()
    with pytest.raises(ArtefactError, match="expected a history store"):
        HistoryStore(path)


def test_threads_may_write_and_read_at_once(path):
    store = HistoryStore(path, max_events=1000, now=lambda: NOON + timedelta(days=1))
    failures: list[Exception] = []

    def work(name: int) -> None:
        try:
            for number in range(20):
                store.record([click("user:ada", f"{name}-{number}")])
                assert any(event.item_id == f"{name}-{number}" for event in store.history("user:ada"))
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.history("user:ada")) == 80
    store.close()


def test_the_visit_of_an_event_is_remembered(store):
    store.record([replace(click("user:ada", "i-1"), session_id="s-1")])
    assert [remembered.session_id for remembered in store.history("user:ada")] == ["s-1"]
