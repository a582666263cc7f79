"""A damaged bundle is refused by its digests, before any library reads a byte of it."""

import os
import random
from pathlib import Path

import faiss
import numpy as np
import openvino
import polars as pl
import pytest
import tantivy
from tokenizers import Tokenizer

from corpus.errors import ArtefactError, BundleCorrupt
from corpus.workspace import find_version
from indexer.bundle import open_bundle
from indexer.manifest import MANIFEST_FILE, parse_manifest, read_manifest
from indexer.publish import current_version, publish
from indexer.verify import check_file, verify_bundle
from rerank.blend_info import BlendInfo
from rerank.lightgbm_runtime import lightgbm
from rerank.scorer import RerankerInfo
from retrieval.engines.encoder import EncoderInfo
from retrieval.event_log.suggestions import Suggestions
from retrieval.lexical.lexical_index import LexicalSettings
from tests.indexer.small_bundles import write_small_bundle

SMALL_BYTES = 4096  # of a file whose every byte is flipped
SHORT_DAMAGES = 120
DAMAGES_PER_KILL = 25  # --kills 200 makes 5,000


# what reads a bundle's files; some would crash, or worse, on a damaged one
PARSERS = [
    (pl, "read_parquet"),
    (np, "load"),
    (faiss, "read_index"),
    (tantivy.Index, "open"),
    (openvino.Core, "compile_model"),
    (Tokenizer, "from_file"),
    (Tokenizer, "from_str"),
    (lightgbm, "Booster"),
    (EncoderInfo, "model_validate_json"),
    (LexicalSettings, "model_validate_json"),
    (RerankerInfo, "model_validate_json"),
    (BlendInfo, "model_validate_json"),
    (Suggestions, "load"),
]


class Parsed(BaseException):
    """A parser was given a file to read."""


def trap(monkeypatch: pytest.MonkeyPatch, parsers: list[tuple[object, str]]) -> list[str]:
    """Let parsers say that they were reached, and note it: what one says in a thread may be heard by nobody."""
    reached: list[str] = []
    for owner, name in parsers:

        def parse(*arguments: object, parser: str = f"{owner}.{name}", **options: object) -> None:
            reached.append(parser)
            raise Parsed

        monkeypatch.setattr(owner, name, parse)
    return reached


@pytest.fixture
def trapped(monkeypatch) -> list[str]:
    return trap(monkeypatch, PARSERS)


def positions(n_bytes: int, kills: int | None) -> range:
    """Every byte in the long form; every fifth from day to day."""
    return range(0, n_bytes, 5 if kills is None else 1)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: f"{parser[0].__name__}.{parser[1]}")
def test_every_trap_is_where_an_untouched_bundle_leads(blended_folder, monkeypatch, parser):
    reached = trap(monkeypatch, [parser])
    with pytest.raises(Parsed):
        open_bundle(blended_folder)
    assert reached


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


def test_random_damage_to_the_large_files_is_refused_before_anything_is_parsed(blended_folder, trapped, kills):
    draw = random.Random(11)
    sizes = {name: entry.size_bytes for name, entry in read_manifest(blended_folder).files.items()}
    large = sorted(name for name, size in sizes.items() if size > SMALL_BYTES)
    assert {"vector.index", "vectors.npy", "items.parquet"} <= set(large)
    for number in range(SHORT_DAMAGES if kills is None else kills * DAMAGES_PER_KILL):
        name = large[number % len(large)]
        path = blended_folder / name
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
            open_bundle(blended_folder)
        assert name in str(caught.value)
        with path.open("r+b") as file:
            file.seek(position)
            file.write(rest)
    assert not trapped
    with pytest.raises(Parsed):  # all damage was mended: nothing else was what was refused
        open_bundle(blended_folder)


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
