import logging
import shutil

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.prepared import Example, Label, Prepared
from indexer import checks, item_embeddings, ray_embedding
from indexer.build import build_bundle
from indexer.config import BuildConfig
from indexer.item_embeddings import check_item_agreement, choose_precision, embed_catalogue
from retrieval.engines.encoder import open_torch_encoder
from retrieval.passages import passage_texts
from retrieval.vectors.embeddings import embed_items
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER

INT8 = BUILD.model_copy(update={"item_precision": "int8"})
AUTO = BuildConfig(item_precision="auto")


@pytest.fixture(scope="module")
def trained(tiny_encoder_folder):
    return open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=24, device="cpu")


@pytest.fixture(scope="module")
def queries(tiny_encoder_folder):
    return open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16, device="cpu")


@pytest.fixture
def texts(tiny_items):
    return passage_texts(tiny_items, ("title", "category"))


class Bent:
    """A real encoder whose embeddings are changed afterwards."""

    def __init__(self, encoder, change):
        self.encoder, self.change = encoder, change
        self.dim, self.info, self.fingerprint = encoder.dim, encoder.info, "bent" + encoder.fingerprint

    def encode(self, texts):
        vectors = self.change(texts, self.encoder.encode(texts))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def search_for(row, query):
    label = Label(row=row, weight=1.0, grade=3.0)
    return Example(query_id=query, query=query, user_id=None, timestamp=None, labels=(label,), history=())


def test_an_encoder_that_agrees_passes_and_leaves_the_sample_in_the_cache(trained, queries, texts, tmp_path):
    near = Bent(trained, lambda _, vectors: vectors + 0.001)
    check_item_agreement(near, trained, queries, texts, tmp_path, [search_for(3, "red acme running shoe")])
    assert embed_items(near, texts, tmp_path).n_embedded == 0


def test_embeddings_that_point_elsewhere_are_refused(trained, queries, texts, tmp_path):
    with pytest.raises(ArtefactError, match=r"mean cosine ≥ 0\.98.* set build\.item_precision to fp32"):
        check_item_agreement(Bent(trained, lambda _, v: np.roll(v, 1, axis=1)), trained, queries, texts, tmp_path, [])


def test_lost_recall_is_refused_at_a_high_mean_cosine(trained, queries, texts, tiny_items, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "RECALL_DEPTH", 5)
    monkeypatch.setattr(checks, "FEW_SEARCHES", 2)
    titles = tiny_items.column("title")
    searches = [search_for(row, titles[row]) for row in (0, 20)]
    lost = set(texts.take(np.array([0, 20])))

    def lose_two(given, vectors):
        return np.where([[text in lost] for text in given], -vectors, vectors)

    monkeypatch.setattr(checks, "MIN_COSINE", 0.9)  # two of sixty opposite: 1 - 4 / 60
    with pytest.raises(ArtefactError, match=r"recall@5, got 1\.0000 on 2 searches"):
        check_item_agreement(Bent(trained, lose_two), trained, queries, texts, tmp_path, searches)


def test_a_small_catalogue_is_embedded_as_it_was_trained(trained, texts, tmp_path):
    assert choose_precision(AUTO, trained, texts, tmp_path, tmp_path / "none") == "fp32"
    int8 = BuildConfig(item_precision="int8")
    assert choose_precision(int8, trained, texts, tmp_path, tmp_path / "none") == "int8"


def test_what_training_left_in_the_cache_decides(trained, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(item_embeddings, "FEW_ITEMS", 10)
    assert choose_precision(AUTO, trained, texts, tmp_path, tmp_path / "none") == "int8"
    embed_items(trained, texts.take(np.arange(42)), tmp_path)  # 18 are missing, more than 60 / 3.5
    assert choose_precision(AUTO, trained, texts, tmp_path, tmp_path / "none") == "int8"
    embed_items(trained, texts.take(np.arange(43)), tmp_path)
    assert choose_precision(AUTO, trained, texts, tmp_path, tmp_path / "none") == "fp32"


def test_int8_bundles_keep_their_encoder_and_their_embeddings_apart(workspace, monkeypatch, caplog):
    monkeypatch.setattr(checks, "MIN_COSINE", 0.5)  # a random model is no easy one to quantise
    monkeypatch.setattr(checks, "MAX_RECALL_LOSS", 1.0)
    full = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    with caplog.at_level(logging.INFO):
        reduced = build_bundle(workspace, RETRIEVER, RERANKER, INT8)
    assert caplog.text.count("exporting the item tower") == 1
    assert (reduced.n_embedded, reduced.n_reused) == (60, 0)
    first, second = (report.manifest.retriever for report in (full, reduced))
    assert first.item_encoder_fingerprint != second.item_encoder_fingerprint
    assert first.encoder_fingerprint == second.encoder_fingerprint  # queries stay fp32
    vectors = [np.load(workspace.bundles / version / "vectors.npy") for version in ("v1", "v2")]
    assert np.abs(vectors[0] - vectors[1]).max() > 0
    caplog.clear()
    again = build_bundle(workspace, RETRIEVER, RERANKER, INT8)
    assert "exporting" not in caplog.text
    assert (again.n_embedded, again.n_reused) == (0, 60)
    assert again.manifest.retriever == second


def test_a_reduced_precision_that_fails_gives_way_to_fp32_unless_it_was_named(workspace, monkeypatch, caplog):
    shutil.rmtree(workspace.rerankers)
    monkeypatch.setattr("indexer.item_embeddings.check_embeddings", refuse_int8)
    monkeypatch.setattr(item_embeddings, "FEW_ITEMS", 10)
    with pytest.raises(ArtefactError, match="in int8 to agree"):
        build_bundle(workspace, RETRIEVER, RERANKER, INT8)
    monkeypatch.setattr(item_embeddings, "choose_precision", lambda *_: "int8")  # what the cache has now is fp32
    with caplog.at_level(logging.WARNING):
        report = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert "embedding in fp32 instead: expected item embeddings in int8" in caplog.text
    folder = workspace.retrievers / "v1" / "model"
    trained = open_torch_encoder(folder, role="item", max_tokens=RETRIEVER.max_item_tokens)
    assert report.manifest.retriever.item_encoder_fingerprint == trained.fingerprint


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_cluster_gets_the_encoder_that_the_build_chose(workspace, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(checks, "MIN_COSINE", 0.5)
    monkeypatch.setattr(item_embeddings, "N_COMPARED_ITEMS", 10)  # the others are left to the cluster
    asked = []

    def encode_on_ray(address, portable):
        def encode_shards(shards):
            encoder = portable.open()
            asked.append((address, encoder.fingerprint))
            return ((rows, encoder.encode(texts)) for rows, texts in shards)

        return encode_shards

    monkeypatch.setattr(ray_embedding, "encode_on_ray", encode_on_ray)
    done = embed_catalogue(
        workspace.retrievers / "v1" / "model",
        RETRIEVER,
        Prepared(workspace.data).items,
        BUILD.model_copy(update={"item_precision": precision}),
        workspace=workspace,
        into=tmp_path / "vectors.npy",
        judged=[],
        ray="auto",
    )
    assert asked == [("auto", done.fingerprint)]
    assert (done.report.n_embedded, done.report.n_reused) == (60, 0)
    assert np.isfinite(np.load(tmp_path / "vectors.npy")).all()


def refuse_int8(name, ours, theirs, *, setting):
    if "int8" in name:
        raise ArtefactError(f"expected {name} to agree; set {setting} to fp32")
