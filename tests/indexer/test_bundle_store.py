import hashlib
import json
import shutil
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from corpus.errors import ArtefactError, BundleCorrupt, ConfigError
from indexer import bundle_store
from indexer.bundle_store import ATTEMPTS, BundleStore
from indexer.manifest import MANIFEST_FILE, read_manifest
from indexer.publish import current_version, publish
from indexer.verify import verify_bundle
from tests.indexer.small_bundles import SMALL_FILES, write_small_bundle


class Flaky(MemoryFileSystem):
    """Memory that counts what is asked of it, and fails when it is told to."""

    protocol = ("flaky",)
    store: dict = {}  # noqa: RUF012 - as its parent keeps it
    pseudo_dirs = [""]  # noqa: RUF012
    calls: list[str] = []  # noqa: RUF012
    fail_at: range = range(0)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("flaky:"))

    def _count(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) - 1 in type(self).fail_at:
            raise TimeoutError("no answer")

    def put_file(self, lpath, rpath, **options):
        self._count("put")
        return super().put_file(lpath, rpath, **options)

    def pipe_file(self, path, value, **options):
        self._count("pipe")
        return super().pipe_file(path, value, **options)

    def get_file(self, rpath, lpath, **options):
        self._count("get")
        return super().get_file(rpath, lpath, **options)

    def cat_file(self, path, **options):
        self._count("cat")
        return super().cat_file(path, **options)


fsspec.register_implementation("flaky", Flaky, clobber=True)
FLAKY = "flaky://bucket/shop"


@pytest.fixture(autouse=True)
def fresh(monkeypatch) -> None:
    """Every test has an empty store, and waits for nothing."""
    monkeypatch.setattr(bundle_store, "FIRST_WAIT_S", 0.0)
    for kind in (MemoryFileSystem, Flaky):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
    Flaky.calls.clear()
    Flaky.fail_at = range(0)


