"""What shoppers type, who they are and what callers prove themselves with stays where it belongs."""

import io
import logging
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import grpc
import pytest

from corpus.errors import TandemError
from corpus.events import Event, EventType
from corpus.items import Item
from server.access.api_keys import Scope, add_key
from server.access.credentials import Credentials
from server.client import TandemAdmin, TandemClient
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.telemetry.logs import configure_logging
from tests.server.collector import collecting
from tests.server.gates import QUERY
from tests.server.scraping import text_of

NOW = datetime.now(UTC)


@pytest.fixture
def log(monkeypatch) -> Callable[[], str]:
    """What the server would write on standard error, at its most talkative."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging("debug")
    yield stream.getvalue
    root.handlers = handlers
    root.setLevel(level)


class Canaries:
    """Strings that nothing else contains, one for each thing that is to stay where it belongs."""

    def __init__(self) -> None:
        self._stem = f"canary{secrets.token_hex(8)}"

    def __getattr__(self, name: str) -> str:
        return f"{self._stem}{name.replace('_', '')}"

    def are_in(self, text: str) -> bool:
        return self._stem.lower() in text.lower()


def ignoring_refusals(*calls: Callable[[], object]) -> int:
    """Make calls that are to fail; return how many did."""
    n_failed = 0
    for call in calls:
        try:
            call()
        except (TandemError, grpc.RpcError):
            n_failed += 1
    return n_failed


def break_with(text: str, monkeypatch, server) -> None:
    """Let every stage fail with messages that quote a shopper, as those of libraries do."""

    def fail(*_: object, **__: object) -> None:
        try:
            raise KeyError(text)
        except KeyError as exc:
            raise ValueError(f"cannot use {text}") from exc

    monkeypatch.setattr(server._histories, "history", fail)
    monkeypatch.setattr(server._histories, "record", fail)
    monkeypatch.setattr(type(server._service.pipeline.bundle.reranker), "rerank", fail)
    monkeypatch.setattr(server._updates, "upsert", fail)


def test_nothing_private_is_logged_measured_or_told_to_others(own_store, serving, tmp_path, log, monkeypatch):
    canary = Canaries()
    keys = tmp_path / "keys.json"
    key = add_key(keys, "shop", list(Scope), expires_at=None, now=NOW)
    secret = key.split("_")[2]
    settings = {"api_keys": str(keys), "trace_share": 1.0}
    with (
        collecting() as collector,
        serving(own_store, **settings, otlp_endpoint=collector.endpoint) as (server, _),
    ):
        mine = Credentials(api_key=key)
        client = TandemClient(server.address, timeout_s=60, credentials=mine)
        stranger = TandemClient(server.address, timeout_s=60, credentials=Credentials(api_key=canary.key))
        admin = TandemAdmin(server.admin_address, credentials=mine)
        item = Item(item_id=canary.item, title=canary.title, brand=canary.brand, attributes={"k": (canary.attribute,)})
        event = Event(
            timestamp=NOW,
            user_id=canary.user,
            session_id=canary.session,
            type=EventType.PURCHASE,
            item_id=canary.item,
            query=canary.query,
        )
        with client, stranger, admin, grpc.insecure_channel(server.address) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)

            def everything() -> int:
                return ignoring_refusals(
                    lambda: client.search(canary.query, user_id=canary.user, filter=f'brand = "{canary.filter}"'),
                    lambda: client.search(canary.query, visitor_id=canary.visitor),
                    lambda: client.search(QUERY, user_id=canary.user + "x" * 200),
                    lambda: client.search(QUERY, filter=f"{canary.field} = 1"),
                    lambda: client.search(QUERY, filter=f'brand = "{canary.filter}'),
                    lambda: client.search(QUERY, page_token=canary.token),
                    lambda: stranger.search(canary.query),
                    lambda: stub.Search(pb.SearchRequest(), metadata=[("authorization", f"Basic {canary.key}")]),
                    lambda: stub.Search(pb.SearchRequest(), metadata=[(f"x-{canary.header}", canary.header)]),
                    lambda: client.record_events([event], visitor_id=canary.visitor),
                    lambda: admin.upsert_items([item]),
                    lambda: admin.upsert_items([Item(item_id=canary.item, title=canary.title, price=-1.0)]),
                    lambda: admin.delete_items([canary.item + "\n"]),
                )

            assert everything() == 9
            assert client.search(canary.title).results[0].item.title == canary.title
            told = text_of(server)
            assert 'code="UNAUTHENTICATED",rpc="SearchService.Search"' in told
            break_with(canary.quoted, monkeypatch, server)
            assert everything() == 11  # searches are answered without what failed
            for call in (
                lambda: client.search(QUERY, filter="nonsense = 1"),
                lambda: client.record_events([event]),
                lambda: admin.upsert_items([Item(item_id="i-01", title="a")]),
            ):
                with pytest.raises(TandemError) as caught:
                    call()
                assert not canary.are_in(str(caught.value))
            told += text_of(server)
    written, traced = log(), b"".join(collector.bodies).decode("latin-1")
    assert "SearchService.Search" in traced
    assert "unexpected error" in written
    assert "reranker failed" in written
    assert "history unavailable" in written
    for text in (written, told, traced):
        assert not canary.are_in(text)
        assert secret not in text
