import json
import os
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import pytest

from corpus.errors import InputError, TandemError, UpdatesRefused
from corpus.items import Item
from corpus.live_log import read_log
from indexer.publish import publish
from server.api.status import violations_of
from server.cli.app import main
from server.client import TandemAdmin
from server.inference.priority import STEP
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from tests.server.conftest import copy_bundle
from tests.server.gates import QUERY, eventually

GIZMO = Item(
    item_id="gizmo-1",
    title="purple gizmotron",
    category=("garden", "gizmos"),
    price=5.0,
    in_stock=True,
    attributes={"colour": ("purple",)},
    updated_at=datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC),
)


def admin_of(server) -> TandemAdmin:
    return TandemAdmin(server.admin_address)


def found(client, query: str) -> list[str]:
    return [hit.item.item_id for hit in client.search(query, page_size=100, rerank_depth=3).results]


def test_an_upserted_item_is_found_at_once_and_a_deleted_one_no_more(own_store, serving):
    with serving(own_store) as (server, client), admin_of(server) as admin:
        assert admin.upsert_items([GIZMO]) == 1
        answer = client.search("gizmotron", page_size=100)
        assert answer.results[0].item == GIZMO
        assert answer.results[0].lexical_score > 0
        assert (len(answer.results), answer.index_version) == (61, "v1")
        cheaper = replace(GIZMO, price=4.0, in_stock=False)
        admin.upsert_items([cheaper])
        assert client.search("gizmotron").results[0].item == cheaper
        assert admin.delete_items(["gizmo-1", "i-17", "nobody"]) == ("nobody",)
        assert set(found(client, "gizmotron")).isdisjoint({"gizmo-1", "i-17"})
        assert len(found(client, "gizmotron")) == 59
        admin.upsert_items([GIZMO])
        assert found(client, "gizmotron")[0] == "gizmo-1"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_updates_give_way_to_calls(own_store, serving):
    before = {thread.native_id for thread in threading.enumerate()}
    with serving(own_store) as (server, _), admin_of(server) as admin:
        admin.upsert_items([GIZMO])
        (updates,) = (
            thread.native_id
            for thread in threading.enumerate()
            if thread.name.startswith("updates") and thread.native_id not in before
        )
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        assert os.getpriority(os.PRIO_PROCESS, updates) == min(own + STEP, 19)


def test_an_update_is_live_in_no_time(own_store, serving):
    with serving(own_store) as (server, client), admin_of(server) as admin:
        admin.upsert_items([GIZMO])  # the first one opens the item encoder
        started = time.monotonic()
        admin.upsert_items([replace(GIZMO, item_id=f"g-{n}", title=f"zzz{n} pan") for n in range(20)])
        assert "g-19" in found(client, "zzz19")
        assert time.monotonic() - started < 5  # idle machines take 0.1 s, but tests share theirs
    assert len(read_log(own_store.live).changes) == 2


def test_updates_survive_a_restart_and_a_change_of_bundles(own_store, serving, loop):
    with serving(own_store) as (server, _), admin_of(server) as admin:
        admin.upsert_items([GIZMO])
        admin.delete_items(["i-17"])
    with serving(own_store) as (server, client), admin_of(server) as admin:
        assert found(client, "gizmotron")[0] == "gizmo-1"
        assert "i-17" not in found(client, "gizmotron")
        copy_bundle(own_store, "v1", "v2")
        publish(own_store.bundles, "v2")
        assert loop.run(server.reload()) == "v2"
        assert found(client, "gizmotron")[0] == "gizmo-1"
        assert client.search("gizmotron").index_version == "v2"
        admin.delete_items(["gizmo-1"])
        assert "gizmo-1" not in found(client, "gizmotron")
    assert [change.sequence for change in read_log(own_store.live).changes] == [1, 2, 3]


