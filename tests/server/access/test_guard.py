from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from corpus.errors import AccessDenied, ConfigError
from server.access.api_keys import Scope, add_key, remove_key
from server.access.credentials import Credentials
from server.access.guard import SCOPES, bearer_of
from server.access.requirements import is_loopback
from server.client import TandemClient
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.serve import TandemServer
from tests.server.conftest import CONFIG
from tests.server.gates import QUERY, eventually
from tests.server.scraping import scrape, value

SERVICES = pb.DESCRIPTOR.services_by_name
RPCS = [f"{service}/{method.name}" for service in SERVICES for method in SERVICES[service].methods]
NOW = datetime.now(UTC)
OTHERS = {Scope.SEARCH: (Scope.EVENTS, Scope.ADMIN), Scope.EVENTS: (Scope.SEARCH,), Scope.ADMIN: (Scope.SEARCH,)}


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, str]:
    """Keys by name, and the file's path."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    made = {scope.value: add_key(path, scope.value, [scope], expires_at=None, now=NOW) for scope in Scope}
    for scope, others in OTHERS.items():
        made[f"not-{scope.value}"] = add_key(path, f"not-{scope.value}", others, expires_at=None, now=NOW)
    made["expired"] = add_key(path, "expired", list(Scope), expires_at=NOW - timedelta(seconds=1), now=NOW)
    return {**made, "path": str(path), "wrong": made["search"][:-4] + "0000"}


@pytest.fixture(scope="module")
def guarded(store, serving, keys, tmp_path_factory):
    history = str(tmp_path_factory.mktemp("histories") / "history.sqlite3")
    with serving(store, api_keys=keys["path"], history_path=history) as (server, _):
        yield server


def call(server, rpc: str, *values: str) -> grpc.RpcError:
    """Call with an empty message, which every method refuses, and return the refusal."""
    address = server.address if rpc.startswith("SearchService") else server.admin_address
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(f"/tandem.search.v1.{rpc}", _registered_method=False)
        with pytest.raises(grpc.RpcError) as caught:
            # fields that no message has are skipped by all; an unreadable message reaches those that are let in
            method(b"\xff", metadata=[("authorization", value) for value in values], timeout=60)
    return caught.value


@pytest.mark.parametrize("rpc", RPCS)
def test_no_method_answers_without_a_key_that_is_good_for_it(guarded, keys, rpc):
    scope = SCOPES.get(rpc, Scope.ADMIN)
    refused = {
        "none": call(guarded, rpc),
        "wrong": call(guarded, rpc, f"Bearer {keys['wrong']}"),
        "expired": call(guarded, rpc, f"Bearer {keys['expired']}"),
        "no bearer": call(guarded, rpc, keys[scope.value]),
        "two": call(guarded, rpc, f"Bearer {keys[scope.value]}", f"Bearer {keys[scope.value]}"),
    }
    assert {error.code() for error in refused.values()} == {grpc.StatusCode.UNAUTHENTICATED}
    assert len({error.details() for error in refused.values()}) == 1  # nobody learns what was wrong
    denied = call(guarded, rpc, f"Bearer {keys[f'not-{scope.value}']}")
    assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
    assert denied.details() == f"expected an API key with the scope {scope.value}"
    let_in = call(guarded, rpc, f"bearer {keys[scope.value]}")
    assert let_in.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
    for error in (*refused.values(), denied, let_in):
        said = f"{error.details()} {error.trailing_metadata()}"
        assert not any(key in said for key in keys.values())


def test_every_method_with_a_scope_exists():
    assert set(SCOPES) <= set(RPCS)
    assert not [rpc for rpc in SCOPES if rpc.startswith("IndexAdminService")]


def test_the_client_brings_its_key(guarded, keys):
    with TandemClient(guarded.address, timeout_s=60, credentials=Credentials(api_key=keys["search"])) as client:
        assert len(client.search(QUERY).results) == 10
        with pytest.raises(AccessDenied, match="scope events"):
            client.record_events([])
    with TandemClient(guarded.address, timeout_s=60) as client, pytest.raises(AccessDenied, match="valid API key"):
        client.search(QUERY)


def test_health_and_reflection_are_open(guarded):
    for address in (guarded.address, guarded.admin_address):
        with grpc.insecure_channel(address) as channel:
            status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status
            assert status == health_pb2.HealthCheckResponse.SERVING
            assert ProtoReflectionDescriptorDatabase(channel).get_services()


def test_refusals_are_counted(guarded):
    before = value(scrape(guarded), "tandem_calls_total", rpc="SearchService.Embed", code="UNAUTHENTICATED")
    call(guarded, "SearchService/Embed")
    eventually(
        lambda: value(scrape(guarded), "tandem_calls_total", rpc="SearchService.Embed", code="UNAUTHENTICATED") > before
    )


def test_a_key_that_is_removed_is_refused_soon_and_damage_lets_nobody_in(own_store, serving, tmp_path, caplog):
    path = tmp_path / "keys.json"
    key, other = (add_key(path, name, [Scope.SEARCH], expires_at=None, now=NOW) for name in ("a", "b"))
    with serving(own_store, api_keys=str(path)) as (server, _):

        def code_with(presented: str) -> grpc.StatusCode:
            return call(server, "SearchService/Search", f"Bearer {presented}").code()

        assert code_with(key) is grpc.StatusCode.INVALID_ARGUMENT
        remove_key(path, "a")
        eventually(lambda: code_with(key) is grpc.StatusCode.UNAUTHENTICATED)
        assert code_with(other) is grpc.StatusCode.INVALID_ARGUMENT
        path.write_text("nonsense")
        eventually(lambda: "the API keys that were read before count on" in caplog.text)
        assert code_with(other) is grpc.StatusCode.INVALID_ARGUMENT
        assert code_with(key) is grpc.StatusCode.UNAUTHENTICATED


def test_a_server_without_the_file_of_its_keys_does_not_start(loop, store, tmp_path, monkeypatch):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    with pytest.raises(ConfigError, match="tandem keys add NAME --scope search"):
        loop.run(TandemServer.start(CONFIG.model_copy(update={"api_keys": str(tmp_path / "none")}), store))


def test_listening_to_everybody_without_protection_is_warned_of(own_store, serving, caplog):
    with serving(own_store, address="0.0.0.0:0"):
        assert "0.0.0.0:0 can be reached from other machines, without TLS and API keys" in caplog.text
        assert "127.0.0.1" not in caplog.text.replace("serving", "")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.8.8:1"])
def test_loopback_is_told(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "shop.example:1"])
def test_what_others_can_reach_is_told(address):
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ([("authorization", "Bearer abc")], "abc"),
        ([("x", "y"), ("authorization", "BEARER abc")], "abc"),
        ([("authorization", "Basic abc")], None),
        ([("authorization-bin", b"Bearer abc")], None),
        ([], None),
    ],
)
def test_the_key_is_read_from_one_bearer_header(metadata, found):
    assert bearer_of(metadata) == found
