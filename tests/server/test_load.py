import threading

import grpc
from google.rpc import error_details_pb2, status_pb2

from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from tests.server.callers import failure
from tests.server.gates import QUERY, Gate, eventually


def test_a_full_house_says_so_and_when_to_come_back(store, serving, tmp_path, monkeypatch):
    settings = {"max_waiting_searches": 1, "retry_after_ms": 250.0, "history_path": str(tmp_path / "h")}
    with serving(store, **settings) as (server, client), grpc.insecure_channel(server.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        gate = Gate(server, monkeypatch)
        first = stub.Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY), timeout=60))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 250
        gate.open()
        assert len(first.result().results) == 10
        eventually(lambda: server._service._searches.n_inside == 0)
        assert len(client.search(QUERY).results) == 10


def test_a_caller_who_hangs_up_frees_the_place_and_costs_nothing(store, serving, tmp_path, monkeypatch):
    with (
        serving(store, search_threads=1, max_waiting_searches=2, history_path=str(tmp_path / "h")) as (server, _),
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = search_pb2_grpc.SearchServiceStub(channel)
        gate = Gate(server, monkeypatch)
        first = stub.Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        waiting = stub.Search.future(pb.SearchRequest(query="hose"), timeout=60)
        eventually(lambda: server._service._searches.n_inside == 2)
        waiting.cancel()
        eventually(lambda: server._service._searches.n_inside == 1)
        gate.open()
        assert len(first.result().results) == 10
        assert len(stub.Search(pb.SearchRequest(query="rake"), timeout=60).results) == 10
        assert gate.entered.acquire(timeout=60)  # the third call
        assert not gate.entered.acquire(blocking=False)  # the second never ran


def test_a_call_whose_deadline_passes_while_it_waits_never_runs(store, serving, tmp_path, monkeypatch):
    with (
        serving(store, search_threads=1, history_path=str(tmp_path / "h")) as (server, _),
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = search_pb2_grpc.SearchServiceStub(channel)
        gate = Gate(server, monkeypatch)
        first = stub.Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        error = failure(lambda: stub.Search(pb.SearchRequest(query="hose"), timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.open()
        assert len(first.result().results) == 10
        assert len(stub.Search(pb.SearchRequest(query="rake"), timeout=60).results) == 10
        assert gate.entered.acquire(timeout=60)
        assert not gate.entered.acquire(blocking=False)


def test_searches_at_once_answer_as_they_would_alone(client):
    queries = ["red acme shoe", "steel pan", "blue hose", "turntable", "rose pot", "kiri mug"]
    alone = {query: [hit.item.item_id for hit in client.search(query).results] for query in queries}
    wrong: list[object] = []

    def work(query: str) -> None:
        try:
            for _ in range(5):
                found = [hit.item.item_id for hit in client.search(query).results]
                if found != alone[query]:
                    wrong.append((query, found))
        except Exception as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