def test_pages_of_an_answer_show_what_was_ranked_whatever_is_updated(own_store, serving):
    with serving(own_store) as (server, client), admin_of(server) as admin:
        admin.upsert_items([GIZMO])
        first = client.search("gizmotron", page_size=5)
        whole = [hit.item.item_id for hit in client.search("gizmotron", page_size=100).results]
        admin.delete_items(whole[5:8])
        following = client.search("gizmotron", page_size=5, page_token=first.next_page_token)
        assert [hit.item.item_id for hit in following.results] == whole[5:10]


def test_hidden_items_follow_their_stock(own_store, serving):
    with serving(own_store, hide_out_of_stock=True) as (server, client), admin_of(server) as admin:
        sold_out = client.search(QUERY).results[0].item
        assert sold_out.in_stock is not False
        admin.upsert_items([replace(sold_out, in_stock=False), replace(GIZMO, in_stock=False)])
        assert set(found(client, QUERY)).isdisjoint({sold_out.item_id, "gizmo-1"})
        admin.upsert_items([sold_out, GIZMO])
        assert {sold_out.item_id, "gizmo-1"} <= set(found(client, QUERY))


def test_a_second_server_of_the_store_follows_and_refuses(own_store, serving):
    with serving(own_store) as (first, _), serving(own_store) as (second, client):
        with admin_of(first) as admin:
            admin.upsert_items([GIZMO])
        eventually(lambda: found(client, "gizmotron")[0] == "gizmo-1")
        with admin_of(second) as admin, pytest.raises(UpdatesRefused, match="another server takes this store's"):
            admin.delete_items(["gizmo-1"])


def test_too_much_change_is_refused_with_what_to_do(own_store, serving):
    with serving(own_store, max_live_items=2) as (server, client), admin_of(server) as admin:
        admin.upsert_items([GIZMO])
        with pytest.raises(UpdatesRefused, match=r"at most 2 items .* got 3; build and publish"):
            admin.delete_items(["i-01", "i-02"])
        assert {"i-01", "i-02"} <= set(found(client, QUERY))
        admin.delete_items(["i-01"])
        admin.upsert_items([replace(GIZMO, price=1.0)])  # changed already
        with pytest.raises(UpdatesRefused):
            admin.upsert_items([replace(GIZMO, item_id="gizmo-2")])


def test_a_log_that_cannot_be_written_takes_nothing_and_the_old_state_serves(own_store, serving, monkeypatch):
    with serving(own_store) as (server, client), admin_of(server) as admin:
        admin.upsert_items([GIZMO])

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr("corpus.live_log_writer.os.pwrite", fail)
            with pytest.raises(TandemError, match="its log says which"):
                admin.delete_items(["gizmo-1"])
        assert found(client, "gizmotron")[0] == "gizmo-1"
        admin.delete_items(["gizmo-1"])
        assert "gizmo-1" not in found(client, "gizmotron")


def test_what_is_there_already_writes_nothing(own_store, serving):
    with serving(own_store) as (server, _), admin_of(server) as admin:
        admin.upsert_items([GIZMO])
        admin.upsert_items([GIZMO])
        admin.delete_items(["nobody"])
    assert len(read_log(own_store.live).changes) == 1


@pytest.fixture(scope="module")
def stub(shared_server):
    with grpc.insecure_channel(shared_server[0].admin_address) as channel:
        yield search_pb2_grpc.IndexAdminServiceStub(channel)


