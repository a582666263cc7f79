import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from corpus.errors import ArtefactError, ConfigError
from server.cli.app import main
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.serve import TandemServer
from server.telemetry.health import ADMIN_SERVICE, SEARCH_SERVICE, check_health
from tests.server.conftest import CONFIG
from tests.server.gates import QUERY, Gate, eventually
from tests.server.scraping import scrape, value


def status(address: str, service: str) -> str:
    return check_health(address, service, timeout_s=60)


def test_process_and_services_are_told_apart_on_both_ports(shared_server):
    server = shared_server[0]
    for address in (server.address, server.admin_address):
        assert [status(address, name) for name in ("", SEARCH_SERVICE, ADMIN_SERVICE)] == ["SERVING"] * 3
        assert status(address, "no.such.Service") == "NOT_FOUND"


def test_a_search_that_keeps_the_models_makes_searches_unwanted_until_it_ends(own_store, serving, monkeypatch, caplog):
    caplog.set_level("INFO")
    with (
        serving(own_store, wedged_after_s=0.3) as (server, client),
        grpc.insecure_channel(server.address) as channel,
    ):
        gate = Gate(server, monkeypatch)
        begun = time.monotonic()
        stuck = search_pb2_grpc.SearchServiceStub(channel).Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        eventually(lambda: status(server.address, SEARCH_SERVICE) == "NOT_SERVING")
        assert time.monotonic() - begun > 0.3
        assert status(server.address, "") == "SERVING"
        assert status(server.address, ADMIN_SERVICE) == "SERVING"
        assert value(scrape(server), "tandem_model_busy_seconds") > 0.3
        assert "not ready: the models have been busy" in caplog.text
        gate.open()
        eventually(lambda: status(server.address, SEARCH_SERVICE) == "SERVING")
        assert len(stuck.result().results) == 10
        assert len(client.search(QUERY).results) == 10
        assert value(scrape(server), "tandem_model_busy_seconds") == 0
        assert "ready: the models go on" in caplog.text
        assert QUERY not in caplog.text


def test_a_stopping_server_stays_unready_though_its_models_go_on(loop, own_store, monkeypatch):
    server = loop.run(TandemServer.start(CONFIG.model_copy(update={"wedged_after_s": 0.2}), own_store))
    with grpc.insecure_channel(server.address) as channel:
        seen: list[int] = []
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=SEARCH_SERVICE), timeout=60
        )
        seen.append(next(watch).status)
        gate = Gate(server, monkeypatch)
        stuck = search_pb2_grpc.SearchServiceStub(channel).Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        assert gate.entered.acquire(timeout=60)
        seen.append(next(watch).status)
        stopping = loop.start(server.stop())
        gate.open()
        assert len(stuck.result().results) == 10
        with pytest.raises(grpc.RpcError):
            while True:
                seen.append(next(watch).status)
        stopping.result(60)
    assert seen[:2] == [1, 2]  # SERVING, NOT_SERVING
    assert set(seen[2:]) <= {2}


@pytest.mark.parametrize("path", ["tandem.toml/history.sqlite3", "/proc/nowhere/history.sqlite3"])
def test_a_history_that_cannot_be_written_is_refused_before_anything_listens(loop, own_store, monkeypatch, path):
    monkeypatch.setattr("grpc.aio.server", lambda **_: pytest.fail("listened"))
    (own_store.root / "tandem.toml").write_text("")
    with pytest.raises(ArtefactError, match=r"histor.*history\.sqlite3"):
        loop.run(TandemServer.start(CONFIG.model_copy(update={"history_path": path}), own_store))


@pytest.mark.parametrize("setting", ["address", "admin_address", "metrics_address"])
def test_every_address_is_tried_before_the_bundle_is_opened(loop, store, shared_server, monkeypatch, setting):
    monkeypatch.setattr("server.serve.open_bundle", lambda *_, **__: pytest.fail("opened"))
    settings = {setting: shared_server[0].address}
    with pytest.raises(ConfigError, match="Address already in use"):
        loop.run(TandemServer.start(CONFIG.model_copy(update=settings), store))


def test_the_command_line_asks_and_exits_accordingly(shared_server, capsys):
    def ask(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(("health", *arguments))
        return ended.value.code or 0, capsys.readouterr().out.strip()

    address = shared_server[0].address
    assert ask("--address", address) == (0, "SERVING")
    assert ask("--address", address, "--alive") == (0, "SERVING")
    assert ask("--address", "127.0.0.1:1") == (1, "UNAVAILABLE")
