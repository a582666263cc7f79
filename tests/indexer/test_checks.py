import numpy as np
import pytest

from corpus.errors import ArtefactError
from indexer.checks import check_agreement, measure_recall, reach_recall
from retrieval.config import VectorIndexConfig
from retrieval.encoder import open_torch_encoder
from retrieval.vector_index import VectorHits, VectorIndex


def unit_vectors(n: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_an_exact_index_has_full_recall():
    index = VectorIndex.build(unit_vectors(500, 8, 1), VectorIndexConfig(kind="flat"))
    assert measure_recall(index, unit_vectors(20, 8, 2)) == 1.0


def test_recall_is_the_share_of_exact_neighbours_that_were_found():
    vectors, queries = unit_vectors(3000, 24, 1), unit_vectors(40, 24, 2)
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=2, ef_construction=4, ef_search=1))
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
    found = index.search(queries, 100).ids
    by_hand = np.mean([len(set(a) & set(b)) / 100 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert by_hand < 0.9  # the graph is meant to be bad
    assert measure_recall(index, queries) == pytest.approx(by_hand)


def test_items_of_equal_text_are_one_as_good_as_the_other():
    class Reversed(VectorIndex):
        def search(self, queries, k, *, exact=False):
            hits = super().search(queries, len(self), exact=True)
            order = np.arange(k) if exact else np.arange(len(self))[::-1][:k]
            return VectorHits(ids=hits.ids[:, order], scores=hits.scores[:, order])

    same = np.repeat(unit_vectors(1, 8, 1), 250, axis=0)
    index = VectorIndex.build(same, VectorIndexConfig(kind="flat"))
    index.__class__ = Reversed
    assert not set(index.search(same[:1], 100).ids[0]) & set(index.search(same[:1], 100, exact=True).ids[0])
    assert measure_recall(index, same[:1]) == 1.0


def test_a_catalogue_below_the_depth_can_have_full_recall():
    index = VectorIndex.build(unit_vectors(7, 8, 1), VectorIndexConfig(kind="hnsw"))
    assert measure_recall(index, unit_vectors(5, 8, 2)) == 1.0


def test_the_search_is_broadened_until_enough_is_found_and_no_further():
    vectors, queries = unit_vectors(3000, 24, 1), unit_vectors(40, 24, 2)
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=4, ef_construction=20, ef_search=100))
    recalls = {ef: measure_recall(index.with_ef_search(ef), queries) for ef in (100, 200, 400, 800)}
    assert recalls[100] < recalls[200] < recalls[400] < recalls[800]
    tuned, recall = reach_recall(index, queries, (recalls[200] + recalls[400]) / 2)
    assert (tuned.config.ef_search, recall) == (400, recalls[400])
    assert index.config.ef_search == 100
    kept, recall = reach_recall(index, queries, recalls[100])
    assert (kept.config.ef_search, recall) == (100, recalls[100])


def test_too_little_recall_is_refused_with_the_remedy():
    vectors, queries = unit_vectors(3000, 24, 1), unit_vectors(40, 24, 2)
    index = VectorIndex.build(vectors, VectorIndexConfig(kind="hnsw", m=2, ef_construction=4, ef_search=1))
    with pytest.raises(ArtefactError, match=r"at least 0\.999 .* with ef_search = 16; raise retriever\.index\.ef_cons"):
        reach_recall(index, queries, 0.999)


def test_an_encoder_that_disagrees_with_the_trained_one_is_refused(tiny_encoder_folder):
    encoder = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16)
    queries = ["red shoe", "steel pan", "bread knife"]
    check_agreement(encoder, tiny_encoder_folder, queries)

    class Broken:
        info = encoder.info

        def encode(self, texts):
            return np.roll(encoder.encode(texts), 1, axis=1)

    with pytest.raises(ArtefactError, match="fp32"):
        check_agreement(Broken(), tiny_encoder_folder, queries)
