import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from corpus.errors import ArtefactError, BundleCorrupt, ConfigError, TandemError, VersionNotFound
from corpus.workspace import Workspace
from indexer.publish import publish
from server.client import TandemClient
from server.serve import TandemServer
from tests.server.conftest import CONFIG, copy_bundle
from tests.server.gates import QUERY, Gate, eventually

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SEARCH_SERVICE = "tandem.search.v1.SearchService"
ADMIN_SERVICE = "tandem.search.v1.IndexAdminService"


def health_of(channel: grpc.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


def start(loop, workspace: Workspace, **settings: object) -> TandemServer:
    return loop.run(TandemServer.start(CONFIG.model_copy(update=settings), workspace))


# starting


def test_the_process_is_alive_and_the_service_is_ready(address):
    with grpc.insecure_channel(address) as channel:
        assert health_of(channel, "") == SERVING
        assert health_of(channel, SEARCH_SERVICE) == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health_of(channel, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_server_that_starts_has_its_look_up_of_items(own_store, serving):
    with serving(own_store) as (server, _):
        assert "_row_of" in vars(server._service.pipeline.bundle.items)


def test_a_stranger_learns_the_contract_by_reflection_and_nothing_of_what_operators_may_do(address, shared_server):
    with grpc.insecure_channel(shared_server[0].admin_address) as channel:
        assert ADMIN_SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SEARCH_SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        assert ADMIN_SERVICE not in database.get_services()
        service = DescriptorPool(database).FindServiceByName(SEARCH_SERVICE)
    assert "query" in service.methods_by_name["Search"].input_type.fields_by_name


def test_a_port_in_use_is_named(loop, store, taken_port):
    with pytest.raises(ConfigError, match=f"127.0.0.1:{taken_port}: Address already in use; .* --address"):
        start(loop, store, address=f"127.0.0.1:{taken_port}")


@pytest.mark.parametrize("address", ["", "50051", "127.0.0.1:", ":50051", "127.0.0.1:http", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused(loop, store, address):
    with pytest.raises(ConfigError, match=r"expected server\.address as host:port"):
        start(loop, store, address=address)


def test_a_host_that_is_not_ours_is_refused(loop, store):
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:0"):
        start(loop, store, address="192.0.2.1:0")


def test_a_store_without_a_published_bundle_is_refused_before_anything_listens(loop, tmp_path, monkeypatch):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    with pytest.raises(VersionNotFound, match="run `tandem build` and `tandem publish` first"):
        start(loop, Workspace(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_bundle_is_refused_before_anything_listens(loop, own_store, monkeypatch):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    victim = own_store.bundles / "v1" / "vectors.npy"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt, match=r"vectors\.npy"):
        start(loop, own_store)


def test_a_history_file_that_is_none_is_refused_before_anything_listens(loop, own_store, monkeypatch):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    (own_store.root / "history.sqlite3").write_bytes(b"a shopping list" * 100)
    with pytest.raises(ArtefactError, match="history store"):
        start(loop, own_store)


# reloading


def test_a_reload_serves_the_new_version_and_pages_of_the_old_one_go_on(loop, own_store, serving):
    with serving(own_store) as (server, client):
        first = client.search(QUERY, page_size=5)
        copy_bundle(own_store, "v1", "v2")
        publish(own_store.bundles, "v2")
        assert client.search(QUERY).index_version == "v1"
        assert loop.run(server.reload()) == "v2"
        assert client.search(QUERY).index_version == "v2"
        following = client.search(QUERY, page_size=5, page_token=first.next_page_token)
        assert (following.index_version, following.results[0].rank) == ("v1", 6)


def test_a_call_in_flight_is_answered_by_the_version_it_began_with(loop, own_store, serving, monkeypatch):
    with serving(own_store) as (server, client):
        copy_bundle(own_store, "v1", "v2")
        publish(own_store.bundles, "v2")
        gate = Gate(server, monkeypatch)
        versions: list[str] = []
        caller = threading.Thread(target=lambda: versions.append(client.search(QUERY).index_version))
        caller.start()
        assert gate.entered.acquire(timeout=60)
        assert loop.run(server.reload()) == "v2"
        gate.open()
        caller.join()
        assert versions == ["v1"]
        assert client.search(QUERY).index_version == "v2"


def test_a_bundle_that_cannot_be_served_leaves_the_old_one_in_service(loop, own_store, serving, caplog):
    with serving(own_store) as (server, client):
        copy_bundle(own_store, "v1", "v2")
        publish(own_store.bundles, "v2")
        (own_store.bundles / "v2" / "items.parquet").write_bytes(b"PAR1")
        loop.run(server.try_reload())
        assert client.search(QUERY).index_version == "v1"
        assert "not reloaded, still serving v1" in caplog.text


def test_a_reload_without_a_new_version_changes_nothing(loop, own_store, serving):
    with serving(own_store) as (server, _):
        pipeline = server._service.pipeline
        assert loop.run(server.reload()) == "v1"
        assert server._service.pipeline is pipeline


# stopping


def test_stopping_lets_calls_in_flight_finish_and_takes_no_new_ones(loop, own_store, monkeypatch):
    server = start(loop, own_store)
    with grpc.insecure_channel(server.address) as watcher, TandemClient(server.address, timeout_s=60) as client:
        gate = Gate(server, monkeypatch)
        answers: list[object] = []
        caller = threading.Thread(target=lambda: answers.append(client.search(QUERY)))
        caller.start()
        assert gate.entered.acquire(timeout=60)
        statuses: list[int] = []

        def watch() -> None:
            request = health_pb2.HealthCheckRequest(service=SEARCH_SERVICE)
            try:
                statuses.extend(r.status for r in health_pb2_grpc.HealthStub(watcher).Watch(request, timeout=60))
            except grpc.RpcError:
                return  # the server hung up

        watching = threading.Thread(target=watch)
        watching.start()
        eventually(lambda: server._readiness.servicer._watcher_count_by_service[SEARCH_SERVICE] == 1)
        stopping = loop.start(server.stop())
        eventually(lambda: server._readiness.servicer._server_status[SEARCH_SERVICE] == NOT_SERVING)
        gate.open()
        stopping.result(60)
        caller.join()
        watching.join()
    assert len(answers) == 1
    assert statuses == [SERVING, NOT_SERVING]
    with TandemClient(server.address, timeout_s=5) as late, pytest.raises(TandemError, match="expected a server at"):
        late.search(QUERY)


def test_neither_port_takes_calls_once_the_server_stops(loop, own_store, monkeypatch):
    server = start(loop, own_store)
    with grpc.insecure_channel(server.admin_address) as watcher, TandemClient(server.address, timeout_s=60) as client:
        statuses = health_pb2_grpc.HealthStub(watcher).Watch(health_pb2.HealthCheckRequest(service=""), timeout=60)
        next(statuses)  # a stream that holds the admin port open
        assert client.search(QUERY).results
        stopping = loop.start(server.stop())
        eventually(lambda: server._readiness.servicer._server_status[SEARCH_SERVICE] == NOT_SERVING)
        began = time.monotonic()
        with pytest.raises(TandemError):
            while time.monotonic() < began + 5:
                client.search(QUERY)
                time.sleep(0.02)
        assert not stopping.done()
        statuses.cancel()
        stopping.result(60)
        assert time.monotonic() < began + 9


@pytest.mark.slow
def test_the_process_serves_reloads_and_drains_on_signals(own_store, tmp_path):
    log = tmp_path / "log"
    code = (
        "import asyncio, sys, pathlib\n"
        "from corpus.workspace import Workspace\n"
        "from server.config import ServerConfig, TandemConfig\n"
        "from server.processes.process import serve\n"
        "config = TandemConfig(server=ServerConfig(address='127.0.0.1:0', admin_address='127.0.0.1:0',\n"
        "                                          metrics_address='127.0.0.1:0', log_level='debug', n_threads=1))\n"
        "asyncio.run(serve(config, Workspace(pathlib.Path(sys.argv[1]))))\n"
    )
    canary = "xylophonecanary"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(own_store.root)], stderr=output, cwd=ROOT, env=os.environ
        )
    try:

        def said(pattern: str) -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return re.search(pattern, log.read_text())

        eventually(lambda: said(r"serving v1 on "))
        address = said(r"serving v1 on (127\.0\.0\.1:\d+)")[1]
        with TandemClient(address, timeout_s=60) as client:
            assert client.search(canary, user_id=canary).index_version == "v1"
            with pytest.raises(TandemError):
                client.search(canary * 100, user_id=canary)
            copy_bundle(own_store, "v1", "v2")
            publish(own_store.bundles, "v2")
            process.send_signal(signal.SIGHUP)
            eventually(lambda: said(r'"serving v2"'))
            assert client.search(canary).index_version == "v2"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["event"] == "stopped"
    assert canary not in log.read_text()
