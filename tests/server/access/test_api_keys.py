import json
import stat
from datetime import UTC, datetime, timedelta

import pytest

from corpus.errors import ConfigError
from server.access.api_keys import ApiKeys, Scope, add_key, read_keys, remove_key
from server.cli.app import main

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


def make(path, name="shop", scopes=(Scope.SEARCH,), expires_at=None) -> str:
    return add_key(path, name, scopes, expires_at=expires_at, now=NOW)


def test_a_key_is_found_by_itself_alone(path):
    key, other = make(path), make(path, "other")
    keys = ApiKeys(path)
    found = keys.find(key, now=NOW)
    assert (found.name, found.scopes) == ("shop", (Scope.SEARCH,))
    assert keys.find(other, now=NOW).name == "other"
    prefix, key_id, secret = key.split("_")
    mixed = f"{prefix}_{key_id}_{other.split('_')[2]}"
    wrong = [
        "",
        "_",
        key[:-1],
        key + "0",
        secret,
        f"{prefix}_{secret}",
        f"x_{key_id}_{secret}",
        mixed,
        "tandem__",
        "é_é_é",
    ]
    assert [keys.find(each, now=NOW) for each in wrong] == [None] * len(wrong)


def test_a_key_ends_at_its_time(path):
    key = make(path, expires_at=NOW + timedelta(hours=1))
    keys = ApiKeys(path)
    assert keys.find(key, now=NOW + timedelta(minutes=59)) is not None
    assert keys.find(key, now=NOW + timedelta(hours=1)) is None


def test_the_file_holds_no_key_and_is_its_owners_alone(path):
    key = make(path)
    secret = key.split("_")[2]
    assert len(secret) == 64
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in repr(read_keys(path))
    assert read_keys(path).keys[0].digest not in repr(read_keys(path))
    assert list(path.parent.iterdir()) == [path]


def test_equal_secrets_would_have_different_hashes(path):
    make(path)
    make(path, "other")
    first, second = read_keys(path).keys
    assert first.salt != second.salt


def test_names_are_unique_and_plain(path):
    make(path)
    with pytest.raises(ConfigError, match="there is a key 'shop' already"):
        make(path)
    for name in ("", "Shop", "a b", "-a", "a" * 65):
        with pytest.raises(ConfigError, match="expected a name of 1 to 64"):
            make(path, name)
    with pytest.raises(ConfigError, match="with 0 scopes"):
        make(path, "none", ())
    assert len(read_keys(path).keys) == 1


def test_changes_of_the_file_are_taken_in_and_damage_is_not(path):
    key = make(path)
    keys = ApiKeys(path)
    assert keys.refresh() is False
    other = make(path, "other")
    assert keys.find(other, now=NOW) is None
    assert keys.refresh() is True
    assert keys.find(other, now=NOW) is not None
    remove_key(path, "shop")
    assert keys.refresh() is True
    assert keys.find(key, now=NOW) is None
    path.write_text('{"format_version": 2}')
    with pytest.raises(ConfigError, match="as `tandem keys` writes it"):
        keys.refresh()
    assert keys.refresh() is False
    assert keys.find(other, now=NOW) is not None
    path.unlink()
    with pytest.raises(ConfigError, match="no API keys at"):
        keys.refresh()
    assert keys.find(other, now=NOW) is not None


def test_removing_needs_a_name_that_is_there(path):
    make(path)
    with pytest.raises(ConfigError, match=r"expected the name of a key \(shop\), got 'shoop'"):
        remove_key(path, "shoop")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code or 0


def test_the_command_line_makes_lists_and_removes_keys(tmp_path, capsys):
    (tmp_path / "tandem.toml").write_text('[server]\napi_keys = "keys.json"\n')
    store = ("--store", str(tmp_path))
    assert run("keys", "add", "shop", "--scope", "search", "--scope", "events", *store) == 0
    key = capsys.readouterr().out.strip()
    assert ApiKeys(tmp_path / "keys.json").find(key, now=NOW).scopes == (Scope.SEARCH, Scope.EVENTS)
    assert run("keys", "add", "old", "--scope", "admin", "--expires", "2020-01-31", *store) == 0
    capsys.readouterr()
    assert run("keys", "list", *store) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["shop", "search,", "events"]
    assert second.split() == ["old", "admin", "expired", "2020-01-31", "00:00"]
    assert run("keys", "list", *store, "--json") == 0
    assert [row["expired"] for row in json.loads(capsys.readouterr().out)["keys"]] == [False, True]
    assert run("keys", "remove", "old", *store) == 0
    assert [k.name for k in read_keys(tmp_path / "keys.json").keys] == ["shop"]
    assert run("keys", "add", "x", "--scope", "everything", *store) == 2


def test_without_the_setting_no_key_is_made(tmp_path, capsys):
    (tmp_path / "tandem.toml").write_text("")
    assert run("keys", "add", "shop", "--scope", "search", "--store", str(tmp_path)) == 2
    assert 'set api_keys = "keys.json" under [server]' in capsys.readouterr().err
