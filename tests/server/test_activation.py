"""Going over to other bundles, over real sockets."""

import multiprocessing
import os
import time

import grpc
import pytest

from corpus.errors import ActivationRefused, DeadlineExceeded, InputError
from indexer.config import BundleStoreConfig
from indexer.manifest import read_manifest
from indexer.publications import PUBLICATIONS_FILE
from indexer.publish import CURRENT_FILE, current_version, publish, rollback, write_atomically
from server.activation import Activation
from server.client import TandemAdmin
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.serve import TandemServer
from tests.server.conftest import CONFIG, copy_bundle
from tests.server.gates import QUERY, eventually


@pytest.fixture
def two_versions(own_store):
    copy_bundle(own_store, "v1", "v2")
    return own_store


def test_a_version_is_published_and_served_and_rolled_back_in_one_call_each(two_versions, serving):
    with serving(two_versions) as (server, client), TandemAdmin(server.admin_address) as admin:
        # no prepared data beside this store, so that the gate has nothing to measure with, and says so
        assert admin.activate_version("v2") == "v2"
        assert client.search(QUERY).index_version == "v2"
        assert current_version(two_versions.bundles) == "v2"
        lines = (two_versions.bundles / PUBLICATIONS_FILE).read_text().splitlines()
        assert '"verdict":"skipped"' in lines[-1].replace(": ", ":")
        assert admin.activate_version("v2") == "v2"
        assert admin.roll_back() == "v1"
        assert client.search(QUERY).index_version == "v1"
        assert current_version(two_versions.bundles) == "v1"


def test_a_reason_spares_the_gate_and_is_kept(two_versions, serving, monkeypatch):
    monkeypatch.setattr("server.activation.Activation.judge", lambda *_: pytest.fail("asked"))
    with serving(two_versions) as (server, _), TandemAdmin(server.admin_address) as admin:
        assert admin.activate_version("v2", reason="v1 shows withdrawn items") == "v2"
    assert "v1 shows withdrawn items" in (two_versions.bundles / PUBLICATIONS_FILE).read_text()


def judge_for_long(answer, *_: object) -> None:
    time.sleep(600)


def die_at_once(answer, *_: object) -> None:
    os._exit(9)


def test_a_caller_who_hangs_up_stops_the_gate_and_changes_nothing(two_versions, serving, monkeypatch):
    monkeypatch.setattr("server.activation._judge", judge_for_long)
    with serving(two_versions) as (server, client), TandemAdmin(server.admin_address) as admin:
        with pytest.raises(DeadlineExceeded):
            admin.activate_version("v2", timeout_s=1.0)
        eventually(lambda: multiprocessing.active_children() == [])
        assert client.search(QUERY).index_version == current_version(two_versions.bundles) == "v1"
        monkeypatch.setattr("server.activation._judge", die_at_once)
        with pytest.raises(ActivationRefused, match="process died"):
            admin.activate_version("v2")
        assert admin.activate_version("v2", reason="the gate is broken") == "v2"


def test_what_the_gate_refuses_is_not_served(two_versions, store, serving):
    # prepared data that are not those of the candidate
    two_versions.data.symlink_to(store.data)
    manifest = read_manifest(two_versions.bundles / "v2").model_copy(update={"data_fingerprint": "other"})
    (two_versions.bundles / "v2" / "manifest.json").write_bytes(manifest.render())
    with serving(two_versions) as (server, client), TandemAdmin(server.admin_address) as admin:
        with pytest.raises(ActivationRefused, match="v1 is still served"):
            admin.activate_version("v2")
        assert client.search(QUERY).index_version == current_version(two_versions.bundles) == "v1"


def test_a_bundle_that_does_not_verify_is_not_served_even_with_a_reason(two_versions, serving):
    (two_versions.bundles / "v2" / "items.parquet").write_bytes(b"PAR1")
    with serving(two_versions) as (server, client), TandemAdmin(server.admin_address) as admin:
        with pytest.raises(ActivationRefused, match=r"items\.parquet.*v1 is still served"):
            admin.activate_version("v2", reason="in a hurry")
        assert client.search(QUERY).index_version == current_version(two_versions.bundles) == "v1"


def test_without_a_version_before_there_is_no_way_back(own_store, serving):
    with serving(own_store) as (server, client), TandemAdmin(server.admin_address) as admin:
        with pytest.raises(ActivationRefused, match="found none"):
            admin.roll_back()
        assert client.search(QUERY).index_version == "v1"


def test_every_fault_of_an_activation_is_named(own_store, serving):
    with serving(own_store) as (server, _), TandemAdmin(server.admin_address) as admin:
        with pytest.raises(InputError, match="expected one of v1, got another name") as caught:
            admin.activate_version("../v1", reason=" ")
        assert caught.value.field == "version"
        assert "reason: expected 1 to 512 characters, got 0" in str(caught.value)
        with grpc.insecure_channel(server.admin_address) as channel:
            stub = search_pb2_grpc.IndexAdminServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.ActivateVersion(pb.ActivateVersionRequest())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_servers_follow_what_another_process_publishes(two_versions, serving):
    with serving(two_versions, follow_s=0.01) as (_, one), serving(two_versions, follow_s=0.01) as (_, other):
        publish(two_versions.bundles, "v2")
        for client in (one, other):
            eventually(lambda client=client: client.search(QUERY).index_version == "v2")
        rollback(two_versions.bundles)
        eventually(lambda: other.search(QUERY).index_version == "v1")


def test_what_cannot_be_followed_is_tried_once(two_versions, serving, caplog):
    (two_versions.bundles / "v2" / "items.parquet").write_bytes(b"PAR1")
    with serving(two_versions, follow_s=0.01) as (_, client):
        write_atomically(two_versions.bundles / CURRENT_FILE, b'{"version": "v2", "history": ["v1"]}')
        eventually(lambda: "not reloaded, still serving v1" in caplog.text)
        assert client.search(QUERY).index_version == "v1"
        copy_bundle(two_versions, "v1", "v3")
        publish(two_versions.bundles, "v3")
        eventually(lambda: client.search(QUERY).index_version == "v3")
        assert caplog.text.count("not reloaded") == 1


def test_an_activation_that_the_mirror_does_not_take_says_so(two_versions, loop, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    mirror = Activation(two_versions, bundle_store=BundleStoreConfig(uri=f"file://{blocked}/store"))
    server = loop.run(TandemServer.start(CONFIG, two_versions, mirror))
    try:
        with TandemAdmin(server.admin_address) as admin:
            with pytest.raises(ActivationRefused, match="v2 is current and served here, but the bundle store does not"):
                admin.activate_version("v2", reason="test")
            assert server.version == current_version(two_versions.bundles) == "v2"
            with pytest.raises(ActivationRefused, match="v1 is current and served here"):
                admin.roll_back()
    finally:
        loop.run(server.stop())