def violations(call) -> dict[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return {violation.field: violation.description for violation in violations_of(caught.value)}


def test_every_fault_of_every_item_is_named(stub):
    items = [
        pb.Item(item_id="a", title="fine"),
        pb.Item(item_id="", title=" \u200b "),
        pb.Item(item_id="a", title="x", price=-1),
        pb.Item(item_id=" b", title="x", price=float("nan")),
        pb.Item(item_id="c", title="x", attributes={"k": pb.AttributeValues(values=["x" * 70_000])}),
    ]
    items[4].updated_at.seconds = 10**15
    assert violations(lambda: stub.UpsertItems(pb.UpsertItemsRequest(items=items))) == {
        "items[2].item_id": "expected each item once, got that of items[0]",
        "items[1].item_id": "expected 1 to 128 printable characters, got 0",
        "items[1].title": "expected a visible character, got none",
        "items[2].price": "expected 0 or more, got -1.0",
        "items[3].item_id": "expected 1 to 128 printable characters, got unprintable ones or spaces around",
        "items[3].price": "expected 0 or more, got nan",
        "items[4].attributes": "expected at most 65,536 characters, got 70,001",
        "items[4].updated_at": "expected a time of the years 1 to 9999, got none of them",
    }


def test_calls_are_bounded(stub):
    assert violations(lambda: stub.UpsertItems(pb.UpsertItemsRequest())) == {
        "items": "expected 1 to 500, got 0; split the call"
    }
    many = pb.DeleteItemsRequest(item_ids=[str(n) for n in range(501)])
    assert violations(lambda: stub.DeleteItems(many)) == {"item_ids": "expected 1 to 500, got 501; split the call"}
    assert violations(lambda: stub.DeleteItems(pb.DeleteItemsRequest(item_ids=["a", "b\n"]))) == {
        "item_ids[1]": "expected 1 to 128 printable characters, got unprintable ones or spaces around"
    }


def test_versions_are_listed_newest_first_page_by_page(own_store, serving):
    copy_bundle(own_store, "v1", "v2")
    copy_bundle(own_store, "v1", "v3")
    with serving(own_store) as (server, _), grpc.insecure_channel(server.admin_address) as channel:
        stub = search_pb2_grpc.IndexAdminServiceStub(channel)
        first = stub.ListVersions(pb.ListVersionsRequest(page_size=2))
        assert [version.version for version in first.versions] == ["v3", "v2"]
        second = stub.ListVersions(pb.ListVersionsRequest(page_size=2, page_token=first.next_page_token))
        (oldest,) = second.versions
        assert (oldest.version, oldest.state, oldest.n_items) == ("v1", pb.INDEX_VERSION_STATE_ACTIVE, 60)
        assert first.versions[0].state == pb.INDEX_VERSION_STATE_AVAILABLE
        assert (oldest.model_versions.retriever != "", second.next_page_token) == (True, "")
        assert set(violations(lambda: stub.ListVersions(pb.ListVersionsRequest(page_size=0)))) == {"page_size"}
        assert set(violations(lambda: stub.ListVersions(pb.ListVersionsRequest(page_token="?")))) == {"page_token"}


def test_the_command_line_sends_a_file_and_removes_by_id(own_store, serving, tmp_path, capsys):
    rows = [{"item_id": "gizmo-1", "title": "purple gizmotron", "price": "5.00 €"}, {"item_id": "g-2", "title": "b"}]
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with serving(own_store) as (server, client):
        main_ok("items", "upsert", str(path), "--address", server.admin_address)
        assert "2 items are live" in capsys.readouterr().out
        assert client.search("gizmotron").results[0].item.price == 5.0
        main_ok("items", "delete", "gizmo-1", "nobody", "--address", server.admin_address, "--json")
        assert json.loads(capsys.readouterr().out) == {"n_deleted": 1, "unknown_item_ids": ["nobody"]}
        assert "gizmo-1" not in found(client, "gizmotron")
        path.write_text('{"item_id": "x"}', encoding="utf-8")
        with pytest.raises(SystemExit, match="1"):
            main(["items", "upsert", str(path), "--address", server.admin_address])
        assert "title" in capsys.readouterr().err


def main_ok(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code in (0, None)


def test_errors_name_the_field_of_the_item(own_store, serving):
    with serving(own_store) as (server, _), admin_of(server) as admin:
        with pytest.raises(InputError) as caught:
            admin.upsert_items([Item(item_id="x", title=" ")])
        assert caught.value.field == "items[0].title"
