import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.errors import BundleCorrupt, ModelIndexMismatch
from corpus.items import ItemTable
from corpus.prepared import EXPOSURE_SCHEMA, Pairs, Prepared
from indexer.bundle import open_bundle
from indexer.manifest import MANIFEST_FILE, BundleManifest, read_manifest
from indexer.verify import hash_files
from rerank.features import FEATURES
from retrieval.config import VectorIndexConfig
from retrieval.event_log.behaviour import Behaviour
from retrieval.vectors.vector_index import VectorIndex
from tests.conftest import exposure

ROOT = Path(__file__).parents[2]


def forge(folder: Path, **changes: object) -> BundleManifest:
    """Write a manifest that verifies although the bundle is not what the manifest says."""
    fields = {**changes, "files": hash_files(folder)}
    manifest = read_manifest(folder).model_copy(update=fields)
    (folder / MANIFEST_FILE).write_bytes(manifest.render())
    return manifest


def nothing_chosen() -> Pairs:
    none = np.empty(0, dtype=np.int64)
    return Pairs(
        queries=[],
        query=none,
        row=none,
        weight=np.empty(0, dtype=np.float32),
        shopper=none,
        timestamp=np.empty(0, dtype="datetime64[us]"),
    )


@pytest.mark.parametrize(
    "name",
    [
        "items.parquet",
        "vectors.npy",
        "vector.index",
        "lexical/meta.json",
        "passages/passage_tokens.npy",
        "behaviour/popularity.npy",
        "behaviour/related_values.npy",
        "behaviour/query_vectors.npy",
        "encoder/openvino_model.bin",
        "encoder/openvino_model.xml",
        "encoder/tokenizer.json",
        "reranker/reranker.json",
    ],
)
def test_a_truncated_file_is_refused_by_name_before_it_is_parsed(bundle_folder, name):
    path = bundle_folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleCorrupt, match=r"1 bad file\(s\)") as caught:
        open_bundle(bundle_folder)
    assert name in str(caught.value)


def test_files_that_verify_but_cannot_be_parsed_are_refused_as_corrupt(bundle_folder):
    (bundle_folder / "vector.index").write_bytes(b"IxHN")
    forge(bundle_folder)
    with pytest.raises(BundleCorrupt, match="cannot be opened"):
        open_bundle(bundle_folder)


def test_an_encoder_that_the_index_was_not_built_with_is_refused(bundle_folder):
    retriever = read_manifest(bundle_folder).retriever.model_copy(update={"encoder_fingerprint": "0" * 64})
    forge(bundle_folder, retriever=retriever)
    with pytest.raises(ModelIndexMismatch, match="000000000000"):
        open_bundle(bundle_folder)


def test_an_index_of_another_width_is_refused(bundle_folder):
    vectors = np.eye(60, 16, dtype=np.float32)
    VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=8)).save(bundle_folder / "vector.index")
    np.save(bundle_folder / "vectors.npy", vectors)
    forge(bundle_folder)
    with pytest.raises(ModelIndexMismatch, match=r"32 dimensions .* 16 in the index"):
        open_bundle(bundle_folder)


def test_an_index_of_another_catalogue_is_refused(bundle_folder):
    vectors = np.load(bundle_folder / "vectors.npy")[:59]
    VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=8)).save(bundle_folder / "vector.index")
    np.save(bundle_folder / "vectors.npy", vectors)
    forge(bundle_folder)
    with pytest.raises(ModelIndexMismatch, match=r"60 items .* 59 in the index"):
        open_bundle(bundle_folder)


def test_an_index_of_other_vectors_than_those_beside_it_is_refused(bundle_folder):
    np.save(bundle_folder / "vectors.npy", np.load(bundle_folder / "vectors.npy")[:59])
    forge(bundle_folder)
    with pytest.raises(BundleCorrupt, match=r"index of 59 embeddings by 32 .* got 60 by 32"):
        open_bundle(bundle_folder)


def test_a_reranker_of_another_retriever_is_refused(bundle_folder):
    reranker = read_manifest(bundle_folder).reranker
    forge(bundle_folder, reranker=reranker.model_copy(update={"retriever_fingerprint": "another"}))
    with pytest.raises(ModelIndexMismatch, match="tandem train reranker"):
        open_bundle(bundle_folder)


