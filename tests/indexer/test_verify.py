import errno
import hashlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.errors import BundleCorrupt
from indexer.manifest import MANIFEST_FILE
from indexer.verify import find_faults, hash_files, verify_bundle
from tests.indexer.small_bundles import SMALL_FILES, manifest_of


def test_an_untouched_bundle_verifies(small_bundle):
    manifest = verify_bundle(small_bundle)
    assert set(manifest.files) == set(SMALL_FILES)


def test_digests_are_those_of_the_content(small_bundle):
    for name, entry in hash_files(small_bundle).items():
        assert entry.sha256 == hashlib.sha256(SMALL_FILES[name]).hexdigest()
        assert entry.size_bytes == len(SMALL_FILES[name])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_any_flipped_bit_of_any_file_is_refused_and_the_file_named(small_bundle, data):
    name = data.draw(st.sampled_from([MANIFEST_FILE, *(name for name, content in SMALL_FILES.items() if content)]))
    path = small_bundle / name
    before = path.read_bytes()
    content = bytearray(before)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with pytest.raises(BundleCorrupt) as caught:
            verify_bundle(small_bundle)
    finally:
        path.write_bytes(before)
    assert name in str(caught.value)
    verify_bundle(small_bundle)


def test_every_bad_file_is_named_with_its_fault(small_bundle):
    (small_bundle / "items.parquet").write_bytes(b"PAR1 the ITEMS")
    (small_bundle / "vectors.npy").write_bytes(b"numb")
    (small_bundle / "encoder" / "openvino_model.xml").unlink()
    (small_bundle / "lexical" / "extra").write_bytes(b"?")
    with pytest.raises(BundleCorrupt) as caught:
        verify_bundle(small_bundle)
    message = str(caught.value)
    assert "4 bad file(s)" in message
    assert "items.parquet (content changed" in message
    assert "vectors.npy (expected 7 bytes, got 4)" in message
    assert "encoder/openvino_model.xml (missing)" in message
    assert "lexical/extra (unknown" in message
    assert "lexical/a.store" not in message


def test_all_faults_are_listed_at_once_and_a_whole_bundle_has_none(small_bundle, tmp_path):
    assert find_faults(small_bundle) == []
    (small_bundle / "items.parquet").write_bytes(b"PAR1 the ITEMS")
    (small_bundle / "vectors.npy").unlink()
    (small_bundle / "encoder" / "more").symlink_to(tmp_path)
    faults = find_faults(small_bundle)
    assert [fault.split(" (")[0] for fault in faults] == ["encoder/more", "vectors.npy", "items.parquet"]
    (small_bundle / MANIFEST_FILE).write_bytes(b"{}")
    (fault,) = find_faults(small_bundle)
    assert fault.startswith("manifest.json (expected format_version")


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_looked_at_all_the_same(small_bundle, monkeypatch):
    scandir = os.scandir

    def fail_in_lexical(folder):
        if str(folder).endswith("lexical"):
            raise OSError(errno.EIO, "Input/output error")
        return scandir(folder)

    (small_bundle / "vectors.npy").write_bytes(b"numb")
    monkeypatch.setattr(os, "scandir", fail_in_lexical)
    faults = find_faults(small_bundle)
    assert "lexical (unreadable: Input/output error)" in faults
    assert "vectors.npy (expected 7 bytes, got 4)" in faults


def test_a_file_that_cannot_be_read_is_named(small_bundle, monkeypatch):
    digest = hashlib.file_digest

    def fail_on_items(file, name):
        if file.name.endswith("items.parquet"):
            raise OSError(errno.EIO, "Input/output error")
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", fail_on_items)
    assert find_faults(small_bundle) == ["items.parquet (unreadable: Input/output error)"]


def test_a_linked_file_is_refused_even_if_its_content_fits(small_bundle, tmp_path):
    (tmp_path / "items").write_bytes(SMALL_FILES["items.parquet"])
    (small_bundle / "items.parquet").unlink()
    (small_bundle / "items.parquet").symlink_to(tmp_path / "items")
    with pytest.raises(BundleCorrupt, match=r"items.parquet \(symbolic link"):
        verify_bundle(small_bundle)


def test_a_linked_folder_is_refused_even_if_its_content_fits(small_bundle, tmp_path):
    (small_bundle / "lexical").rename(tmp_path / "outside")
    (small_bundle / "lexical").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(BundleCorrupt, match=r"lexical \(symbolic link"):
        verify_bundle(small_bundle)


def test_a_pipe_in_place_of_a_file_is_refused_without_reading_it(small_bundle):
    (small_bundle / "items.parquet").unlink()
    os.mkfifo(small_bundle / "items.parquet")
    with pytest.raises(BundleCorrupt, match="special file"):
        verify_bundle(small_bundle)


def test_a_bundle_under_construction_with_a_link_in_it_is_not_hashed(small_bundle, tmp_path):
    (small_bundle / "link").symlink_to(tmp_path)
    with pytest.raises(BundleCorrupt, match="link"):
        hash_files(small_bundle)


def test_the_manifest_is_left_out_of_its_own_list(small_bundle):
    assert MANIFEST_FILE not in manifest_of(small_bundle, "v1").files
