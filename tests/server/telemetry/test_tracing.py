import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from corpus.errors import ConfigError
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.serve import TandemServer
from tests.server.collector import collecting
from tests.server.conftest import CONFIG
from tests.server.gates import QUERY

ROOT = Path(__file__).parents[3]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
STAGES = ["history", "wait", "filter", "retrieve", "rerank", "present"]


def search(server, query: str = QUERY, **headers: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        stub.Search(pb.SearchRequest(query=query), metadata=tuple(headers.items()), timeout=60)


def test_a_call_and_its_stages_are_spans_beneath_the_callers(own_store, serving):
    before = time.time_ns()
    with collecting() as collector:
        with serving(own_store, otlp_endpoint=collector.endpoint) as (server, _):
            search(server, traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="shop=1")
        spans = collector.spans  # a stopping server has sent them
    after = time.time_ns()
    (call,) = [span for span in spans if span.name == "SearchService.Search"]
    assert (call.trace_id.hex(), call.parent_span_id.hex(), call.trace_state) == (TRACE, PARENT, "shop=1")
    assert {a.key: a.value.string_value or a.value.int_value for a in call.attributes} == {
        "rpc.system": "grpc",
        "rpc.service": "SearchService",
        "rpc.method": "Search",
        "rpc.grpc.status_code": 0,
    }
    stages = [span for span in spans if span is not call]
    assert [span.name for span in sorted(stages, key=lambda span: span.start_time_unix_nano)] == STAGES
    slack_ns = 1_000_000  # two clocks are read one after the other
    for stage in stages:
        assert (stage.trace_id, stage.parent_span_id) == (call.trace_id, call.span_id)
        assert stage.start_time_unix_nano >= call.start_time_unix_nano - slack_ns
        assert stage.end_time_unix_nano <= call.end_time_unix_nano + slack_ns
    assert before <= call.start_time_unix_nano < call.end_time_unix_nano <= after + slack_ns


def test_the_caller_decides_and_where_none_does_the_share(own_store, serving):
    with collecting() as collector:
        with serving(own_store, otlp_endpoint=collector.endpoint, trace_share=0.0) as (server, _):
            search(server)
            search(server, traceparent=f"00-{TRACE}-{PARENT}-00")
            search(server, traceparent="nonsense")
        assert collector.spans == []
        with serving(own_store, otlp_endpoint=collector.endpoint, trace_share=1.0) as (server, _):
            search(server)
            search(server, traceparent=f"00-{TRACE}-{PARENT}-00")
        calls = [span for span in collector.spans if span.name == "SearchService.Search"]
        assert [span.parent_span_id for span in calls] == [b""]


def test_faults_and_what_answers_lack_are_marked(own_store, serving, monkeypatch):
    with collecting() as collector:
        with serving(own_store, otlp_endpoint=collector.endpoint, trace_share=1.0) as (server, _):

            def fail(*_: object, **__: object) -> None:
                raise ValueError("a shopper's words")

            monkeypatch.setattr(type(server._service.pipeline.bundle.reranker), "rerank", fail)
            search(server)
            with pytest.raises(grpc.RpcError):
                search(server, "")
            monkeypatch.setattr(server._service.pipeline, "search", fail)
            with pytest.raises(grpc.RpcError):
                search(server)
        calls = [span for span in collector.spans if span.name == "SearchService.Search"]
    codes = [{a.key: a.value for a in span.attributes}["rpc.grpc.status_code"].int_value for span in calls]
    assert codes == [0, 3, 13]
    assert [span.status.code for span in calls] == [0, 0, 2]  # unset, unset, error
    reasons = {a.key: a.value for a in calls[0].attributes}["tandem.degraded"].array_value.values
    assert [reason.string_value for reason in reasons] == ["reranker_failed"]
    assert not any(b"words" in body for body in collector.bodies)


def test_a_collector_that_is_not_there_hinders_nobody(own_store, serving):
    with serving(own_store, otlp_endpoint="http://127.0.0.1:1/v1/traces", trace_share=1.0) as (_, client):
        assert len(client.search(QUERY).results) == 10
        began = time.monotonic()
    assert time.monotonic() - began < 20


def test_without_the_libraries_the_setting_is_refused(loop, store, monkeypatch):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    monkeypatch.setitem(sys.modules, "server.telemetry.tracing", None)
    settings = {"otlp_endpoint": "http://127.0.0.1:4318/v1/traces"}
    with pytest.raises(ConfigError, match=r"pip install .*\[otel\]"):
        loop.run(TandemServer.start(CONFIG.model_copy(update=settings), store))


def test_the_libraries_are_imported_only_where_they_are_used():
    code = "import sys, server.serve; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_endpoint_is_a_url():
    with pytest.raises(ValidationError, match="otlp_endpoint"):
        ServerConfig(otlp_endpoint="127.0.0.1:4318")
