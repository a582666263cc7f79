"""Every RPC without a key, with a wrong one, one that has ended, one of another scope: nothing is done or told."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from benchmarks.fuzz_messages import methods
from server.access.api_keys import Scope, add_key
from server.access.guard import SCOPES
from tests.server.scraping import text_of

METHODS = methods()
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def guarded(store, serving, tmp_path_factory):
    """A server with keys, and the keys by what they are good for."""
    folder = tmp_path_factory.mktemp("keys")
    path = folder / "keys.json"
    keys = {scope: add_key(path, scope.value, [scope], expires_at=None, now=NOW) for scope in Scope}
    ended = add_key(path, "ended", list(Scope), expires_at=NOW - timedelta(seconds=1), now=NOW - timedelta(days=1))
    with serving(store, api_keys=str(path), history_path=str(folder / "h")) as (server, _):
        yield server, keys, ended


def call(server, method, *keys: str) -> grpc.RpcError | None:
    """Call with an empty message; return what it failed with."""
    address = server.admin_address if method.is_admin else server.address
    metadata = [("authorization", f"Bearer {key}") for key in keys]
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method.path, _registered_method=False)(b"", metadata=metadata, timeout=60)
        except grpc.RpcError as exc:
            return exc
    return None


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_only_a_key_of_the_right_scope_is_let_in_and_nobody_else_learns_why_not(guarded, method):
    server, keys, ended = guarded
    service = method.path.split(".")[-1]
    scope = SCOPES.get(service, Scope.ADMIN)
    right = keys[scope]
    identifier = right.rpartition("_")[0]
    strangers = {
        "none": (),
        "empty": ("",),
        "wrong": (f"{identifier}_{'x' * 43}",),  # a secret that does not go with its name
        "unknown": ("tandem_0000_0000",),
        "ended": (ended,),
        "two": (right, right),
        "long": ("x" * 4000,),
    }
    told = set()
    for presented in strangers.values():
        error = call(server, method, *presented)
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        told.add((error.details(), tuple(key for key, _ in error.trailing_metadata() or ())))
    assert len(told) == 1
    for other in set(Scope) - {scope}:
        error = call(server, method, keys[other])
        assert error is not None
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error.details() == f"expected an API key with the scope {scope.value}"
    error = call(server, method, right)
    assert error is None or error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    shown = text_of(server)
    assert not any(key.rpartition("_")[2] in shown for key in (*keys.values(), ended))
