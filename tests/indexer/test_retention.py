import fcntl
from pathlib import Path

import pytest

from corpus.errors import ArtefactError
from corpus.workspace import Workspace
from indexer.construction import construction
from indexer.manifest import MANIFEST_FILE
from indexer.publish import publish, rollback
from indexer.retention import remove_unused
from indexer.verify import verify_bundle
from tests.indexer.small_bundles import manifest_of, write_small_bundle


@pytest.fixture
def store(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    for number in range(1, 7):
        write_small_bundle(workspace.bundles, f"v{number}")
    return workspace


def built_by(workspace: Workspace, version: str, encoder: str, *, of: str = "item_encoder_fingerprint") -> None:
    """Let a bundle say that its items, or its queries, were embedded by an encoder, and fill that encoder's cache."""
    folder = workspace.bundles / version
    retriever = manifest_of(folder, version).retriever.model_copy(update={of: encoder})
    (folder / MANIFEST_FILE).write_bytes(manifest_of(folder, version, retriever=retriever).render())
    cache = workspace.embeddings / encoder[:16]
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "a.vectors").write_bytes(b"12345")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_the_newest_the_current_and_the_rollbacks_target_stay(store):
    for version in ("v1", "v3", "v2"):
        publish(store.bundles, version)
    report = remove_unused(store, 2)
    assert report.kept == ("v2", "v3", "v5", "v6")
    assert [each.path for each in report.removed] == ["bundles/v1", "bundles/v4"]
    assert names(store.bundles) == {"v2", "v3", "v5", "v6", "CURRENT", "publications.jsonl"}
    for version in report.kept:
        verify_bundle(store.bundles / version)
    assert rollback(store.bundles) == "v3"


def test_the_bytes_freed_are_those_that_lay_there(store):
    def size() -> int:
        return sum(path.lstat().st_size for path in store.root.rglob("*") if path.is_file())

    before = size()
    planned = remove_unused(store, 1, dry_run=True)
    assert size() == before
    done = remove_unused(store, 1)
    assert before - size() == done.freed_bytes == planned.freed_bytes > 0
    assert planned.model_copy(update={"dry_run": False}) == done


def test_a_dry_run_removes_nothing(store):
    before = names(store.bundles)
    report = remove_unused(store, 1, dry_run=True)
    assert len(report.removed) == 5
    assert names(store.bundles) == before


def test_what_killed_processes_left_goes_and_a_folder_of_somebody_elses_stays(store):
    for name in (".building-v7", ".removing-v0"):
        (store.bundles / name).mkdir()
        (store.bundles / name / "half").write_bytes(b"123")
    (store.bundles / ".CURRENT.77.tmp").write_bytes(b"{")
    (store.embeddings / ".removing-e").mkdir(parents=True)
    (store.bundles / "v9").mkdir()  # no manifest: perhaps a copy that is on its way
    (store.bundles / "notes").mkdir()
    report = remove_unused(store, 6)
    assert {each.path for each in report.removed} == {
        "bundles/.building-v7",
        "bundles/.removing-v0",
        "bundles/.CURRENT.77.tmp",
        "cache/embeddings/.removing-e",
    }
    assert report.freed_bytes == 7
    assert names(store.bundles) == {*(f"v{number}" for number in range(1, 7)), "v9", "notes"}
    assert names(store.embeddings) == set()


def test_a_link_goes_and_what_it_leads_to_stays(store, tmp_path):
    target = tmp_path / "elsewhere"
    (store.bundles / "v1").rename(target)
    (store.bundles / "v1").symlink_to(target, target_is_directory=True)
    remove_unused(store, 1)
    assert names(store.bundles) == {"v6"}
    verify_bundle(target)


def test_embeddings_of_queries_go_as_well(store):
    built_by(store, "v1", "old" * 21, of="encoder_fingerprint")
    built_by(store, "v6", "shared" * 10, of="encoder_fingerprint")
    remove_unused(store, 1)
    assert names(store.embeddings) == {"sharedsharedshar"}


def test_embeddings_go_with_the_last_bundle_that_used_them(store):
    built_by(store, "v1", "old" * 21)
    built_by(store, "v2", "shared" * 10)
    built_by(store, "v6", "shared" * 10)
    (store.embeddings / "in-training").mkdir()
    report = remove_unused(store, 1)
    assert [each.path for each in report.removed if each.kind == "embeddings"] == ["cache/embeddings/oldoldoldoldoldo"]
    assert names(store.embeddings) == {"sharedsharedshar", "in-training"}


def test_a_fingerprint_that_is_a_path_removes_nothing_outside_the_cache(store):
    built_by(store, "v2", "e" * 16)
    (store.root / "cache" / "other").mkdir()
    for version, encoder in (("v1", "../other"), ("v3", ""), ("v4", ".")):
        folder = store.bundles / version
        retriever = manifest_of(folder, version).retriever.model_copy(update={"item_encoder_fingerprint": encoder})
        (folder / MANIFEST_FILE).write_bytes(manifest_of(folder, version, retriever=retriever).render())
    remove_unused(store, 1)
    assert (store.root / "cache" / "other").is_dir()
    assert store.embeddings.is_dir()


def test_all_embeddings_stay_if_a_bundle_that_stays_does_not_say_which_are_its(store):
    built_by(store, "v1", "e" * 16)
    (store.bundles / "v6" / MANIFEST_FILE).write_bytes(b"{}")
    report = remove_unused(store, 1)
    assert names(store.embeddings) == {"e" * 16}
    assert "all embeddings stay" in report.notes[0]
    assert "v1" not in names(store.bundles)


def test_a_bundle_that_is_being_built_and_all_embeddings_stay(store):
    built_by(store, "v1", "e" * 16)
    with construction(store.bundles) as site:
        report = remove_unused(store, 1)
        assert site.folder.is_dir()
        assert report.notes == ("a build is running: its folder and all embeddings stay",)
        assert names(store.embeddings) == {"e" * 16}
        assert names(store.bundles) == {"v6", ".building-v7"}
        (site.folder / MANIFEST_FILE).write_bytes(b"{}")
    assert "v7" in names(store.bundles)


def test_a_version_number_is_never_given_twice(store):
    with pytest.raises(ValueError, match="at least 1"):
        remove_unused(store, 0)


def test_with_an_unreadable_current_nothing_is_removed(store):
    before = names(store.bundles)
    (store.bundles / "CURRENT").write_bytes(b"?")
    with pytest.raises(ArtefactError, match="CURRENT"):
        remove_unused(store, 1)
    assert names(store.bundles) == before | {"CURRENT"}


def test_publishing_waits_until_the_removal_is_done(store, monkeypatch):
    """Or a rollback could choose a bundle that is on its way out."""
    held = []

    def look(*arguments, **options):
        with (store.bundles / ".publish.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)

    monkeypatch.setattr("indexer.retention.shutil.rmtree", look)
    remove_unused(store, 5)
    assert held == [True]
