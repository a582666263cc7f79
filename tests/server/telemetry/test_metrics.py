import threading
from datetime import UTC, datetime

import grpc
import pytest

from corpus.errors import ArtefactError, ConfigError, DeadlineExceeded, Overloaded, TandemError
from corpus.events import Event, EventType
from corpus.items import Item
from indexer.publish import publish
from server.client import TandemAdmin, TandemClient
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.serve import TandemServer
from tests.server.conftest import CONFIG, copy_bundle
from tests.server.gates import QUERY, Gate, eventually
from tests.server.scraping import scrape, text_of, value

SEARCH = "SearchService.Search"
PURCHASE = Event(
    timestamp=datetime(2026, 3, 1, tzinfo=UTC),
    user_id="u",
    session_id=None,
    type=EventType.PURCHASE,
    item_id="i-01",
)


def test_calls_are_counted_by_method_and_code_and_timed_by_stage(own_store, serving):
    with serving(own_store) as (server, client):
        client.search(QUERY, rerank_depth=7)
        client.search(QUERY, rerank_depth=0)
        client.record_events([PURCHASE])
        with pytest.raises(TandemError):
            client.search("")
        # a refusal reaches its caller a moment before it is counted
        eventually(lambda: value(scrape(server), "tandem_calls_total", rpc=SEARCH, code="INVALID_ARGUMENT") == 1)
        samples = scrape(server)
    assert value(samples, "tandem_calls_total", rpc=SEARCH, code="OK") == 2
    assert value(samples, "tandem_calls_total", rpc="SearchService.RecordEvents", code="OK") == 1
    assert value(samples, "tandem_call_duration_seconds_count", rpc=SEARCH) == 3
    stages = {dict(labels)["stage"] for name, labels in samples if name == "tandem_stage_duration_seconds_count"}
    assert stages == {"wait", "history", "filter", "retrieve", "rerank", "present"}
    assert value(samples, "tandem_stage_duration_seconds_count", rpc=SEARCH, stage="rerank") == 2
    seconds = value(samples, "tandem_stage_duration_seconds_sum", rpc=SEARCH, stage="rerank")
    assert 0 < seconds < value(samples, "tandem_call_duration_seconds_sum", rpc=SEARCH) < 60
    assert value(samples, "tandem_reranked_pairs_total") == 7
    assert value(samples, "tandem_rerank_depth_count") == 2
    assert value(samples, "tandem_rerank_depth_sum") == 7


def test_methods_of_other_services_and_unknown_ones_make_no_series(own_store, serving):
    with serving(own_store) as (server, _), grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError):
            search_pb2_grpc.IndexAdminServiceStub(channel).ListVersions(pb.ListVersionsRequest())
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/tandem.search.v1.SearchService/Nonsense", _registered_method=False)(b"")
        admin = grpc.insecure_channel(server.admin_address)
        with admin, pytest.raises(grpc.RpcError):
            search_pb2_grpc.IndexAdminServiceStub(admin).DeleteItems(pb.DeleteItemsRequest())
        eventually(lambda: calls(scrape(server)))
        assert calls(scrape(server)) == {("IndexAdminService.DeleteItems", "INVALID_ARGUMENT"): 1}


def calls(samples) -> dict[tuple[str, str], float]:
    found = {dict(labels)["rpc"]: labels for name, labels in samples if name == "tandem_calls_total"}
    return {(rpc, dict(labels)["code"]): samples["tandem_calls_total", labels] for rpc, labels in found.items()}


def test_a_full_queue_and_a_caller_who_hangs_up_are_told(own_store, serving, monkeypatch):
    with (
        serving(own_store, max_waiting_searches=1) as (server, client),
        grpc.insecure_channel(server.address) as channel,
    ):
        gate = Gate(server, monkeypatch)
        waiting = search_pb2_grpc.SearchServiceStub(channel).Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        with pytest.raises(Overloaded):
            client.search(QUERY)
        eventually(lambda: value(scrape(server), "tandem_calls_total", rpc=SEARCH, code="RESOURCE_EXHAUSTED") == 1)
        samples = scrape(server)
        assert value(samples, "tandem_queue_calls", queue="search") == 1
        assert value(samples, "tandem_queue_limit", queue="search") == 1
        assert value(samples, "tandem_queue_refusals_total", queue="search") == 1
        assert value(samples, "tandem_queue_refusals_total", queue="events") == 0
        waiting.cancel()
        eventually(lambda: value(scrape(server), "tandem_calls_total", rpc=SEARCH, code="CANCELLED") == 1)
        gate.open()
        assert value(scrape(server), "tandem_queue_calls", queue="search") == 0


def test_a_call_whose_time_is_up_is_no_caller_who_hung_up(own_store, serving, monkeypatch):
    with serving(own_store) as (server, client), grpc.insecure_channel(server.address) as channel:
        gate = Gate(server, monkeypatch)
        stub = search_pb2_grpc.SearchServiceStub(channel)
        held = stub.Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        with pytest.raises(DeadlineExceeded):
            client.search("hose", timeout_s=0.2)
        eventually(lambda: value(scrape(server), "tandem_calls_total", rpc=SEARCH, code="DEADLINE_EXCEEDED") == 1)
        gate.open()
        assert len(held.result().results) == 10
        assert value(scrape(server), "tandem_calls_total", rpc=SEARCH, code="CANCELLED") == 0


def test_an_unexpected_error_is_an_internal_one(own_store, serving, monkeypatch):
    with serving(own_store) as (server, client):
        monkeypatch.setattr(server._service.pipeline, "search", lambda *_: 1 / 0)
        with pytest.raises(TandemError):
            client.search(QUERY)
        eventually(lambda: value(scrape(server), "tandem_calls_total", rpc=SEARCH, code="INTERNAL") == 1)


