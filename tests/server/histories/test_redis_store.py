import signal
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest

from corpus.errors import ArtefactError, TandemError
from corpus.events import Event, EventType
from server.histories.contract import ShopperEvent
from server.histories.pseudonyms import KEY_VARIABLE, Pseudonyms
from tests.server.redis_servers import running_redis

redis = pytest.importorskip("redis")
from server.histories.redis_store import BREAK_S, DETAILS_PREFIX, EVENTS_PREFIX, RedisHistoryStore  # noqa: E402

NOW = datetime.now(UTC).replace(microsecond=0)
PSEUDONYMS = Pseudonyms("k" * 32)
ADA = PSEUDONYMS.of("user:ada")

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def histories(client, redis_server):
    store = RedisHistoryStore(redis_server.url, PSEUDONYMS, ttl=timedelta(days=10), timeout_ms=5000)
    yield store
    store.close()


def click(item_id: str, shopper: str = "user:ada", **details) -> ShopperEvent:
    return ShopperEvent(shopper=shopper, timestamp=NOW, type=EventType.CLICK, item_id=item_id, **details)


def test_every_detail_of_an_event_is_kept_and_follows_a_visitor_who_signs_in(histories, client):
    details = {"session_id": "s", "search_id": "q", "position": 4, "price": 2.5, "quantity": 3}
    histories.record([click("i-1", "visitor:v", **details)])
    histories.record([click("i-2", also="visitor:v")])
    member, kept = client.hgetall(DETAILS_PREFIX + ADA).popitem()
    assert member.split(b"\x1f")[1:] == [b"click", b"i-1", b""]
    assert kept == b'{"session_id": "s", "search_id": "q", "position": 4, "price": 2.5, "quantity": 3}'
    assert client.keys("*" + PSEUDONYMS.of("visitor:v")) == []


def test_keys_expire_once_their_newest_event_is_too_old(histories, client):
    histories.record([click("i-1", session_id="s"), click("i-2", "user:bob")])
    for key in (EVENTS_PREFIX + ADA, DETAILS_PREFIX + ADA):
        assert 0 < timedelta(days=10).total_seconds() * 1000 - client.pttl(key) < 3_600_000  # since NOW


def test_a_call_is_written_whole_or_not_at_all(histories, client):
    client.set(DETAILS_PREFIX + PSEUDONYMS.of("user:bob"), "of something else")
    with pytest.raises(ArtefactError, match="something else lies where histories are kept"):
        histories.record([click("i-1"), click("i-2", "user:bob")])
    assert histories.history("user:ada") == ()
    assert histories.record([click("i-1")]).n_recorded == 1


def test_a_full_redis_takes_nothing_and_goes_on_answering(histories, client):
    histories.record([click("i-1")])
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ArtefactError, match="mend its configuration"):
            histories.record([click("i-2"), click("i-3", "user:bob")])
        assert [event.item_id for event in histories.history("user:ada")] == ["i-1"]
    finally:
        client.config_set("maxmemory", 0)


def test_a_slow_redis_is_asked_once_and_left_alone_for_a_moment():
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        started = time.monotonic()
        store = RedisHistoryStore(f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0", PSEUDONYMS, timeout_ms=50)
        assert 0.04 < time.monotonic() - started < 2
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(ArtefactError, match="failed a moment ago") as caught:
                store.history("user:ada")
        assert time.monotonic() - started < 0.05
        assert "secret" not in str(caught.value)
        store.close()


def test_searches_answer_without_histories_while_redis_is_gone_and_with_them_once_it_is_back(
    own_store, serving, monkeypatch, tmp_path
):
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    bought = Event(timestamp=NOW, user_id="ada", session_id=None, type=EventType.PURCHASE, item_id="i-03")
    with (
        running_redis(tmp_path) as server,
        serving(own_store, history_url=server.url, history_timeout_ms=2000) as (_, tandem),
    ):
        anonymous = [hit.score for hit in tandem.search("shoe").results]
        assert tandem.record_events([bought]).n_recorded == 1
        assert [hit.score for hit in tandem.search("shoe", user_id="ada").results] != anonymous
        server.fail(signal.SIGKILL)
        without = tandem.search("shoe", user_id="ada")
        assert [hit.score for hit in without.results] == anonymous
        assert without.degraded == ("the history could not be read; ordered without it",)
        with pytest.raises(TandemError, match="its log says which"):
            tandem.record_events([bought])
        server.mend()
        time.sleep(BREAK_S)
        assert tandem.search("shoe", user_id="ada").degraded == ()
        assert tandem.record_events([bought]).n_recorded == 1
        assert [hit.score for hit in tandem.search("shoe", user_id="ada").results] != anonymous
    assert not (own_store.root / "history.sqlite3").exists()