@pytest.fixture
def builder(tmp_path: Path) -> Path:
    """Bundles v1 to v3 on the machine that builds."""
    for number in (1, 2, 3):
        write_small_bundle(tmp_path / "builder", f"v{number}")
    return tmp_path / "builder"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Another machine."""
    return tmp_path / "host"


def stored(name: str) -> str:
    (found,) = (path for path in Flaky.store if path.endswith(name))
    return found


def overwrite(path: str, content: bytes) -> None:
    MemoryFileSystem.pipe_file(fsspec.filesystem("flaky"), path, content)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_what_is_pushed_is_what_another_machine_serves(kind, builder, host, tmp_path):
    uri = "memory://bucket/shop/" if kind == "memory" else (tmp_path / "store").as_uri()
    BundleStore(uri).push(builder, "v2")
    assert BundleStore(uri).pull(host) == "v2"
    assert current_version(host) == "v2"
    assert verify_bundle(host / "v2") == read_manifest(builder / "v2")
    line = json.loads((host / "publications.jsonl").read_text())
    assert (line["version"], line["reason"]) == ("v2", f"pulled from {uri.rstrip('/')}")
    assert (host / "v2" / "vectors.npy").stat().st_mode & 0o777 == 0o644


def test_a_rollback_of_the_store_is_followed_without_fetching_anything(builder, host):
    store = BundleStore(FLAKY)
    for version in ("v1", "v2"):
        store.push(builder, version)
        store.pull(host)
    store.push(builder, "v1")
    Flaky.calls.clear()
    assert store.pull(host) == current_version(host) == "v1"
    assert Flaky.calls == ["cat"]


def test_files_come_first_then_the_manifest_then_current(builder):
    BundleStore(FLAKY).push(builder, "v1")
    assert Flaky.calls == ["put"] * len(SMALL_FILES) + ["pipe", "pipe"]
    assert list(Flaky.store)[-2:] == [stored(MANIFEST_FILE), stored("CURRENT")]


def test_a_push_that_stops_anywhere_shows_the_old_bundle_or_the_new_and_goes_on(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_store, "ATTEMPTS", 1)
    store = BundleStore(FLAKY)
    for at in range(len(SMALL_FILES) + 2):
        Flaky.store.clear()
        store.push(builder, "v1")
        Flaky.calls.clear()
        Flaky.fail_at = range(at, at + 1)
        with pytest.raises(ArtefactError, match="cannot write flaky://bucket/shop"):
            store.push(builder, "v2")
        Flaky.fail_at = range(0)
        host = tmp_path / f"{at}"
        assert store.pull(host) == "v1"
        Flaky.calls.clear()
        store.push(builder, "v2")
        assert Flaky.calls.count("put") == max(0, len(SMALL_FILES) - at)  # what was there already is not sent again
        assert store.pull(host) == "v2"
        verify_bundle(host / "v2")


def test_a_pull_that_stops_anywhere_leaves_what_is_served_and_goes_on(builder, host, monkeypatch):
    monkeypatch.setattr(bundle_store, "ATTEMPTS", 1)
    store = BundleStore(FLAKY)
    store.push(builder, "v1")
    store.pull(host)
    store.push(builder, "v2")
    for at in range(2 + len(SMALL_FILES)):  # CURRENT, the manifest, the files
        shutil.rmtree(host / "v2", ignore_errors=True)
        for leftover in host.glob(".fetching-*"):
            shutil.rmtree(leftover)
        publish(host, "v1")
        Flaky.calls.clear()
        Flaky.fail_at = range(at, at + 1)
        with pytest.raises(ArtefactError, match="cannot read flaky://bucket/shop"):
            store.pull(host)
        assert current_version(host) == "v1"
        assert not (host / "v2").exists()
        Flaky.calls.clear()
        Flaky.fail_at = range(0)
        assert store.pull(host) == "v2"
        assert Flaky.calls.count("get") == len(SMALL_FILES) - max(0, at - 2)  # the others were there already
        assert not list(host.glob(".fetching-*"))


def test_a_store_that_answers_at_the_last_attempt_is_good_enough_and_one_later_is_not(builder, host):
    store = BundleStore(FLAKY)
    store.push(builder, "v1")
    Flaky.calls.clear()
    Flaky.fail_at = range(0, ATTEMPTS)
    with pytest.raises(ArtefactError, match=f"tried {ATTEMPTS} times: TimeoutError: no answer; check the network"):
        store.pull(host)
    Flaky.calls.clear()
    Flaky.fail_at = range(0, ATTEMPTS - 1)
    assert store.pull(host) == "v1"


def test_a_file_that_was_changed_in_the_store_is_refused_and_what_is_served_stays(builder, host):
    store = BundleStore(FLAKY)
    store.push(builder, "v1")
    store.pull(host)
    store.push(builder, "v2")
    path = next(name for name in Flaky.store if "/v2-" in name and name.endswith("vectors.npy"))
    overwrite(path, b"nUmbers")
    with pytest.raises(BundleCorrupt, match=r"vectors\.npy as its manifest says"):
        store.pull(host)
    assert current_version(host) == "v1"
    assert not (host / "v2").exists()


def test_a_bundle_that_was_damaged_here_is_fetched_again(builder, host):
    store = BundleStore(FLAKY)
    store.push(builder, "v1")
    store.pull(host)
    (host / "v1" / "vectors.npy").write_bytes(b"nUmbers")
    assert store.pull(host) == "v1"
    verify_bundle(host / "v1")
    assert not list(host.glob(".removing-*"))


def test_a_changed_manifest_is_refused(builder, host):
    BundleStore(FLAKY).push(builder, "v1")
    other = read_manifest(builder / "v1").model_copy(update={"n_items": 61})
    overwrite(stored(MANIFEST_FILE), other.render())
    with pytest.raises(BundleCorrupt, match="is not what CURRENT says"):
        BundleStore(FLAKY).pull(host)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../escaped"])
def test_a_name_that_leaves_the_folder_is_refused_even_with_fitting_digests(name, builder, host):
    BundleStore(FLAKY).push(builder, "v1")
    manifest = read_manifest(builder / "v1")
    forged = manifest.model_copy(update={"files": {name: next(iter(manifest.files.values()))}}).render()
    digest = hashlib.sha256(forged).hexdigest()
    overwrite(stored("CURRENT"), json.dumps({"version": "v1", "manifest_sha256": digest}).encode())
    overwrite(f"/bucket/shop/v1-{digest[:16]}/{MANIFEST_FILE}", forged)
    with pytest.raises(BundleCorrupt, match="no plain relative path"):
        BundleStore(FLAKY).pull(host)
    assert current_version(host) is None


def test_a_bundle_under_another_ones_name_is_refused(builder, host):
    BundleStore(FLAKY).push(builder, "v1")
    current = json.loads(Flaky.store[stored("CURRENT")].getvalue())
    for path in [path for path in Flaky.store if "/v1-" in path]:
        overwrite(path.replace("/v1-", "/v2-"), Flaky.store[path].getvalue())
    overwrite(stored("CURRENT"), json.dumps({**current, "version": "v2"}).encode())
    with pytest.raises(BundleCorrupt, match="to be bundle v2"):
        BundleStore(FLAKY).pull(host)
    assert not (host / "v2").exists()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"version": "../v1", "manifest_sha256": "' + b"0" * 64 + b'"}', b"x" * 5000]
)
def test_a_broken_current_of_the_store_is_refused_with_the_remedy(content, builder, host):
    BundleStore(FLAKY).push(builder, "v1")
    overwrite(stored("CURRENT"), content)
    with pytest.raises(ArtefactError, match="publish"):
        BundleStore(FLAKY).pull(host)


def test_two_builders_of_the_same_numbers_are_told_apart(builder, host):
    write_small_bundle(host, "v1")
    manifest = read_manifest(host / "v1").model_copy(update={"n_items": 61})
    (host / "v1" / MANIFEST_FILE).write_bytes(manifest.render())
    BundleStore(FLAKY).push(builder, "v1")
    with pytest.raises(ArtefactError, match="got another one of that number; let one machine build"):
        BundleStore(FLAKY).pull(host)
    assert read_manifest(host / "v1").n_items == 61


def test_what_an_overtaken_pull_left_is_cleared_away(builder, host):
    BundleStore(FLAKY).push(builder, "v2")
    (host / ".fetching-v1-0").mkdir(parents=True)
    BundleStore(FLAKY).pull(host)
    assert not list(host.glob(".fetching-*"))


def test_an_empty_store_says_what_to_do(host):
    with pytest.raises(
        ArtefactError, match=r"cannot read flaky://bucket/shop/CURRENT: it is not there; run `tandem pub"
    ):
        BundleStore(FLAKY).pull(host)


def test_a_protocol_without_a_driver_is_a_fault_of_the_configuration():
    with pytest.raises(ConfigError, match=r"bundle_store\.uri with a protocol whose fsspec driver is installed"):
        BundleStore("nothing://bucket")
