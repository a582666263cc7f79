import pytest

from corpus.errors import ArtefactError
from indexer.construction import construction
from indexer.manifest import MANIFEST_FILE
from indexer.publish import list_bundles
from tests.indexer.small_bundles import manifest_of, write_small_bundle


def test_a_whole_bundle_becomes_the_next_version(tmp_path):
    write_small_bundle(tmp_path, "v1")
    with construction(tmp_path) as site:
        (site.folder / "items.parquet").write_bytes(b"items")
        (site.folder / MANIFEST_FILE).write_bytes(manifest_of(site.folder, site.version).render())
        assert [manifest.version for manifest in list_bundles(tmp_path)] == ["v1"]  # not before it is whole
    assert [manifest.version for manifest in list_bundles(tmp_path)] == ["v1", "v2"]


def test_a_failed_construction_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), construction(tmp_path) as site:
        (site.folder / "items.parquet").write_bytes(b"items")
        raise KeyboardInterrupt
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_build_left_is_cleared_away(tmp_path):
    leftover = tmp_path / ".building-v1"
    leftover.mkdir()
    (leftover / "vectors.npy").write_bytes(b"half")
    with construction(tmp_path) as site:
        assert site.version == "v1"
        assert not list(site.folder.iterdir())
        (site.folder / MANIFEST_FILE).write_bytes(b"{}")


def test_a_construction_without_a_manifest_never_becomes_a_version(tmp_path):
    with pytest.raises(FileNotFoundError), construction(tmp_path):
        pass
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_two_builds_of_one_workspace_do_not_run_at_once(tmp_path):
    with construction(tmp_path) as site:
        with pytest.raises(ArtefactError, match="one is running"), construction(tmp_path):
            pass
        assert site.folder.is_dir()
        (site.folder / MANIFEST_FILE).write_bytes(b"{}")
