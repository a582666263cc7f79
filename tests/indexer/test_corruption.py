"""A damaged bundle is refused by its digests, before any library reads a byte of it."""

import os
import random
from pathlib import Path

import faiss
import polars as pl
import pytest

from corpus.errors import ArtefactError, BundleCorrupt
from corpus.workspace import find_version
from indexer.bundle import open_bundle
from indexer.manifest import MANIFEST_FILE, parse_manifest, read_manifest
from indexer.publish import current_version, publish
from indexer.verify import check_file, verify_bundle
from tests.indexer.small_bundles import write_small_bundle

SMALL_BYTES = 4096  # of a file whose every byte is flipped
SHORT_DAMAGES = 120
DAMAGES_PER_KILL = 25  # --kills 200 makes 5,000


class Parsed(BaseException):
    """A library was given a file to read."""


@pytest.fixture
def trapped(monkeypatch) -> None:
    """The libraries that would crash, or worse, on a damaged file say that they were reached."""

    def reached(*arguments: object, **options: object) -> None:
        raise Parsed

    monkeypatch.setattr(faiss, "read_index", reached)
    monkeypatch.setattr(pl, "read_parquet", reached)


def positions(n_bytes: int, kills: int | None) -> range:
    """Every byte in the long form; every fifth from day to day."""
    return range(0, n_bytes, 5 if kills is None else 1)


def test_the_trap_is_where_an_untouched_bundle_leads(bundle_folder, trapped):
    with pytest.raises(Parsed):
        open_bundle(bundle_folder)


def test_a_flipped_byte_of_a_real_manifest_is_refused(bundle_folder, kills):
    content = (bundle_folder / MANIFEST_FILE).read_bytes()
    assert len(content) > 2000
    for position in positions(len(content), kills):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(BundleCorrupt):
            parse_manifest(bytes(flipped))


def test_a_flipped_byte_of_a_small_file_is_noticed(bundle_folder, kills):
    manifest = read_manifest(bundle_folder)
    small = {
        name for name, entry in manifest.files.items() if name.endswith(".json") and entry.size_bytes <= SMALL_BYTES
    }
    assert {"encoder/encoder.json", "lexical/meta.json", "reranker/reranker.json"} <= small
    for name in sorted(small):
        with (bundle_folder / name).open("r+b", buffering=0) as file:
            content = file.read()
            for position in positions(len(content), kills):
                os.pwrite(file.fileno(), bytes([content[position] ^ 1 << position % 8]), position)
                assert "content changed" in (check_file(bundle_folder, name, manifest.files[name]) or "")
                os.pwrite(file.fileno(), content[position : position + 1], position)
    verify_bundle(bundle_folder)


def test_random_damage_to_the_large_files_is_refused_before_anything_is_parsed(bundle_folder, trapped, kills):
    draw = random.Random(11)
    sizes = {name: entry.size_bytes for name, entry in read_manifest(bundle_folder).files.items()}
    large = sorted(name for name, size in sizes.items() if size > SMALL_BYTES)
    assert {"vector.index", "vectors.npy", "items.parquet"} <= set(large)
    for number in range(SHORT_DAMAGES if kills is None else kills * DAMAGES_PER_KILL):
        name = large[number % len(large)]
        path = bundle_folder / name
        position = draw.randrange(sizes[name])
        with path.open("r+b") as file:
            if number % 4 == 3:
                file.seek(position)
                rest = file.read()
                file.truncate(position)
            else:
                file.seek(position)
                rest = file.read(1)
                file.seek(position)
                file.write(bytes([rest[0] ^ 1 << draw.randrange(8)]))
        with pytest.raises(BundleCorrupt, match=r"1 bad file\(s\)") as caught:
            open_bundle(bundle_folder)
        assert name in str(caught.value)
        with path.open("r+b") as file:
            file.seek(position)
            file.write(rest)
    with pytest.raises(Parsed):  # all damage was mended: nothing else was what was refused
        open_bundle(bundle_folder)


def test_every_flipped_byte_of_current_is_refused_by_name_or_leads_to_a_whole_bundle_or_to_none(tmp_path):
    for version in ("v1", "v2", "v3"):
        write_small_bundle(tmp_path, version)
    publish(tmp_path, "v1")
    publish(tmp_path, "v2")
    path = tmp_path / "CURRENT"
    content = path.read_bytes()
    outcomes = set()
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            outcomes.add(outcome(tmp_path))
    assert outcomes == {"refused", "not found", "whole"}  # whole: as after v2 → v3, and in the history


def outcome(bundles: Path) -> str:
    try:
        version = current_version(bundles)
    except ArtefactError as exc:
        assert "CURRENT" in str(exc) and "tandem publish" in str(exc)
        return "refused"
    try:
        verify_bundle(find_version(bundles, version, marker=MANIFEST_FILE))
    except ArtefactError as exc:
        assert f"expected a finished version {version} in" in str(exc)
        return "not found"
    return "whole"
