import json
from pathlib import Path

import pytest

from corpus.errors import ArtefactError, BundleCorrupt, VersionNotFound
from indexer import publish as publishing
from indexer.publish import MAX_HISTORY, current_version, list_bundles, publish, rollback, write_atomically
from tests.indexer.small_bundles import write_small_bundle


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    for version in ("v1", "v2", "v3"):
        write_small_bundle(folder, version)
    return folder


def test_nothing_is_current_before_the_first_publish(bundles):
    assert current_version(bundles) is None
    assert current_version(bundles / "absent") is None


def test_publish_takes_the_newest_bundle_if_none_is_named(bundles):
    assert publish(bundles) == "v3"
    assert current_version(bundles) == "v3"


def test_rollbacks_walk_back_through_what_was_published(bundles):
    for version in ("v1", "v3", "v2"):
        publish(bundles, version)
    assert rollback(bundles) == "v3"
    assert rollback(bundles) == "v1"
    assert current_version(bundles) == "v1"
    with pytest.raises(VersionNotFound, match="none"):
        rollback(bundles)
    assert current_version(bundles) == "v1"


def test_a_version_that_was_rolled_back_is_not_returned_to(bundles):
    publish(bundles, "v1")
    publish(bundles, "v2")
    rollback(bundles)
    publish(bundles, "v3")
    assert rollback(bundles) == "v1"


def test_publishing_the_current_version_again_does_not_become_a_step_of_the_history(bundles):
    publish(bundles, "v1")
    publish(bundles, "v2")
    publish(bundles, "v2")
    assert rollback(bundles) == "v1"


def test_a_bundle_that_is_removed_while_it_is_verified_is_not_published(bundles, monkeypatch):
    publish(bundles, "v2")

    def verified_and_gone(folder: Path) -> None:
        folder.rename(bundles / ".removing-v1")  # as `gc` does

    monkeypatch.setattr(publishing, "verify_bundle", verified_and_gone)
    with pytest.raises(VersionNotFound, match="v1"):
        publish(bundles, "v1")
    assert current_version(bundles) == "v2"


def test_rollback_before_any_publish_says_what_to_do(bundles):
    with pytest.raises(VersionNotFound, match="tandem publish"):
        rollback(bundles)


def test_a_corrupt_bundle_is_not_published_and_the_current_one_stays(bundles):
    publish(bundles, "v1")
    (bundles / "v2" / "vectors.npy").write_bytes(b"nUmbers")
    with pytest.raises(BundleCorrupt, match=r"vectors\.npy"):
        publish(bundles, "v2")
    assert current_version(bundles) == "v1"


def test_rollback_refuses_a_bundle_that_no_longer_verifies(bundles):
    publish(bundles, "v1")
    publish(bundles, "v2")
    (bundles / "v1" / "vectors.npy").unlink()
    with pytest.raises(BundleCorrupt, match=r"vectors\.npy"):
        rollback(bundles)
    assert current_version(bundles) == "v2"


def test_rollback_to_a_deleted_bundle_is_refused(bundles):
    publish(bundles, "v1")
    publish(bundles, "v2")
    (bundles / "v1").rename(bundles / "gone")
    with pytest.raises(VersionNotFound, match="v1"):
        rollback(bundles)
    assert current_version(bundles) == "v2"


def test_an_unknown_version_is_refused_and_the_known_ones_are_named(bundles):
    with pytest.raises(VersionNotFound, match="v1, v2, v3"):
        publish(bundles, "v9")


def test_a_half_built_folder_does_not_count(bundles):
    (bundles / ".building-v4").mkdir()
    (bundles / "v5").mkdir()  # no manifest: never finished
    assert publish(bundles) == "v3"
    with pytest.raises(VersionNotFound):
        publish(bundles, "v5")


@pytest.mark.parametrize("content", [b"", b"v1", b'{"version": "../v1"}', b'{"version": "v1", "extra": 1}', b"\xff"])
def test_a_broken_current_file_is_refused_with_the_remedy(bundles, content):
    publish(bundles, "v1")
    (bundles / "CURRENT").write_bytes(content)
    with pytest.raises(ArtefactError, match="tandem publish"):
        current_version(bundles)


def test_the_history_stays_short(bundles):
    for number in range(MAX_HISTORY + 9):
        publish(bundles, f"v{1 + number % 2}")
    assert len(json.loads((bundles / "CURRENT").read_bytes())["history"]) == MAX_HISTORY
    assert rollback(bundles) in {"v1", "v2"}


def test_listing_shows_every_finished_bundle_but_not_an_unreadable_one(bundles, caplog):
    (bundles / "v2" / "manifest.json").write_bytes(b"{}")
    assert [manifest.version for manifest in list_bundles(bundles)] == ["v1", "v3"]
    assert "v2" in caplog.text


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "CURRENT"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["CURRENT"]


def test_publishing_leaves_no_temporary_file(bundles):
    publish(bundles, "v1")
    assert not [path for path in bundles.iterdir() if path.suffix == ".tmp"]


def lines(bundles: Path) -> list[dict]:
    return [json.loads(line) for line in (bundles / "publications.jsonl").read_text().splitlines()]


def test_a_line_that_a_kill_cut_short_is_dropped_before_the_next_one(bundles):
    publish(bundles, "v1")
    with (bundles / "publications.jsonl").open("ab") as file:
        file.write(b'{"action": "publi')
    publish(bundles, "v2")
    assert [(line["version"], line["parent"]) for line in lines(bundles)] == [("v1", None), ("v2", "v1")]


def test_publishing_again_notes_what_a_kill_kept_from_being_noted(bundles):
    publish(bundles, "v1")
    publish(bundles, "v2")
    path = bundles / "publications.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    publish(bundles, "v2")
    publish(bundles, "v2")
    assert [(line["version"], line["parent"]) for line in lines(bundles)] == [("v1", None), ("v2", "v1")]
    assert rollback(bundles) == "v1"


def test_publications_of_something_else_are_refused_with_the_remedy(bundles):
    publish(bundles, "v1")
    (bundles / "publications.jsonl").write_bytes(b"{}\n")
    with pytest.raises(ArtefactError, match="move the file away"):
        publish(bundles, "v1")
