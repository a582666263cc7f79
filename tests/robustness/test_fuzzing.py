"""What nobody should send: every RPC, real sockets. ``python -m benchmarks fuzz`` is the long form."""

import asyncio
import random
import resource
from itertools import islice

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import ALLOWED, fuzz_calls, fuzz_connections
from benchmarks.fuzz_messages import Fuzzer, methods, requests
from benchmarks.fuzz_wire import PING, call_headers, frame
from server.serve import MAX_REQUEST_BYTES
from tests.server.gates import QUERY

N_REQUESTS = 3000
N_CONNECTIONS = 150
N_EXAMPLES = 15  # by Hypothesis, of each RPC
MOST_MIB = 400  # that the process may grow by: histories, caches, and what Python does not give back
METHODS = methods()


@pytest.fixture(scope="module")
def fuzzed(store, serving, tmp_path_factory):
    """A server of its own: items are changed, histories filled."""
    import shutil

    from corpus.workspace import Workspace

    copy = Workspace(tmp_path_factory.mktemp("fuzzed") / "store")
    shutil.copytree(store.bundles, copy.bundles)
    with serving(copy) as (server, client):
        yield server, client


def test_the_fuzzer_fills_every_field_of_every_request():
    seen: set[str] = set()
    fuzzer = Fuzzer(random.Random(3))
    for method in METHODS:
        for _ in range(150):
            message = method.request()
            try:
                message.MergeFromString(fuzzer.request(method.request))
            except DecodeError:
                continue
            note(message, seen)
    expected: set[str] = set()
    for method in METHODS:
        name(method.request.DESCRIPTOR, expected)
    assert expected - seen == set()


def note(message, seen: set[str]) -> None:
    for field, value in message.ListFields():
        seen.add(field.full_name)
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in value if field.is_repeated else [value]:
            note(each, seen)


def name(descriptor, expected: set[str]) -> None:
    for field in descriptor.fields:
        expected.add(field.full_name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            name(field.message_type, expected)


@pytest.mark.slow
def test_no_request_breaks_the_server(fuzzed, times):
    server, client = fuzzed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    todo = islice(requests(seed=7), times * N_REQUESTS)
    found = asyncio.run(fuzz_calls(server.address, server.admin_address, todo))
    assert found.broken == []
    assert found.n_calls == times * N_REQUESTS
    assert found.n_hung == 0
    answered = {code.split()[0] for code in found.codes if code.endswith(" OK")}
    # a store with one bundle can neither activate nor roll back anything
    assert answered == {method.name for method in METHODS} - {"ActivateVersion", "RollbackVersion"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MIB * 1024
    assert client.search(QUERY, timeout_s=60).results


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_no_request_that_hypothesis_finds_breaks_the_server(fuzzed, method, times):
    server, _ = fuzzed
    address = server.admin_address if method.is_admin else server.address
    with grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(method.path, _registered_method=False)

        @settings(max_examples=times * N_EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
        @given(st.randoms(use_true_random=False))
        def send(generator: random.Random) -> None:
            code = grpc.StatusCode.OK
            try:
                call(Fuzzer(generator).request(method.request), timeout=60)
            except grpc.RpcError as exc:
                code = exc.code()
            assert code.name in ALLOWED

        send()


@pytest.mark.slow
def test_no_connection_breaks_the_server(fuzzed, times):
    server, client = fuzzed
    fuzz_connections(server.address, times * N_CONNECTIONS, seed=7)
    fuzz_connections(server.admin_address, times * 20, seed=8)
    assert client.search(QUERY, timeout_s=60).results


@pytest.mark.parametrize("n_bytes", [MAX_REQUEST_BYTES - 100, MAX_REQUEST_BYTES + 1], ids=["below", "above"])
def test_a_megabyte_of_query_is_refused_without_being_repeated(fuzzed, n_bytes):
    from server.pb.tandem.search.v1 import search_pb2 as pb
    from server.pb.tandem.search.v1 import search_pb2_grpc

    server, _ = fuzzed
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            search_pb2_grpc.SearchServiceStub(channel).Search(pb.SearchRequest(query="q" * n_bytes), timeout=60)
        expected = (
            grpc.StatusCode.INVALID_ARGUMENT if n_bytes < MAX_REQUEST_BYTES else grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        assert caught.value.code() is expected
        assert "qqqq" not in str(caught.value)


def test_frames_and_headers_are_written_as_rfc_9113_and_rfc_7541_have_them():
    assert frame(PING, bytes(8), stream=5, flags=1) == b"\x00\x00\x08\x06\x01\x00\x00\x00\x05" + bytes(8)
    assert frame(0, b"ab", length=0x010203)[:3] == b"\x01\x02\x03"
    assert call_headers("/a/B").startswith(b"\x00\x07:method\x04POST\x00\x07:scheme\x04http\x00\x05:path\x04/a/B")
