"""What every store of histories must do."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from corpus.errors import ArtefactError, ConfigError
from corpus.events import EventType, HistoryEvent
from corpus.workspace import Workspace
from server.config import ServerConfig
from server.histories.contract import Histories, Recorded, ShopperEvent, open_histories
from server.histories.pseudonyms import KEY_VARIABLE, Pseudonyms
from server.histories.sqlite_store import HistoryStore
from tests.server.redis_servers import running_redis

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PSEUDONYMS = Pseudonyms("k" * 32)


def click(shopper: str, item_id: str, minutes: float = 0.0, also: str | None = None) -> ShopperEvent:
    time = NOON + timedelta(minutes=minutes)
    return ShopperEvent(shopper=shopper, timestamp=time, type=EventType.CLICK, item_id=item_id, also=also)


def items_of(store: Histories, shopper: str) -> list[str | None]:
    return [event.item_id for event in store.history(shopper)]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def opening(request, tmp_path) -> Callable[..., Histories]:
    """Open the same store again and again: ``opening(max_events=3)``."""
    stores: list[Histories] = []
    options = {"max_events": 3, "ttl": timedelta(days=10), "now": lambda: NOON + timedelta(hours=1)}

    def open_store(*, pseudonyms: Pseudonyms = PSEUDONYMS, **settings) -> Histories:
        if request.param == "sqlite":
            store: Histories = HistoryStore(tmp_path / "history.sqlite3", pseudonyms, **{**options, **settings})
        else:
            from server.histories.redis_store import RedisHistoryStore

            url = request.getfixturevalue("redis_server").url
            store = RedisHistoryStore(url, pseudonyms, timeout_ms=5000, **{**options, **settings})
        stores.append(store)
        return store

    if request.param == "redis":
        import redis

        with redis.Redis.from_url(request.getfixturevalue("redis_server").url) as client:
            client.flushall()
    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opening) -> Histories:
    return opening()


@pytest.fixture
def at_rest(request, opening, tmp_path) -> Callable[[], bytes]:
    """Everything that the store keeps, as bytes."""
    if "redis" not in request.node.callspec.id:
        return lambda: b"".join(path.read_bytes() for path in sorted(tmp_path.glob("history.sqlite3*")))
    import redis

    def dump() -> bytes:
        with redis.Redis.from_url(request.getfixturevalue("redis_server").url) as client:
            kinds = {b"zset": lambda k: client.zrange(k, 0, -1), b"hash": client.hgetall, b"string": client.get}
            return repr([(key, kinds[client.type(key)](key)) for key in client.scan_iter()]).encode()

    return dump


@pytest.fixture
def kept(at_rest, opening, tmp_path) -> Callable[[], bytes]:
    """The same, without what SQLite's write-ahead log still has of earlier moments."""

    def dump() -> bytes:
        path = tmp_path / "history.sqlite3"
        if path.exists():
            with closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return at_rest()

    return dump


def test_history_is_read_newest_first_and_only_of_that_shopper(store):
    search = ShopperEvent(
        shopper="user:ada", timestamp=NOON + timedelta(minutes=2), type=EventType.SEARCH, query="red shöe, “quoted”"
    )
    store.record([click("user:ada", "i-1"), search, click("user:bob", "i-9"), click("user:ada", "i-2", 1)])
    assert store.history("user:ada") == (
        HistoryEvent(timestamp=NOON + timedelta(minutes=2), type=EventType.SEARCH, query="red shöe, “quoted”"),
        HistoryEvent(timestamp=NOON + timedelta(minutes=1), type=EventType.CLICK, item_id="i-2"),
        HistoryEvent(timestamp=NOON, type=EventType.CLICK, item_id="i-1"),
    )


def test_the_visit_of_an_event_is_remembered(store):
    store.record([replace(click("user:ada", "i-1"), session_id="s-1"), click("user:ada", "i-2", 1)])
    assert [(event.item_id, event.session_id) for event in store.history("user:ada")] == [("i-2", None), ("i-1", "s-1")]


def test_times_are_kept_to_the_microsecond_and_equal_ones_are_read_in_one_order(store):
    times = [NOON + timedelta(microseconds=n) for n in (1, 0)]
    store.record([replace(click("user:ada", "i-1"), timestamp=time) for time in times])
    assert [event.timestamp for event in store.history("user:ada")] == times
    store.record([click("user:bob", item_id) for item_id in ("i-1", "i 3", "i-10")])
    assert items_of(store, "user:bob") == ["i-10", "i-1", "i 3"]


def test_a_shopper_never_seen_has_no_history(store):
    assert store.history("user:nobody") == ()


def test_user_and_visitor_of_the_same_name_are_two_shoppers(store):
    store.record([click("user:ada", "i-1")])
    assert store.history("visitor:ada") == ()


def test_recording_twice_changes_nothing(store):
    events = [click("user:ada", "i-1"), click("user:ada", "i-2")]
    assert store.record(events) == Recorded(n_recorded=2, n_already_known=0)
    again = [replace(events[0], session_id="another"), events[1], click("user:ada", "i-3")]
    assert store.record(again) == Recorded(n_recorded=1, n_already_known=2)
    assert len(store.history("user:ada")) == 3


def test_a_repetition_within_one_call_is_counted_as_known(store):
    assert store.record([click("user:ada", "i-1")] * 2) == Recorded(n_recorded=1, n_already_known=1)


