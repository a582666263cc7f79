import grpc
import pytest

from corpus.errors import UnknownItem
from server.admin import IndexAdminService
from server.api.requests import SERVED
from server.api.status import violations_of
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.service import SearchService
from tests.server.callers import failure

QUERY = "red acme shoe"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"query": ""}, "query"),
        ({"query": "\x00\x07"}, "query"),
        ({"query": "x" * 10_240}, "query"),
        ({"query": QUERY, "page_size": 0}, "page_size"),
        ({"query": QUERY, "page_size": 10**9}, "page_size"),
        ({"query": QUERY, "user_id": "a\nb"}, "user_id"),
        ({"query": QUERY, "page_token": "x" * 5000}, "page_token"),
        ({"query": QUERY, "params": {"retrieval_depth": 10**9}}, "params.retrieval_depth"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_requests_are_invalid_arguments_that_name_the_field(stub, client, fields, fault):
    error = failure(lambda: stub.Search(pb.SearchRequest(**fields)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_of(error)] == [fault]
    assert "Traceback" not in error.details()
    assert len(client.search(QUERY).results) == 10


def test_a_field_that_is_not_served_is_unimplemented_and_named(stub, monkeypatch):
    monkeypatch.setitem(SERVED, "SearchRequest", frozenset({"query"}))
    error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY, explain=True)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert [violation.field for violation in violations_of(error)] == ["explain"]


def test_an_item_that_the_catalogue_lacks_is_not_found_and_named(stub, client):
    error = failure(lambda: stub.Search(pb.SearchRequest(similar_to_item_id="unknown")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert [violation.field for violation in violations_of(error)] == ["similar_to_item_id"]
    with pytest.raises(UnknownItem) as caught:
        client.search("", similar_to_item_id="unknown")
    assert caught.value.field == "similar_to_item_id"


@pytest.mark.parametrize("servicer", [SearchService, IndexAdminService])
def test_every_call_of_the_contract_is_served(servicer):
    contract = pb.DESCRIPTOR.services_by_name[servicer.__name__]
    assert {method.name for method in contract.methods} <= {
        name for name, method in vars(servicer).items() if getattr(method, "__name__", "") == name
    }


def test_a_message_beyond_all_limits_is_refused(stub, client):
    error = failure(lambda: stub.Search(pb.SearchRequest(query="x" * (2 << 20))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(client.search(QUERY).results) == 10


def test_a_deadline_too_short_to_present_anything_costs_no_work(store, serving, tmp_path, monkeypatch):
    with serving(store, reserve_ms=3_600_000.0, history_path=str(tmp_path / "h")) as (server, _):
        monkeypatch.setattr(server._service.pipeline, "search", lambda *_: pytest.fail("searched"))
        with grpc.insecure_channel(server.address) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY), timeout=60))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            error = failure(lambda: stub.RecordEvents(pb.RecordEventsRequest(), timeout=60))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_events_that_cannot_be_written_are_refused_as_unavailable(store, serving, tmp_path, caplog):
    with serving(store, history_path=str(tmp_path / "h")) as (server, client):
        server._histories._writer.execute("PRAGMA query_only = ON")  # as a disk that went read-only
        with grpc.insecure_channel(server.address) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            event = pb.UserEvent(type=pb.EVENT_TYPE_CLICK, user_id="ada", item_id="i-01")
            error = failure(lambda: stub.RecordEvents(pb.RecordEventsRequest(events=[event]), timeout=60))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert str(tmp_path) not in error.details()
        assert str(tmp_path) in caplog.text
        assert len(client.search(QUERY, user_id="ada").results) == 10