def test_a_flipped_byte_in_what_shoppers_chose_or_in_the_blend_is_refused(blended_folder):
    names = [name for name in read_manifest(blended_folder).files if name.startswith(("behaviour/", "blend/"))]
    assert {name.split("/")[0] for name in names} == {"behaviour", "blend"}
    for name in names:
        path = blended_folder / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(BundleCorrupt, match=r"1 bad file\(s\)") as caught:
            open_bundle(blended_folder)
        assert name in str(caught.value)
        path.write_bytes(content)
    assert open_bundle(blended_folder).reranker.blend is not None


@pytest.mark.parametrize("name", ["popularity", "recent"])
def test_behaviour_of_another_catalogue_is_refused(bundle_folder, name):
    path = bundle_folder / "behaviour" / f"{name}.npy"
    np.save(path, np.load(path)[:59])
    forge(bundle_folder)
    with pytest.raises(BundleCorrupt, match=r"cannot be opened: expected float32 \(60,\)"):
        open_bundle(bundle_folder)


def test_a_choice_of_an_item_that_is_not_there_is_refused(bundle_folder):
    path = bundle_folder / "behaviour" / "choices_rows.npy"
    rows = np.load(path)
    rows[0] = 60
    np.save(path, rows)
    forge(bundle_folder)
    with pytest.raises(BundleCorrupt, match="60 items"):
        open_bundle(bundle_folder)


def test_a_blend_of_another_reranker_is_refused(blended_folder):
    blend = read_manifest(blended_folder).blend
    forge(blended_folder, blend=blend.model_copy(update={"reranker_fingerprint": "another"}))
    with pytest.raises(ModelIndexMismatch, match=r"reranker reranker-1, got one of another; run `tandem train blend`"):
        open_bundle(blended_folder)


def test_trees_that_verify_but_cannot_be_parsed_are_refused_as_corrupt(blended_folder):
    (blended_folder / "blend" / "second.txt").write_bytes(b"no trees")
    forge(blended_folder)
    with pytest.raises(BundleCorrupt, match="cannot be opened: expected trees"):
        open_bundle(blended_folder)


def test_other_tables_reach_both_stages_and_leave_the_bundle_as_it_was(blended_folder):
    bundle = open_bundle(blended_folder)
    empty = Behaviour.build(
        nothing_chosen(), exposure(), bundle.retriever.encoder, bundle.stage.behaviour, items=bundle.items
    )
    other = bundle.with_behaviour(empty)
    query = "red acme running shoe"
    before, after = (entry.retriever.retrieve(query, 10) for entry in (bundle, other))
    assert before.behaviour.any()
    assert not after.behaviour.any()
    popularity = FEATURES.index("popularity")
    assert bundle.reranker.blend.features(query, (), before)[:, popularity].any()
    assert not other.reranker.blend.features(query, (), before)[:, popularity].any()
    assert other.behaviour is empty
    assert other.reranker.scorer is bundle.reranker.scorer


def test_click_rates_before_a_split_follow_their_items_into_the_bundles_rows(bundle_folder, tiny_prepared, tmp_path):
    bundle = open_bundle(bundle_folder)
    shutil.copytree(tiny_prepared.folder, tmp_path / "data")
    ItemTable(tiny_prepared.items.frame.reverse()).write(tmp_path / "data" / "items.parquet")
    shown = [("train", 0, 100, 30, 10.0), ("valid", 0, 100, 0, 40.0), ("valid", 1, 100, 40, 40.0)]
    table = pl.DataFrame(shown, schema=EXPOSURE_SCHEMA, orient="row")
    table.write_parquet(tmp_path / "data" / "exposure.parquet")
    before = {split: bundle.before(split, Prepared(tmp_path / "data")).behaviour for split in ("valid", "test")}
    # row 0 of the reversed catalogue is the bundle's last
    assert before["valid"].click_rate[59] == pytest.approx(40 / 20)
    assert before["test"].click_rate[58:].tolist() == pytest.approx([50 / 50, 40 / 60])
    assert np.isnan(before["valid"].click_rate[:59]).all()


def test_a_bundle_without_a_blend_opens_without_lightgbm(bundle_folder):
    script = f"""
import sys
for name in ("lightgbm", "torch", "transformers", "sklearn"):
    sys.modules[name] = None  # any import of it fails
from pathlib import Path
import indexer.models
from indexer.bundle import open_bundle
print(open_bundle(Path({str(bundle_folder)!r}), n_threads=1).reranker.blend)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"


def test_settings_of_another_release_are_refused_as_corrupt(bundle_folder):
    forge(bundle_folder, config={"build": {"engine": "abacus"}, "retriever": {}})
    with pytest.raises(BundleCorrupt, match="engine"):
        open_bundle(bundle_folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleCorrupt, match="tandem build"):
        open_bundle(tmp_path)
