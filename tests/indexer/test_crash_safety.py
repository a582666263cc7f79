"""Whatever fails and whenever: what is served is whole, and doing it again works."""

import contextlib
import json
import multiprocessing
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corpus.errors import TandemError
from corpus.live_log import read_log
from corpus.workspace import Workspace
from indexer.build import build_bundle
from indexer.bundle_store import BundleStore
from indexer.manifest import MANIFEST_FILE, read_manifest
from indexer.publications import last_recorded
from indexer.publish import current_version, list_bundles, publish, read_current, rollback
from indexer.retention import remove_unused
from indexer.verify import verify_bundle
from tests.indexer.faulty_disk import ERRORS, Crash, FaultyDisk
from tests.indexer.killed_work import (
    append_changes,
    build_a_real_bundle,
    build_a_small_bundle,
    build_publish_and_remove,
)
from tests.indexer.small_bundles import write_small_bundle
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER

DEATHS = ("kill", "power cut", "power cut that takes renames")
ENCODER = "e" * 64  # of the bundles that the removal takes


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """Bundles v1 to v5, of which v1 and then v2 were published, and v6 in a bundle store; a killed build."""
    workspace = Workspace(tmp_path_factory.mktemp("pristine") / "store")
    for number in range(1, 6):
        folder = write_small_bundle(workspace.bundles, f"v{number}")
        if number == 3:
            manifest = read_manifest(folder)
            entry = manifest.retriever.model_copy(update={"item_encoder_fingerprint": ENCODER})
            (folder / MANIFEST_FILE).write_bytes(manifest.model_copy(update={"retriever": entry}).render())
    for name in (ENCODER[:16], "e2"):
        (workspace.embeddings / name).mkdir(parents=True)
        (workspace.embeddings / name / "a.vectors").write_bytes(b"vectors")
    (workspace.bundles / ".building-v6").mkdir()
    (workspace.bundles / ".building-v6" / "half").write_bytes(b"half")
    publish(workspace.bundles, "v1")
    publish(workspace.bundles, "v2")
    write_small_bundle(workspace.root / "builder", "v6")
    mirror(workspace).push(workspace.root / "builder", "v6")
    return workspace.root


def mirror(store: Workspace) -> BundleStore:
    return BundleStore((store.root / "mirror").as_uri())


