import json
import resource
import socket
import sqlite3
from collections import namedtuple
from datetime import UTC, datetime

import pytest

from server.access.api_keys import Scope, add_key
from server.cli import doctor, store_checks
from server.cli.app import main
from server.histories.pseudonyms import Pseudonyms
from server.histories.sqlite_store import HistoryStore
from tests.server.certificates import Authority

FREE = '[server]\naddress = "127.0.0.1:0"\nadmin_address = "127.0.0.1:0"\nmetrics_address = "127.0.0.1:0"\n'


@pytest.fixture
def examine(own_store, capsys):
    """Examine a store with more lines under [server]; return the exit code and the checks."""

    def run(more: str = "", *, base: str = FREE) -> tuple[int, dict[str, dict[str, object]]]:
        own_store.config_path.write_text(base + more)
        with pytest.raises(SystemExit) as ended:
            main(("doctor", str(own_store.root), "--json"))
        return ended.value.code or 0, json.loads(capsys.readouterr().out)

    return run


def test_a_sound_store_needs_nothing_and_is_left_as_it_was(examine, own_store):
    before = sorted(own_store.root.rglob("*"))
    code, checks = examine()
    assert [name for name, check in checks.items() if not check["ok"]] == []
    assert code == 0
    assert checks["bundle"]["found"] == "v1, 60 items, verified"
    assert checks["live updates"]["found"] == "0 calls since v1 was built"
    assert "will be made" in checks["history store"]["found"]
    assert sorted(own_store.root.rglob("*")) == sorted([*before, own_store.config_path])


def test_a_damaged_bundle_is_named(examine, own_store):
    (own_store.bundles / "v1" / "items.parquet").write_bytes(b"PAR1")
    code, checks = examine()
    assert code == 1
    assert "items.parquet" in checks["bundle"]["found"]
    assert checks["bundle"]["remedy"] == "tandem rollback, or build and publish"


def test_a_wrong_configuration_and_a_wrong_address_are_named(examine):
    code, checks = examine("depth = 3\n")
    assert code == 1
    assert "server.depth" in checks["configuration"]["found"]
    code, checks = examine('metrics_address = "nonsense"\n', base="[server]\n")
    assert code == 1
    assert "expected server.metrics_address as host:port" in checks["metrics address"]["found"]


def test_an_address_in_use_is_told_unless_our_own_server_answers_there(examine, shared_server):
    server = shared_server[0]
    ours = f'address = "{server.address}"\nadmin_address = "{server.admin_address}"\n'
    ours += f'metrics_address = "{server.metrics_address}"\n'
    code, checks = examine(ours, base="[server]\n")
    assert code == 0
    for name in ("address", "admin address", "metrics address"):
        assert checks[name]["found"].endswith("where a Tandem server answers")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, checks = examine(
            f'address = "127.0.0.1:0"\nadmin_address = "127.0.0.1:0"\nmetrics_address = "{address}"\n',
            base="[server]\n",
        )
    assert code == 1
    assert "Address already in use" in checks["metrics address"]["found"]
    assert checks["metrics address"]["remedy"] == "stop what listens there, or change server.metrics_address"


def test_a_certificate_is_asked_for_its_time(examine, tmp_path):
    authority = Authority(tmp_path / "certificates")

    def certificate(end_days: float) -> tuple[int, dict[str, object]]:
        crt, key = authority.sign("server", begin_days=-9, end_days=end_days)
        code, checks = examine(f'tls_certificate = "{crt}"\ntls_key = "{key}"\n')
        return code, checks["certificate"]

    code, check = certificate(30.5)
    assert (code, check["found"].endswith("30 days")) == (0, True)
    code, check = certificate(13.5)
    assert (code, check["found"].endswith("13 days"), check["remedy"]) == (1, True, "renew it, then SIGHUP")
    code, check = certificate(-1)
    assert (code, "valid now" in check["found"]) == (1, True)


def test_keys_are_counted_and_nobody_else_may_read_them(examine, own_store):
    path, now = own_store.root / "keys.json", datetime.now(UTC)
    setting = 'api_keys = "keys.json"\n'
    assert examine(setting)[0] == 1
    add_key(path, "old", [Scope.SEARCH], expires_at=now, now=now)
    code, checks = examine(setting)
    assert (code, checks["API keys"]["found"]) == (1, "1 keys, 1 expired")
    add_key(path, "new", [Scope.SEARCH], expires_at=None, now=now)
    assert examine(setting)[0] == 0
    path.chmod(0o644)
    code, checks = examine(setting)
    assert (code, checks["API keys"]["remedy"]) == (1, f"chmod 600 {path}")


def test_an_add_service_is_told(examine):
    base = '[server]\naddress = "0.0.0.0:0"\nadmin_address = "127.0.0.1:0"\nmetrics_address = ""\n'
    code, checks = examine(base=base)
    assert code == 0
    assert checks["access"]["found"] == "0.0.0.0:0: open to other machines without TLS or without API keys"
    assert "metrics address" not in checks


def test_the_history_store_is_tried_beside_a_server_that_has_it_open(examine, own_store):
    path = own_store.root / "history.sqlite3"
    histories = HistoryStore(path, Pseudonyms("k" * 32))
    try:
        code, checks = examine()
    finally:
        histories.close()
    assert (code, checks["history store"]["found"]) == (0, f"{path}, writable")


def test_a_redis_that_does_not_answer_is_told(examine, monkeypatch):
    monkeypatch.setenv("TANDEM_HISTORY_KEY", "k" * 32)
    code, checks = examine('history_url = "redis://:secret@127.0.0.1:1/0"\n')
    assert (code, checks["history store"]["ok"]) == (1, False)
    assert "secret" not in checks["history store"]["found"]


def test_a_history_store_that_cannot_be_written_is_told(examine, own_store):
    path = own_store.root / "history.sqlite3"
    path.write_bytes(b"a shopping list" * 100)
    code, checks = examine()
    assert (code, "not a database" in checks["history store"]["found"]) == (1, True)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    code, checks = examine()
    assert (code, "version 99, expected" in checks["history store"]["found"]) == (1, True)
    code, checks = examine('history_path = "tandem.toml/history.sqlite3"\n')
    assert (code, "tandem.toml cannot be written" in checks["history store"]["found"]) == (1, True)


def test_space_for_the_next_bundle_is_wanted(examine, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(store_checks.shutil, "disk_usage", lambda _: usage(0, 0, 1_000_000_000))
    code, checks = examine()
    assert (code, checks["space for bundles"]["ok"]) == (1, False)
    monkeypatch.setattr(store_checks.shutil, "disk_usage", lambda _: usage(0, 0, 3_000_000_000))
    assert examine()[1]["space for bundles"]["ok"]


def test_few_file_handles_and_unfit_packages_are_told(examine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    needs = ["numpy>=999", "no-such-package>=1", "tokenizers>=0.1", 'torch>=999; extra == "train"']
    monkeypatch.setattr(doctor, "requires", lambda _: needs)
    code, checks = examine()
    assert code == 1
    assert checks["file handles"]["found"] == "256 for a process"
    found = checks["serving libraries"]["found"]
    assert found.startswith("numpy is ")
    assert found.endswith("expected >=999, no-such-package is missing")


def test_the_installation_alone_is_examined_in_words(capsys):
    with pytest.raises(SystemExit) as ended:
        main(("doctor",))
    lines = capsys.readouterr().out.splitlines()
    assert (ended.value.code or 0) == (1 if any(line.startswith("MEND") for line in lines) else 0)
    assert [line for line in lines if "configuration" in line] == []
    assert any(line.startswith("ok    python") for line in lines)
