import logging
import shutil

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.prepared import Example, Label
from indexer import checks
from indexer.build import build_bundle
from indexer.bundle import open_bundle, open_item_encoder
from indexer.query_encoder import check_query_encoder
from retrieval.engines.encoder import open_torch_encoder, read_encoder_info, verify_encoder
from retrieval.passages import passage
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER

AUTO = BUILD.model_copy(update={"encoder_precision": "auto"})
INT8 = BUILD.model_copy(update={"encoder_precision": "int8"})
QUERIES = ["red shoe", "steel pan", "bread knife"]


@pytest.fixture
def trained(tiny_encoder_folder):
    return open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16, device="cpu")


@pytest.fixture
def easily_quantised(monkeypatch):
    monkeypatch.setattr(checks, "MIN_COSINE", 0.5)  # a random model is no easy one to quantise
    monkeypatch.setattr(checks, "MAX_RECALL_LOSS", 1.0)


class Bent:
    """A real encoder whose embeddings are changed afterwards."""

    def __init__(self, encoder, change):
        self.encoder, self.change, self.info = encoder, change, encoder.info

    def encode(self, texts):
        return self.change(self.encoder.encode(texts))


def search_for(row, query):
    label = Label(row=row, weight=1.0, grade=3.0)
    return Example(query_id=query, query=query, user_id=None, timestamp=None, labels=(label,), history=())


def test_embeddings_that_point_elsewhere_are_refused(trained):
    vectors = np.eye(32, dtype=np.float32)
    check_query_encoder(trained, trained, QUERIES, [], vectors)
    bent = Bent(trained, lambda found: np.roll(found, 1, axis=1))
    with pytest.raises(ArtefactError, match=r"expected query embeddings .* set build\.encoder_precision to fp32"):
        check_query_encoder(bent, trained, QUERIES, [], vectors)


def test_lost_recall_is_refused(trained, monkeypatch):
    monkeypatch.setattr(checks, "RECALL_DEPTH", 1)
    monkeypatch.setattr(checks, "MIN_COSINE", -1.0)
    monkeypatch.setattr(checks, "FEW_SEARCHES", 3)
    wanted = trained.encode(QUERIES)
    vectors = np.concatenate([wanted, -wanted])  # each query's own embedding, and the opposite one
    judged = [search_for(row, query) for row, query in enumerate(QUERIES)]
    judged.append(search_for(3, QUERIES[0]))  # the same words, answered by another item: half is not found
    check_query_encoder(trained, trained, QUERIES, judged, vectors)
    with pytest.raises(ArtefactError, match=r"recall@1, got 0\.6667 on 3 searches"):
        check_query_encoder(Bent(trained, np.negative), trained, QUERIES, judged, vectors)


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin", "tokenizer.json"])
def test_a_damaged_export_is_made_again(workspace, easily_quantised, caplog, name):
    shutil.rmtree(workspace.rerankers)
    first = build_bundle(workspace, RETRIEVER, RERANKER, INT8).manifest
    (kept,) = workspace.query_encoders.iterdir()
    whole = (kept / name).read_bytes()
    middle = len(whole) // 2
    (kept / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    with caplog.at_level(logging.INFO):
        second = build_bundle(workspace, RETRIEVER, RERANKER, AUTO).manifest
    assert f"ignoring a kept encoder: expected {name} in" in caplog.text
    assert "exporting the query tower in int8" in caplog.text
    verify_encoder(kept)
    assert second.config["build"]["encoder_precision"] == "int8"
    assert second.retriever.encoder_fingerprint == first.retriever.encoder_fingerprint


def test_queries_are_read_in_int8_by_an_export_that_is_made_once(workspace, easily_quantised, caplog):
    with caplog.at_level(logging.INFO):
        first = build_bundle(workspace, RETRIEVER, RERANKER, AUTO).manifest
    assert caplog.text.count("exporting the query tower in int8") == 1
    assert first.config["build"]["encoder_precision"] == "int8"
    assert read_encoder_info(workspace.bundles / "v1" / "encoder").precision == "int8"
    bundle = open_bundle(workspace.bundles / "v1")
    assert bundle.retriever.encoder.info.precision == "int8"
    assert bundle.retriever.retrieve("bread knife", 3).rows.tolist()
    item_encoder = open_item_encoder(bundle)  # the catalogue is in fp32, whatever queries are in
    assert item_encoder.info.precision == "fp32"
    text = passage(bundle.items.item(0), bundle.stage.item_fields)
    np.testing.assert_allclose(item_encoder.encode([text])[0], bundle.retriever.vectors_of(np.array([0]))[0], atol=1e-4)
    caplog.clear()
    second = build_bundle(workspace, RETRIEVER, RERANKER, INT8).manifest
    assert "exporting the query tower in int8" not in caplog.text
    assert second.retriever.encoder_fingerprint == first.retriever.encoder_fingerprint


def test_int8_that_is_not_as_good_gives_way_to_fp32_unless_it_was_named(workspace, monkeypatch, caplog):
    shutil.rmtree(workspace.rerankers)
    monkeypatch.setattr("indexer.query_encoder.check_embeddings", refuse_int8)
    with pytest.raises(ArtefactError, match="in int8 to agree"):
        build_bundle(workspace, RETRIEVER, RERANKER, INT8)
    with caplog.at_level(logging.WARNING):
        manifest = build_bundle(workspace, RETRIEVER, RERANKER, AUTO).manifest
    assert "queries are encoded in fp32 instead: expected query embeddings in int8" in caplog.text
    assert manifest.config["build"]["encoder_precision"] == "fp32"
    assert not list(workspace.query_encoders.iterdir())  # the next build calibrates anew
    assert open_bundle(workspace.bundles / "v1").retriever.encoder.info.precision == "fp32"


def refuse_int8(name, ours, theirs, *, setting):
    if "int8" in name:
        raise ArtefactError(f"expected {name} to agree; set {setting} to fp32")
