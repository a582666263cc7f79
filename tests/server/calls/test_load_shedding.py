"""What a search meets before it is read, and in which order."""

import time
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from server.access.api_keys import Scope, add_key
from server.pb.tandem.search.v1 import search_pb2 as pb
from tests.server.gates import QUERY, eventually
from tests.server.scraping import scrape, value

SEARCH = "SearchService.Search"
NONSENSE = b"\xff"  # no message: what reads it says so
FULL = "all 4 places are taken"
SLOW = "leave it too little time"


def send(server, data: bytes, *, timeout: float = 60, **metadata: str) -> grpc.RpcError | bytes:
    """Send some bytes as a search; return the answer's, or the failure."""
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(f"/tandem.search.v1.{SEARCH.replace('.', '/')}", _registered_method=False)
        try:
            return method(data, timeout=timeout, metadata=tuple(metadata.items()))
        except grpc.RpcError as exc:
            return exc


def code_of(found: grpc.RpcError | bytes) -> grpc.StatusCode:
    return grpc.StatusCode.OK if isinstance(found, bytes) else found.code()


def retry_ms(error: grpc.RpcError) -> int:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert status.message == error.details()
    assert status.details[0].Unpack(retry)
    return retry.retry_delay.ToMilliseconds()


@contextmanager
def taken(server):
    """Let all places be taken."""
    searches = server._service._searches
    searches._n_inside += searches.limit
    try:
        yield
    finally:
        searches._n_inside -= searches.limit


@contextmanager
def slow(server, seconds: float):
    """Let three searches be under way in a house that takes so long for each."""
    searches = server._service._searches
    searches._pace_s, searches._since = seconds, time.monotonic()
    searches._n_inside += 3
    searches._n_paced += 3
    try:
        yield
    finally:
        searches._n_inside -= 3
        searches._n_paced -= 3
        searches._pace_s = None


@pytest.fixture(scope="module")
def running(store, serving, tmp_path_factory):
    settings = {"max_waiting_searches": 4, "retry_after_ms": 250.0, "score_cache_mib": 0}
    with serving(store, history_path=str(tmp_path_factory.mktemp("h") / "h"), **settings) as (server, _):
        yield server


@pytest.mark.parametrize(("trouble", "why"), [(taken, FULL), (lambda server: slow(server, 40.0), SLOW)])
def test_a_search_without_room_is_refused_unread_told_when_to_come_back_and_counted(running, trouble, why):
    refused = value(scrape(running), "tandem_queue_refusals_total", queue="search")
    counted = value(scrape(running), "tandem_calls_total", rpc=SEARCH, code="RESOURCE_EXHAUSTED")
    with trouble(running):
        for data in (NONSENSE, pb.SearchRequest(query=QUERY).SerializeToString(), b""):
            error = send(running, data)
            assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert why in error.details()
            assert retry_ms(error) == 250
        assert value(scrape(running), "tandem_queue_refusals_total", queue="search") == refused + 3
    # a refusal reaches its caller a moment before it is counted
    eventually(
        lambda: value(scrape(running), "tandem_calls_total", rpc=SEARCH, code="RESOURCE_EXHAUSTED") == counted + 3
    )
    assert code_of(send(running, NONSENSE)) is grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(send(running, pb.SearchRequest(query=QUERY).SerializeToString())) is grpc.StatusCode.OK


def test_further_pages_are_let_into_a_slow_house_and_not_into_a_full_one(running):
    first = pb.SearchRequest(query=QUERY, page_size=3)
    token = pb.SearchResponse.FromString(send(running, first.SerializeToString())).next_page_token
    page = pb.SearchRequest(query=QUERY, page_size=3, page_token=token).SerializeToString()
    with slow(running, 40.0):
        found = pb.SearchResponse.FromString(send(running, page))
        assert [result.rank for result in found.results] == [4, 5, 6]
    with taken(running):
        assert FULL in send(running, page).details()


def test_a_search_with_time_enough_is_let_into_a_slow_house(running):
    request = pb.SearchRequest(query=QUERY).SerializeToString()
    with slow(running, 1.0):  # its turn comes after four seconds
        assert code_of(send(running, request, timeout=2)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code_of(send(running, request, timeout=60)) is grpc.StatusCode.OK


def test_other_calls_do_not_wait_for_searches(running):
    with taken(running), grpc.insecure_channel(running.address) as channel:
        method = channel.unary_unary("/tandem.search.v1.SearchService/Suggest", _registered_method=False)
        assert isinstance(method(pb.SuggestRequest(query="r").SerializeToString(), timeout=60), bytes)


def test_a_deadline_that_has_passed_is_told_as_such_in_a_full_house(store, serving, tmp_path):
    with serving(store, reserve_ms=3_600_000.0, history_path=str(tmp_path / "h")) as (server, _), taken(server):
        error = send(server, pb.SearchRequest(query=QUERY).SerializeToString())
        assert code_of(error) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_strangers_do_not_learn_that_the_house_is_full_nor_eager_callers(store, serving, tmp_path):
    path, now = tmp_path / "keys.json", datetime.now(UTC)
    key, other = (add_key(path, scope, [scope], expires_at=None, now=now) for scope in (Scope.SEARCH, Scope.EVENTS))
    settings = {"api_keys": str(path), "max_calls_per_second": 0.001, "max_waiting_searches": 4}
    with serving(store, history_path=str(tmp_path / "h"), **settings) as (server, _), taken(server):
        assert code_of(send(server, NONSENSE)) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(send(server, NONSENSE, authorization="Bearer wrong")) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(send(server, NONSENSE, authorization=f"Bearer {other}")) is grpc.StatusCode.PERMISSION_DENIED
        assert server._service._searches.n_refused == 0
        assert FULL in send(server, NONSENSE, authorization=f"Bearer {key}").details()  # strangers used up nothing
        eager = send(server, NONSENSE, authorization=f"Bearer {key}")
        assert "calls too often" in eager.details()
        assert 100_000 < retry_ms(eager) <= 1_000_000
        assert server._service._searches.n_refused == 1