class Change:
    """Something that changes a store, the version in service before and after it, and how to tell that it was done."""

    def __init__(self, name: str, work: Callable[[Workspace], object], after: str) -> None:
        self.name = name
        self.work = work
        self.after = after

    def again(self, store: Workspace) -> None:
        # a rollback that a death followed is done: another would go back further, for want of knowing better
        if self.name != "rollback" or current_version(store.bundles) != self.after:
            self.work(store)

    def check_done(self, store: Workspace) -> None:
        assert current_version(store.bundles) == self.after
        if self.name == "gc":
            assert {path.name for path in store.bundles.iterdir() if path.is_dir()} == {"v1", "v2", "v5"}
            assert [path.name for path in store.embeddings.iterdir()] == ["e2"]
        if self.name == "build":
            assert list_bundles(store.bundles)[-1].version in {"v6", "v7"}  # the second after an error at the very end
            assert not list(store.bundles.glob(".building-*"))
        publish(store.bundles, self.after)  # which adds a line that a death kept from being written
        lines = (store.bundles / "publications.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["version"] == self.after
        assert [json.loads(line)["version"] for line in lines[:2]] == ["v1", "v2"]


CHANGES = (
    Change("build", build_a_small_bundle, "v2"),
    Change("publish", lambda store: publish(store.bundles, "v4"), "v4"),
    Change("rollback", lambda store: rollback(store.bundles), "v1"),
    Change("pull", lambda store: mirror(store).pull(store.bundles), "v6"),
    Change("gc", lambda store: remove_unused(store, 1), "v2"),
)


def check_whole(store: Workspace) -> str:
    """Whatever looks finished is, and what is served as well; return what is served."""
    for manifest in list_bundles(store.bundles):
        verify_bundle(store.bundles / manifest.version)
    current = current_version(store.bundles)
    assert current is not None
    verify_bundle(store.bundles / current)
    return current


def n_changes(change: Change, pristine: Path, tmp_path: Path) -> int:
    store = Workspace(shutil.copytree(pristine, tmp_path / "clean"))
    with FaultyDisk().inserted() as disk:
        change.work(store)
    change.check_done(store)
    return len(disk.calls)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_kind_of_change_is_counted(change, pristine, tmp_path):
    store = Workspace(shutil.copytree(pristine, tmp_path / "store"))
    with FaultyDisk().inserted() as disk:
        change.work(store)
    wanted = {"open", "fsync", "rename", "unlink", "rmdir"}
    if change.name not in ("build", "gc"):
        wanted = {"open", "write", "truncate", "fsync", "replace"}
    assert set(disk.calls) >= wanted


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_after_a_death_at_any_moment_a_whole_bundle_is_served_and_doing_it_again_works(
    change, death, pristine, tmp_path
):
    n = n_changes(change, pristine, tmp_path)
    served = set()
    for at in range(n + 1):  # the last: right after it was done
        store = Workspace(shutil.copytree(pristine, tmp_path / f"{at}"))
        disk = FaultyDisk(fail_at=at)
        with disk.inserted():
            try:
                change.work(store)
                assert at == n
            except Crash:
                assert at < n
        if death != "kill":
            disk.cut_power(lose_renames=death.endswith("renames"))
        current = check_whole(store)
        assert current in {"v2", change.after}
        if at == n:
            assert current == change.after
        if last_recorded(store.bundles) == change.after:  # nothing is noted down that did not happen
            assert current == change.after
        served.add(current)
        change.again(store)
        check_whole(store)
        change.check_done(store)
    assert served == {"v2", change.after}


@pytest.mark.parametrize("error", ERRORS, ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_after_an_error_the_old_bundle_is_served_and_the_message_says_what_to_do(change, error, pristine, tmp_path):
    for at in range(n_changes(change, pristine, tmp_path)):
        store = Workspace(shutil.copytree(pristine, tmp_path / f"{at}"))
        with (
            FaultyDisk(fail_at=at, error=error).inserted(),
            pytest.raises(TandemError, match="mend the disk") as caught,
        ):
            change.work(store)
        assert check_whole(store) == "v2"
        if "to make" in str(caught.value):
            assert "v2 stays current" in str(caught.value)
        change.work(store)
        change.check_done(store)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_on_a_disk_that_takes_nothing_any_more_a_whole_bundle_is_served(change, pristine, tmp_path):
    for at in range(n_changes(change, pristine, tmp_path)):
        store = Workspace(shutil.copytree(pristine, tmp_path / f"{at}"))
        disk = FaultyDisk(fail_at=at, error=ERRORS[0], persistent=True)
        with disk.inserted(), pytest.raises(TandemError, match="mend the disk") as caught:
            change.work(store)
        current = check_whole(store)
        assert current in {"v2", change.after}
        if current != "v2":
            assert "could not be undone" in str(caught.value)
        change.again(store)
        change.check_done(store)


def test_the_first_publication_that_fails_leaves_nothing_current(tmp_path):
    write_small_bundle(tmp_path / "clean", "v1")
    with FaultyDisk().inserted() as counted:
        publish(tmp_path / "clean")
    for at in range(len(counted.calls)):
        write_small_bundle(tmp_path / f"{at}", "v1")
        with FaultyDisk(fail_at=at, error=ERRORS[1]).inserted(), pytest.raises(TandemError):
            publish(tmp_path / f"{at}")
        assert current_version(tmp_path / f"{at}") is None
        assert publish(tmp_path / f"{at}") == "v1"


@pytest.mark.slow
def test_a_build_that_finds_no_room_says_so_and_leaves_nothing_behind(workspace, built_workspace):
    files = built_workspace[1].manifest.files
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("reranker/openvino_model.bin", "encoder/openvino_model.bin", "vectors.npy", "items.parquet"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (files[name].size_bytes - 1, limits[1]))
        try:
            with pytest.raises(TandemError, match=name.split("/")[0]):
                build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list_bundles(workspace.bundles)
        assert not list(workspace.bundles.glob(".building-*"))
    verify_bundle(workspace.bundles / build_bundle(workspace, RETRIEVER, RERANKER, BUILD).manifest.version)


KILLS = 200
MAX_LIFE_S = 0.25  # of a process that does small work


@pytest.fixture(scope="module")
def forks() -> multiprocessing.context.ForkServerContext:
    """Processes that start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.indexer.killed_work"])
    return context


def kill_after(forks, work: Callable[..., None], root: Path, seconds: float) -> None:
    """Let a process work in a store, and kill it so many seconds after it began."""
    here, there = forks.Pipe()
    process = forks.Process(target=work, args=(root, there), daemon=True)
    process.start()
    assert here.poll(120), "the process never began"
    here.recv()
    process.join(seconds)
    assert process.exitcode is None, "the process ended by itself"
    process.kill()
    process.join()


def test_killed_at_random_moments_a_store_serves_a_whole_bundle_and_goes_on(forks, tmp_path, kills):
    store = Workspace(tmp_path)
    write_small_bundle(store.bundles, "v1")
    publish(store.bundles)
    draw = random.Random(5)
    served, leftovers = [], 0
    build_a_small_bundle(store)
    began = time.monotonic()
    build_a_small_bundle(store)
    life_s = max(MAX_LIFE_S, 10 * (time.monotonic() - began))  # some rounds of it, also on a slow disk
    for _ in range(KILLS if kills is None else kills):
        kill_after(forks, build_publish_and_remove, store.root, draw.uniform(0, life_s))
        served.append(int(check_whole(store)[1:]))
        leftovers += sum(
            path.name.startswith((".building-", ".removing-", ".CURRENT")) for path in store.bundles.iterdir()
        )
        target = read_current(store.bundles).history[-1:]
        assert all((store.bundles / version).is_dir() for version in target)
        last_recorded(store.bundles)  # whatever the kill cut short can be read
    assert served[-1] > served[0]
    assert leftovers > 0  # some came in the middle
    remove_unused(store, 1)
    newest = publish(store.bundles)
    check_whole(store)
    assert {path.name for path in store.bundles.iterdir() if path.is_dir()} <= {newest, f"v{served[-1]}", *target}


def test_no_acknowledged_write_is_lost_to_a_kill(forks, tmp_path, kills):
    """A process is killed at random points of writing; the next one goes on where it was."""
    draw = random.Random(7)
    acknowledged = 0
    for _ in range(KILLS if kills is None else kills):
        here, there = forks.Pipe(duplex=False)
        process = forks.Process(target=append_changes, args=(tmp_path, there), daemon=True)
        process.start()
        there.close()
        assert here.poll(120), "the process never began"
        assert here.recv() >= acknowledged
        acknowledged = here.recv()
        process.join(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        with contextlib.suppress(EOFError, OSError):
            while True:
                acknowledged = here.recv()
        log = read_log(tmp_path)
        assert [change.sequence for change in log.changes] == list(range(log.base + 1, log.last + 1))
        # what was written but not told may be there, and is one change at most
        assert acknowledged <= log.last <= acknowledged + 1
        assert log.last - log.base >= min(3, log.last)
    assert acknowledged >= (KILLS if kills is None else kills)


BUILD_SHORT_KILLS = 1
MAX_BUILD_S = 8.0  # a tiny build on two idle cores takes about 5


@pytest.mark.slow
def test_a_build_that_is_killed_at_random_moments_leaves_nothing_that_counts_and_the_next_one_ends(
    forks, workspace, kills
):
    draw = random.Random(6)
    for _ in range(BUILD_SHORT_KILLS if kills is None else kills):
        kill_after(forks, build_a_real_bundle, workspace.root, draw.uniform(0, MAX_BUILD_S))
        for manifest in list_bundles(workspace.bundles):  # one was whole before the kill came
            verify_bundle(workspace.bundles / manifest.version)
    report = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert report.n_embedded + report.n_reused > 0
    verify_bundle(workspace.bundles / report.manifest.version)
    assert not list(workspace.bundles.glob(".building-*"))
