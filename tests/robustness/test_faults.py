"""Parts that fail for real, one after another: every search is answered within its deadline, and says what it lacks."""

import importlib.util
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc
import numpy as np
import pytest

from corpus.errors import TandemError
from corpus.events import Event, EventType
from rerank.scorer import PairScorer
from server.histories.pseudonyms import KEY_VARIABLE
from server.inference.breaker import PAUSE_S
from server.inference.pace import N_RECENT
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from tests.server.gates import QUERY, eventually
from tests.server.redis_servers import running_redis
from tests.server.scraping import scrape, value

HAS_OWNERS = importlib.util.find_spec("server.inference.model_owner") is not None
BOUGHT = Event(timestamp=datetime.now(UTC), user_id="ada", session_id=None, type=EventType.PURCHASE, item_id="i-03")
UNREAD = "a part of the second stage failed; this is the order without it"
FORGOTTEN = "the history could not be read; ordered without it"
N_SEARCHES = 12
PATIENCE_S = 30.0  # for what takes milliseconds on an idle machine


def is_open(server, part: str) -> bool:
    return value(scrape(server), "tandem_breaker_open", part=part) == 1


def search(client, n: int = N_SEARCHES, **options) -> list[tuple[str, ...]]:
    """Search; return what each answer lacks."""
    lacking = []
    for _ in range(n):
        answer = client.search(QUERY, timeout_s=PATIENCE_S, **options)
        assert len(answer.results) == 10
        lacking.append(answer.degraded)
    return lacking


def fail(_self, _pairs):
    raise RuntimeError("out of memory")


def answer_nan(self, pairs):
    return np.full((len(pairs.passages), 3), np.nan, dtype=np.float32)


@pytest.mark.parametrize("fault", [fail, answer_nan], ids=["raises", "NaN"])
def test_a_broken_reranker_costs_its_order_alone_and_is_left_alone(own_store, serving, monkeypatch, fault, times):
    with serving(own_store, score_cache_mib=0, repeat_ttl_s=0.0) as (server, client):
        best = [hit.item.item_id for hit in client.search(QUERY, rerank_depth=0).results]
        n_run = 0

        def counted(self, pairs):
            nonlocal n_run
            n_run += 1
            return fault(self, pairs)

        with monkeypatch.context() as patch:
            patch.setattr(PairScorer, "heads", counted)
            began = time.monotonic()
            assert set(search(client, N_SEARCHES * times, rerank_depth=10)) == {(UNREAD,)}  # one run each
            assert is_open(server, "reranker")
            assert [hit.item.item_id for hit in client.search(QUERY).results] == best
            # three, and one at each look afterwards
            assert n_run <= 3 + (time.monotonic() - began) + 1
        eventually(lambda: search(client, 1) == [()])
        assert not is_open(server, "reranker")


@pytest.mark.pace
def test_a_reranker_far_slower_than_it_was_reads_less_and_says_so_and_keeps_few_waiting(
    own_store, serving, monkeypatch, times
):
    heads = PairScorer.heads

    def slow(self, pairs):
        found = heads(self, pairs)
        time.sleep(0.005 * len(pairs.passages))
        return found

    def ask(client):
        return client.search(QUERY, timeout_s=PATIENCE_S, rerank_depth=40, retrieval_depth=50, page_size=50)

    with serving(own_store, score_cache_mib=0, repeat_ttl_s=0.0) as (server, client):
        for _ in range(N_SEARCHES):  # the speed is known
            assert ask(client).degraded == ()
        with monkeypatch.context() as patch:
            patch.setattr(PairScorer, "heads", slow)
            n_waited, n_slow = 0, 0
            for _ in range(4 * N_SEARCHES * times):
                answer = ask(client)
                read = [hit for hit in answer.results if hit.rerank_score is not None]
                assert answer.degraded or len(read) == 40
                n_slow += any("far slower" in lack for lack in answer.degraded)
                n_waited += len(read) > 16  # which takes eighty milliseconds, of thirty seconds
            assert n_waited <= N_RECENT + 1  # until it was found out
            assert n_slow >= 4 * N_SEARCHES * times - N_RECENT - 1
            assert value(scrape(server), "tandem_degraded_answers_total", reason="reranker_slow") == n_slow
        eventually(lambda: ask(client).degraded == ())


@pytest.mark.skipif(not HAS_OWNERS, reason="the thread of searches runs the models itself")
def test_a_reranker_that_hangs_keeps_few_searches_waiting(own_store, serving, monkeypatch):
    heads, goes_on = PairScorer.heads, threading.Event()

    def hang(self, pairs):
        assert goes_on.wait(PATIENCE_S)
        return heads(self, pairs)

    with serving(own_store, reserve_ms=500.0, score_cache_mib=0, repeat_ttl_s=0.0) as (server, client):
        search(client, 3)
        with monkeypatch.context() as patch:
            patch.setattr(PairScorer, "heads", hang)
            took = []
            for _ in range(N_SEARCHES):
                began = time.monotonic()
                answer = client.search(QUERY, timeout_s=2.0)  # raises if it is late
                took.append(time.monotonic() - began)
                assert answer.degraded
                assert len(answer.results) == 10
            assert is_open(server, "reranker")
            assert np.median(took) < 0.5 * max(took)  # most do not wait their deadline out
            time.sleep(PAUSE_S)
            began = time.monotonic()
            assert client.search(QUERY, timeout_s=2.0).degraded
            assert time.monotonic() - began < 0.5 * max(took)  # nor does anybody try again while it hangs
            goes_on.set()
        eventually(lambda: search(client, 1) == [()])
        assert not is_open(server, "reranker")


