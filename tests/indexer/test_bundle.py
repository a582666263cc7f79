from pathlib import Path

import numpy as np
import pytest

from corpus.errors import BundleCorrupt, ModelIndexMismatch
from indexer.bundle import open_bundle
from indexer.manifest import MANIFEST_FILE, BundleManifest, read_manifest
from indexer.verify import hash_files
from retrieval.config import VectorIndexConfig
from retrieval.vector_index import VectorIndex


def forge(folder: Path, **changes: object) -> BundleManifest:
    """Write a manifest that verifies although the bundle is not what the manifest says."""
    fields = {**changes, "files": hash_files(folder)}
    manifest = read_manifest(folder).model_copy(update=fields)
    (folder / MANIFEST_FILE).write_bytes(manifest.render())
    return manifest


@pytest.mark.parametrize(
    "name",
    [
        "items.parquet",
        "vectors.npy",
        "vector.index",
        "lexical/meta.json",
        "passages/passage_tokens.npy",
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
    forge(bundle_folder)
    with pytest.raises(ModelIndexMismatch, match=r"32 dimensions .* 16 in the index"):
        open_bundle(bundle_folder)


def test_an_index_of_another_catalogue_is_refused(bundle_folder):
    vectors = np.load(bundle_folder / "vectors.npy")[:59]
    VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=8)).save(bundle_folder / "vector.index")
    forge(bundle_folder)
    with pytest.raises(ModelIndexMismatch, match=r"60 items .* 59 in the index"):
        open_bundle(bundle_folder)


def test_a_reranker_of_another_retriever_is_refused(bundle_folder):
    reranker = read_manifest(bundle_folder).reranker
    forge(bundle_folder, reranker=reranker.model_copy(update={"retriever_fingerprint": "another"}))
    with pytest.raises(ModelIndexMismatch, match="tandem train reranker"):
        open_bundle(bundle_folder)


def test_settings_of_another_release_are_refused_as_corrupt(bundle_folder):
    forge(bundle_folder, config={"build": {"engine": "abacus"}, "retriever": {}})
    with pytest.raises(BundleCorrupt, match="engine"):
        open_bundle(bundle_folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleCorrupt, match="tandem build"):
        open_bundle(tmp_path)
