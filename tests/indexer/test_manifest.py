import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from corpus.errors import BundleCorrupt
from indexer.manifest import (
    MANIFEST_FILE,
    BlendEntry,
    BundleManifest,
    FileEntry,
    RerankerEntry,
    RetrieverEntry,
    parse_manifest,
    read_manifest,
)
from retrieval.fusion import FusionWeights
from retrieval.vectors.tuning_point import TuningPoint
from tests.indexer.small_bundles import SMALL_FILES

# a busy machine is slow: no property here is about time
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
versions = st.integers(1, 10**9 - 1).map("v{}".format)
parts = st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(lambda part: part not in {".", ".."})
names = st.lists(parts, min_size=1, max_size=3).map("/".join).filter(lambda name: name != MANIFEST_FILE)
unit = st.floats(0, 1)
texts = st.text(max_size=20)
fields = st.lists(texts, max_size=3).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=6,
)
retrievers = st.builds(
    RetrieverEntry,
    version=versions,
    fingerprint=texts,
    encoder_fingerprint=texts,
    item_encoder_fingerprint=texts,
    tokenizer_sha256=digests,
    item_fields=fields,
    passage_version=st.integers(0, 99),
    weights=st.builds(FusionWeights, dense=unit, behaviour=st.floats(0, 1, exclude_max=True)),
    n_logged_queries=st.integers(0, 10**6),
)
rerankers = st.builds(
    RerankerEntry,
    version=versions,
    fingerprint=texts,
    retriever_fingerprint=texts,
    tokenizer_sha256=digests,
    item_fields=fields,
    passage_version=st.integers(0, 99),
    score_weights=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
blends = st.builds(
    BlendEntry, version=versions, fingerprint=texts, reranker_fingerprint=texts, n_features=st.integers(1, 99)
)
zones = st.integers(-12, 12).map(lambda hours: timezone(timedelta(hours=hours)))
numbers = st.none() | st.integers(1, 10**6)
points = st.builds(
    TuningPoint,
    ef_search=numbers,
    nprobe=numbers,
    refine_factor=numbers,
    recall=unit,
    ms_per_query=st.floats(0, 1e6),
)
manifests = st.builds(
    BundleManifest,
    version=versions,
    parent=st.none() | versions,
    created_at=st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC) | zones),
    n_items=st.integers(1, 10**12),
    dim=st.integers(1, 4096),
    retriever=retrievers,
    reranker=st.none() | rerankers,
    blend=st.none() | blends,
    config=st.dictionaries(texts, json_values, max_size=3),
    ann_recall=unit,
    tuning=st.lists(points, max_size=3).map(tuple),
    n_recall_queries=st.integers(0, 10**6),
    data_fingerprint=texts,
    packages=st.dictionaries(texts, texts, max_size=3),
    files=st.dictionaries(
        names, st.builds(FileEntry, sha256=digests, size_bytes=st.integers(0, 2**60)), min_size=1, max_size=4
    ),
)


@relaxed
@given(manifests)
def test_a_rendered_manifest_reads_back_as_it_was(manifest: BundleManifest):
    assert parse_manifest(manifest.render()) == manifest


@relaxed
@given(manifests, st.data())
def test_any_changed_byte_of_a_manifest_is_refused(manifest: BundleManifest, data: st.DataObject):
    content = bytearray(manifest.render())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleCorrupt):
        parse_manifest(bytes(content))


@relaxed
@given(manifests, st.data())
def test_a_cut_manifest_is_refused(manifest: BundleManifest, data: st.DataObject):
    content = manifest.render()
    with pytest.raises(BundleCorrupt):
        parse_manifest(content[: data.draw(st.integers(0, len(content) - 1))])


@relaxed
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_corrupt(content: bytes):
    with pytest.raises(BundleCorrupt):
        parse_manifest(content)


ESCAPES = [
    "../CURRENT",
    "..",
    ".",
    "",
    "/etc/passwd",
    "lexical/../../secret",
    "lexical/./a",
    "lexical//a",
    "lexical/",
    "/",
    "a\\..\\b",
    "C:\\a",
    "a\0b",
    "a\n",
    "a b",
    "~/a/$HOME",
    "manifest.json",
    "a" * 129,
    "/".join(["a" * 100] * 6),
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_file_name_that_leaves_the_folder_or_is_no_plain_name_is_refused(name: str, small_bundle):
    manifest = read_manifest(small_bundle)
    entry = next(iter(manifest.files.values()))
    document = json.loads(manifest.model_dump_json()) | {"files": {name: entry.model_dump()}}
    with pytest.raises(ValidationError, match="no plain relative path"):
        BundleManifest.model_validate(document)
    # a forger can compute a checksum that fits: the name itself must be what is refused
    forged = manifest.model_copy(update={"files": {name: entry}})
    with pytest.raises(BundleCorrupt, match="no plain relative path"):
        parse_manifest(forged.render())


@relaxed
@given(manifests, st.lists(st.sampled_from(["..", ".", "", "a", "..."]), min_size=1, max_size=4).map("/".join))
def test_accepted_file_names_never_leave_the_folder(manifest: BundleManifest, name: str):
    forged = manifest.model_copy(update={"files": {name: next(iter(manifest.files.values()))}})
    try:
        accepted = parse_manifest(forged.render())
    except BundleCorrupt:
        return
    for path in map(PurePosixPath, accepted.files):
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert str(path) in accepted.files  # no second spelling of one path


def test_the_size_is_that_of_all_files(small_bundle):
    assert read_manifest(small_bundle).size_bytes == sum(map(len, SMALL_FILES.values()))


def test_another_format_version_asks_for_the_release_that_wrote_it(small_bundle):
    document = json.loads((small_bundle / MANIFEST_FILE).read_bytes()) | {"format_version": 2}
    with pytest.raises(BundleCorrupt, match=r"expected format_version 5 .* got 2"):
        parse_manifest(json.dumps(document).encode())


def test_deeply_nested_json_is_refused_as_corrupt():
    with pytest.raises(BundleCorrupt):
        parse_manifest(b"[" * 100_000)


def test_a_manifest_without_a_time_zone_is_refused(small_bundle):
    document = json.loads(read_manifest(small_bundle).model_dump_json()) | {"created_at": "2026-03-01T12:00:00"}
    with pytest.raises(ValidationError, match="timezone"):
        BundleManifest.model_validate(document)


def test_reading_a_folder_without_a_manifest_says_that_no_bundle_was_finished_there(tmp_path):
    with pytest.raises(BundleCorrupt, match=r"found no manifest\.json; run `tandem build`"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_a_link_is_refused(small_bundle, tmp_path):
    (small_bundle / MANIFEST_FILE).rename(tmp_path / "elsewhere.json")
    (small_bundle / MANIFEST_FILE).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleCorrupt):
        read_manifest(small_bundle)