@contextmanager
def something_instead_of_redis(reply: Callable[[bytes], bytes], delay_s: float = 0.0) -> Iterator[str]:
    """Listen where Redis should, and answer otherwise; yields the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(65_536):
                        time.sleep(delay_s)
                        connection.sendall(reply(data))
                except OSError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def agreeable(data: bytes) -> bytes:
    """Answers each command as if it were of another kind."""
    return b":7\r\n" * max(1, data.count(b"*"))


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "noise": lambda _: secrets.token_bytes(200),
    "http": lambda _: b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "of another kind": agreeable,
    "endless": lambda _: b"$2147483647\r\n" + b"x" * 1000,
    "errors": lambda _: b"-LOADING Redis is loading the dataset in memory\r\n" * 4,
    "half": lambda _: b"*2\r\n$3\r\nab",
    "nested": lambda _: b"*1\r\n" * 500 + b":1\r\n",
}


@pytest.mark.redis
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_redis_that_answers_nonsense_costs_histories_and_nothing_else(own_store, serving, monkeypatch, kind):
    pytest.importorskip("redis")
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    with (
        something_instead_of_redis(GARBAGE[kind]) as url,
        serving_or_refused(serving, own_store, url) as running,
    ):
        if running is None:
            return
        server, client = running
        assert set(search(client, user_id="ada")) == {(FORGOTTEN,)}
        assert is_open(server, "history")
        assert set(search(client, 2)) == {()}  # anonymous
        for rpc, request in (
            ("RecordEvents", pb.RecordEventsRequest(events=[pb.UserEvent(type=3, user_id="ada", item_id="i-01")])),
            ("DeleteUser", pb.DeleteUserRequest(user_id="ada")),
        ):
            assert code_of(server, rpc, request) is grpc.StatusCode.UNAVAILABLE


@contextmanager
def serving_or_refused(serving, store, url: str):
    """Run a server; None if it refuses to begin with histories that are not its own, as it may."""
    try:
        running = serving(store, history_url=url, history_timeout_ms=200)
        entered = running.__enter__()
    except TandemError as exc:
        assert "Redis" in str(exc)
        yield None
        return
    try:
        yield entered
    finally:
        running.__exit__(None, None, None)


def code_of(server, rpc: str, request) -> grpc.StatusCode:
    with grpc.insecure_channel(server.address) as channel:
        try:
            getattr(search_pb2_grpc.SearchServiceStub(channel), rpc)(request, timeout=PATIENCE_S)
        except grpc.RpcError as exc:
            return exc.code()
    return grpc.StatusCode.OK


@pytest.mark.redis
def test_a_slow_redis_keeps_few_searches_waiting(own_store, serving, monkeypatch):
    pytest.importorskip("redis")
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    with (
        something_instead_of_redis(lambda _: b"+OK\r\n", delay_s=2.0) as url,
        serving(own_store, history_url=url, history_timeout_ms=300) as (server, client),
    ):
        took = []
        for _ in range(N_SEARCHES):
            began = time.monotonic()
            assert search(client, 1, user_id="ada") == [(FORGOTTEN,)]
            took.append(time.monotonic() - began)
        assert np.median(took) < max(took)
        assert is_open(server, "history")


@pytest.mark.redis
def test_a_flapping_redis_costs_histories_while_it_is_away(own_store, serving, monkeypatch, tmp_path, times):
    pytest.importorskip("redis")
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    with (
        running_redis(tmp_path) as redis_server,
        serving(own_store, history_url=redis_server.url, history_timeout_ms=2000) as (server, client),
    ):
        client.record_events([BOUGHT])
        for _ in range(2 * times):
            redis_server.fail(signal.SIGKILL)
            assert set(search(client, 6, user_id="ada")) == {(FORGOTTEN,)}
            assert is_open(server, "history")
            redis_server.mend()
            eventually(lambda: search(client, 1, user_id="ada") == [()])
            assert not is_open(server, "history")
        assert client.record_events([BOUGHT]).n_recorded == 1  # Redis kept nothing, and takes it again


def test_a_full_disk_costs_events_and_no_answers(own_store, serving):
    with serving(own_store, score_cache_mib=0, repeat_ttl_s=0.0) as (server, client):
        client.record_events([BOUGHT])
        writer = server._histories._writer
        n_pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {n_pages}")  # what SQLite finds when the disk is full
        event = pb.UserEvent(type=3, user_id="ada", item_id="i-01")
        many = [pb.UserEvent(type=3, user_id=f"u-{n}", item_id="i-" + "9" * 100) for n in range(100)]
        codes = {code_of(server, "RecordEvents", pb.RecordEventsRequest(events=many)) for _ in range(3)}
        assert codes == {grpc.StatusCode.UNAVAILABLE}
        assert set(search(client, user_id="ada")) == {()}  # read as before
        assert value(scrape(server), "tandem_history_errors_total", operation="write") == 3
        writer.execute("PRAGMA max_page_count = 1000000")
        assert code_of(server, "RecordEvents", pb.RecordEventsRequest(events=[event])) is grpc.StatusCode.OK
