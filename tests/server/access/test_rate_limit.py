from datetime import UTC, datetime

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from corpus.errors import Overloaded
from server.access.api_keys import Scope, add_key
from server.access.credentials import Credentials
from server.access.rate_limit import CallerLimits, peer_host
from server.client import TandemAdmin, TandemClient
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.telemetry.health import check_health
from tests.server.gates import QUERY


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_seconds_worth_may_come_at_once_and_then_one_for_each_token():
    clock = Clock()
    limits = CallerLimits(4.0, now=clock)
    assert [limits.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.25]
    clock.now += 0.125
    assert limits.take("a") == 0.125  # half a token; refusals cost nothing
    clock.now += 0.125
    assert [limits.take("a") for _ in range(2)] == [0, 0.25]
    clock.now += 100
    assert [limits.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.25]  # no more is saved up than a second's worth


def test_slow_limits_let_one_call_through():
    clock = Clock()
    limits = CallerLimits(0.5, now=clock)
    assert [limits.take("a") for _ in range(2)] == [0, 2]
    clock.now += 2
    assert limits.take("a") == 0


def test_callers_do_not_share_a_bucket():
    limits = CallerLimits(1.0, now=Clock())
    assert [limits.take(caller) for caller in "aabb"] == [0, 1, 0, 1]


def test_no_more_callers_are_remembered_than_fit_and_the_longest_silent_goes():
    limits = CallerLimits(1.0, max_callers=2, now=Clock())
    assert [limits.take(caller) for caller in "abac"] == [0, 0, 1, 0]  # b goes for c
    assert len(limits) == 2
    assert limits.take("a") == 1
    assert limits.take("b") == 0


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:40000", "ipv4:10.0.0.1"),
        ("ipv6:%5B::1%5D:40000", "ipv6:%5B::1%5D"),
        ("unix:", "unix:"),
    ],
)
def test_a_peer_is_its_host(peer, host):
    assert peer_host(peer) == host


def test_an_address_that_calls_too_often_is_told_when_to_come_back(own_store, serving):
    with serving(own_store, max_calls_per_second=0.01) as (server, client):
        assert len(client.search(QUERY).results) == 10
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            search_pb2_grpc.SearchServiceStub(channel).Search(pb.SearchRequest(query=QUERY), timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert 30_000 < retry.retry_delay.ToMilliseconds() <= 100_000
        with TandemAdmin(server.admin_address) as admin, pytest.raises(Overloaded, match="calls too often"):
            admin.delete_items(["nobody"])
        assert [check_health(server.address, "", timeout_s=60) for _ in range(3)] == ["SERVING"] * 3


def test_each_key_has_calls_of_its_own_and_strangers_use_up_nobodys(own_store, serving, tmp_path):
    path, now = tmp_path / "keys.json", datetime.now(UTC)
    made = [add_key(path, name, [Scope.SEARCH], expires_at=None, now=now) for name in ("a", "b")]
    with serving(own_store, max_calls_per_second=0.01, api_keys=str(path)) as (server, stranger):
        for _ in range(3):
            with pytest.raises(Exception, match="valid API key"):
                stranger.search(QUERY)
        for key in made:
            with TandemClient(server.address, timeout_s=60, credentials=Credentials(api_key=key)) as client:
                assert len(client.search(QUERY).results) == 10
                with pytest.raises(Overloaded, match="calls too often"):
                    client.search(QUERY)