def test_what_answers_lack_is_counted_by_reason(own_store, serving, monkeypatch):
    with serving(own_store) as (server, client):

        def fail(*_: object, **__: object) -> None:
            raise ArtefactError("the disk is gone")

        monkeypatch.setattr(server._histories, "history", fail)
        monkeypatch.setattr(server._histories, "record", fail)
        monkeypatch.setattr(type(server._service.pipeline.bundle.reranker), "rerank", fail)
        client.search(QUERY, user_id="u")
        with pytest.raises(TandemError):
            client.record_events([PURCHASE])
        monkeypatch.setattr(server._histories, "delete", fail)
        with pytest.raises(TandemError):
            client.delete_user(user_id="u")
        assert client.suggest("re", user_id="u") == client.suggest("re")
        eventually(lambda: value(scrape(server), "tandem_history_errors_total", operation="write") == 2)
        samples = scrape(server)
    assert value(samples, "tandem_degraded_answers_total", reason="history_unavailable") == 1
    assert value(samples, "tandem_degraded_answers_total", reason="reranker_failed") == 1
    assert samples["tandem_degraded_answers_total", frozenset({("reason", "deadline")})] == 0
    assert value(samples, "tandem_history_errors_total", operation="read") == 2  # the search's and the suggestions'
    assert value(samples, "tandem_rerank_depth_sum") == 30
    assert value(samples, "tandem_reranked_pairs_total") == 0


def test_runs_of_the_models_and_what_they_were_spared_are_told(own_store, serving):
    with serving(own_store, repeat_ttl_s=0.0) as (server, client):
        for _ in range(2):
            client.search(QUERY, rerank_depth=7)
        server._runtime.encoder.n_expired = 3
        server._runtime.reranker.n_cancelled = 2
        samples = scrape(server)
    for model, n in (("encoder", 1), ("reranker", 7)):
        assert value(samples, "tandem_model_batch_size_count", model=model) == 1
        assert value(samples, "tandem_model_batch_size_sum", model=model) == n
        assert value(samples, "tandem_model_waiting", model=model) == 0
    assert value(samples, "tandem_model_batch_size_bucket", model="reranker", le="4.0") == 0
    assert value(samples, "tandem_model_batch_size_bucket", model="reranker", le="8.0") == 1
    dropped = {
        (model, reason): value(samples, "tandem_model_dropped_total", model=model, reason=reason)
        for model in ("encoder", "reranker")
        for reason in ("expired", "cancelled")
    }
    assert dropped == {
        ("encoder", "expired"): 3,
        ("encoder", "cancelled"): 0,
        ("reranker", "expired"): 0,
        ("reranker", "cancelled"): 2,
    }
    for cache, n in (("embedding", 1), ("score", 7)):
        assert value(samples, "tandem_cache_hits_total", cache=cache) == n
        assert value(samples, "tandem_cache_misses_total", cache=cache) == n
        assert value(samples, "tandem_cache_bytes", cache=cache) > 300 * n


def test_the_bundle_reloads_and_live_updates_are_told(own_store, serving, loop):
    with serving(own_store) as (server, _):
        assert versions(scrape(server)) == {"v1"}
        with TandemAdmin(server.admin_address) as admin:
            admin.upsert_items([Item(item_id="new", title="purple gizmotron")])
        copy_bundle(own_store, "v1", "v2")
        publish(own_store.bundles, "v2")
        loop.run(server.try_reload())
        (own_store.bundles / "CURRENT").write_text("nonsense")
        loop.run(server.try_reload())
        samples = scrape(server)
    assert versions(samples) == {"v2"}
    assert value(samples, "tandem_bundle_items") == 60
    assert value(samples, "tandem_live_items") == 1
    assert value(samples, "tandem_reloads_total", outcome="ok") == 1
    assert value(samples, "tandem_reloads_total", outcome="failed") == 1
    assert value(samples, "process_resident_memory_bytes") > 1e6
    assert value(samples, "process_open_fds") > 3


def versions(samples) -> set[str]:
    return {dict(labels)["version"] for name, labels in samples if name == "tandem_bundle_info"}


def test_two_servers_in_a_process_count_apart(own_store, serving):
    with serving(own_store) as (first, client), serving(own_store) as (second, _):
        client.search(QUERY)
        assert value(scrape(first), "tandem_calls_total", rpc=SEARCH, code="OK") == 1
        assert value(scrape(second), "tandem_calls_total", rpc=SEARCH, code="OK") == 0


def test_without_an_address_nothing_listens(own_store, serving):
    before = threading.active_count()
    with serving(own_store, metrics_address="") as (server, client):
        assert server.metrics_address == ""
        assert len(client.search(QUERY).results) == 10
    assert threading.active_count() <= before


def test_a_server_that_stopped_answers_no_scrape(own_store, serving):
    with serving(own_store) as (server, _):
        assert "tandem_bundle_info" in text_of(server)
    with pytest.raises(OSError, match="refused"):
        text_of(server)


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:http"])
def test_an_address_that_is_none_is_refused(loop, store, address):
    with pytest.raises(ConfigError, match=r"expected server\.metrics_address as host:port"):
        loop.run(TandemServer.start(CONFIG.model_copy(update={"metrics_address": address}), store))


def test_a_port_in_use_is_named_with_its_setting(loop, store, shared_server):
    taken = shared_server[0].metrics_address
    with pytest.raises(ConfigError, match=f"cannot listen on {taken}: Address already in use; .*metrics_address="):
        loop.run(TandemServer.start(CONFIG.model_copy(update={"metrics_address": taken}), store))
    with TandemClient(shared_server[0].address) as client:
        assert len(client.search(QUERY).results) == 10
