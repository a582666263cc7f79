import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from corpus.errors import ArtefactError
from corpus.events import EventType
from server.histories.contract import ShopperEvent
from server.histories.file_lock import FileLock
from server.histories.pseudonyms import Pseudonyms
from server.histories.sqlite_store import HistoryStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PSEUDONYMS = Pseudonyms("k" * 32)


def click(shopper: str, item_id: str, minutes: float = 0.0) -> ShopperEvent:
    return ShopperEvent(
        shopper=shopper, timestamp=NOON + timedelta(minutes=minutes), type=EventType.CLICK, item_id=item_id
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite3"


@pytest.fixture
def store(path):
    store = HistoryStore(path, PSEUDONYMS, max_events=3, ttl=timedelta(days=10), now=lambda: NOON + timedelta(hours=1))
    yield store
    store.close()


def test_events_older_than_their_time_are_forgotten_on_disk_too(path):
    clock = [NOON]
    store = HistoryStore(path, PSEUDONYMS, ttl=timedelta(days=10), now=lambda: clock[0])
    store.record([click("user:ada", "old"), click("user:ada", "new", 60 * 24 * 5)])
    clock[0] = NOON + timedelta(days=10)
    assert [event.item_id for event in store.history("user:ada")] == ["new"]
    store.close()
    HistoryStore(path, PSEUDONYMS, ttl=timedelta(days=10), now=lambda: clock[0]).close()
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


def test_processes_that_write_take_turns_and_lose_nothing(path):
    ttl = timedelta(days=36_500)
    stores = [HistoryStore(path, PSEUDONYMS, max_events=1000, ttl=ttl) for _ in range(4)]  # each as of a process
    faults: list[Exception] = []

    def write(number: int) -> None:
        try:
            for minute in range(25):
                stores[number].record([click("user:ada", f"i{number}", minute)])
                stores[number].record([click(f"user:{number}", "gone", minute)])
                assert stores[number].delete([f"user:{number}"]) == 1
        except Exception as exc:
            faults.append(exc)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stores[0].history("user:ada")
    for each in stores:
        each.close()
    assert faults == []
    assert len(found) == 100


def test_a_process_that_keeps_the_file_to_itself_is_told(store, path, monkeypatch):
    monkeypatch.setattr("server.histories.sqlite_store.BUSY_TIMEOUT_S", 0.05)
    with closing(FileLock(path.with_name(f"{path.name}.lock"))) as other:
        with other.hold(within_s=60), pytest.raises(ArtefactError, match="another process has been writing"):
            store.record([click("user:ada", "i-01")])
        store.record([click("user:ada", "i-02")])
    assert [event.item_id for event in store.history("user:ada")] == ["i-02"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_bytes(b"a shopping list" * 100)
    with pytest.raises(ArtefactError, match="cannot be used"):
        HistoryStore(path, PSEUDONYMS)
    assert path.read_bytes() == b"a shopping list" * 100


def test_a_store_of_another_version_is_refused(path):
    HistoryStore(path, PSEUDONYMS).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(ArtefactError, match=r"expected a history store of version 2 .* got version 99"):
        HistoryStore(path, PSEUDONYMS)


def test_a_database_of_something_else_is_refused(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE invoices (id INTEGER)")
    other.close()
    with pytest.raises(ArtefactError, match="expected a history store"):
        HistoryStore(path, PSEUDONYMS)


def test_a_file_without_pseudonyms_is_given_them_and_forgets_the_ids(store, path):
    store.record([click("user:ada", "i-1"), click("user:bob", "i-2")])
    store.close()
    with sqlite3.connect(path) as other:  # as the version before wrote it
        other.execute("PRAGMA secure_delete = OFF")
        other.execute("UPDATE events SET shopper = CASE item_id WHEN 'i-1' THEN 'user:ada' ELSE 'user:bob' END")
        other.execute("DROP TABLE key")
        other.execute("PRAGMA user_version = 1")
    other.close()
    assert b"user:ada" in path.read_bytes()
    again = HistoryStore(path, PSEUDONYMS, ttl=timedelta(days=10), now=lambda: NOON)
    assert [event.item_id for event in again.history("user:ada")] == ["i-1"]
    assert not [file for file in path.parent.glob("history.sqlite3*") if b"user:ada" in file.read_bytes()]
    again.close()


def test_a_deletion_that_leaves_traces_in_the_log_says_so_and_can_be_repeated(store, path, monkeypatch):
    monkeypatch.setattr("server.histories.sqlite_store.BUSY_TIMEOUT_S", 0.05)
    store = HistoryStore(path, PSEUDONYMS, now=lambda: NOON)
    store.record([click("user:ada", "i-1")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM events").fetchall()  # a backup, say
    with pytest.raises(ArtefactError, match="another process reads the file"):
        store.delete(["user:ada"])
    other.close()
    assert store.delete(["user:ada"]) == 0
    assert not [file for file in path.parent.glob("history.sqlite3*") if b"i-1" in file.read_bytes()]
    store.close()