def test_only_the_newest_events_are_kept(store, kept):
    store.record([click("user:ada", f"i-{n}", n) for n in range(5)])
    store.record([click("user:bob", "i-0")])
    assert items_of(store, "user:ada") == ["i-4", "i-3", "i-2"]
    assert b"i-1" not in kept()
    assert items_of(store, "user:bob") == ["i-0"]


def test_events_older_than_their_time_are_forgotten(opening, kept):
    clock = [NOON]
    store = opening(now=lambda: clock[0])
    store.record([click("user:ada", "long-ago"), click("user:ada", "new", 60 * 24 * 5)])
    clock[0] = NOON + timedelta(days=10)
    assert items_of(store, "user:ada") == ["new"]
    opening(now=lambda: clock[0]).record([click("user:ada", "newer", 60 * 24 * 6)])
    assert items_of(store, "user:ada") == ["newer", "new"]
    assert b"long-ago" not in kept()


def test_what_was_recorded_is_there_after_reopening(store, opening):
    store.record([click("user:ada", "i-1")])
    # no close: the process may die at any moment after `record`
    assert items_of(opening(), "user:ada") == ["i-1"]


def test_threads_may_write_and_read_at_once(opening):
    store = opening(max_events=1000, now=lambda: NOON + timedelta(days=1))
    failures: list[Exception] = []

    def work(name: int) -> None:
        try:
            for number in range(20):
                store.record([click("user:ada", f"{name}-{number}")])
                assert f"{name}-{number}" in items_of(store, "user:ada")
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.history("user:ada")) == 80


def test_a_visitor_who_signs_in_brings_the_visits_before(store):
    store.record([click("visitor:v", "i-1"), click("user:ada", "i-1"), click("visitor:v", "i-2", 1)])
    store.record([click("visitor:w", "i-7")])
    # the same call may hold what the visitor did, in any order
    recorded = store.record([click("user:ada", "i-4", 3, also="visitor:v"), click("visitor:v", "i-3", 2)])
    assert recorded == Recorded(n_recorded=2, n_already_known=0)
    assert items_of(store, "user:ada") == ["i-4", "i-3", "i-2"]  # three are kept
    assert items_of(store, "visitor:v") == []
    assert items_of(store, "visitor:w") == ["i-7"]
    store.record([click("visitor:v", "i-5", 4)])
    assert items_of(store, "visitor:v") == ["i-5"]


def test_nobody_is_named_at_rest(store, at_rest):
    store.record([click("user:ada-lovelace", "i-1"), click("user:bob-ross", "i-2", also="visitor:v-4711")])
    found = at_rest()
    assert b"i-1" in found
    assert not [name for name in (b"ada-lovelace", b"bob-ross", b"v-4711") if name in found]


def test_deleting_shoppers_leaves_nothing_of_them(store, at_rest):
    theirs = [replace(click(f"user:{n}", f"item-of-{n}"), session_id=f"visit-of-{n}") for n in ("1" * 9, "2" * 9)]
    store.record(theirs)
    store.record([click("visitor:v", "seen-at-home"), click("user:bob", "i-9")])
    before = at_rest()
    assert store.delete(["user:111111111", "visitor:v", "user:nobody"]) == 2
    after = at_rest()
    for word in (b"item-of-111111111", b"visit-of-111111111", b"seen-at-home", PSEUDONYMS.of("visitor:v").encode()):
        assert word in before
        assert word not in after
    assert (items_of(store, "user:111111111"), items_of(store, "visitor:v")) == ([], [])
    assert items_of(store, "user:222222222") == ["item-of-222222222"]
    assert items_of(store, "user:bob") == ["i-9"]
    assert store.delete(["user:111111111"]) == 0
    assert store.record([theirs[0]]).n_recorded == 1


def test_another_key_is_refused_instead_of_losing_every_history(store, opening):
    store.record([click("user:ada", "i-1")])
    with pytest.raises(ArtefactError, match=KEY_VARIABLE):
        opening(pseudonyms=Pseudonyms("other" * 10))
    assert items_of(opening(), "user:ada") == ["i-1"]


# which store


def test_without_a_key_a_file_beside_the_store_is_made_and_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    key = tmp_path / "history.sqlite3.key"
    for _ in range(2):
        store = open_histories(ServerConfig(), Workspace(tmp_path))
        store.record([click("user:ada", "i-1")])
        store.close()
        assert len(key.read_text()) == 65
        assert key.stat().st_mode & 0o777 == 0o600
    key.unlink()
    with pytest.raises(ArtefactError, match=r"history\.sqlite3\.key"):
        open_histories(ServerConfig(), Workspace(tmp_path))


def test_the_key_of_the_environment_goes_before(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    open_histories(ServerConfig(), Workspace(tmp_path)).close()
    assert not (tmp_path / "history.sqlite3.key").exists()
    HistoryStore(tmp_path / "history.sqlite3", PSEUDONYMS).close()
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(ConfigError, match=r"at least 32 characters, got 5; .*openssl"):
        open_histories(ServerConfig(), Workspace(tmp_path))


def test_redis_without_a_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        open_histories(ServerConfig(history_url="redis://127.0.0.1:1/0"), Workspace(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_is_none_is_refused_without_showing_it(tmp_path, monkeypatch):
    pytest.importorskip("redis")
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    with pytest.raises(ConfigError, match=r"expected server\.history_url as redis://") as caught:
        open_histories(ServerConfig(history_url="http://:secret@host"), Workspace(tmp_path))
    assert "secret" not in str(caught.value)
