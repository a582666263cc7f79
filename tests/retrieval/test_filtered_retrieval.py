"""Filters inside the search: however few items meet one, a page is as full as it can be."""

import numpy as np
import pytest

from corpus.columns import ItemColumns
from corpus.items import Item, ItemTable
from retrieval.config import LexicalConfig, VectorIndexConfig
from retrieval.engines.encoder import open_torch_encoder
from retrieval.filtering.filter_language import parse_filter
from retrieval.filtering.predicates import matching_rows
from retrieval.fusion import FusionWeights
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.retriever import Retriever
from retrieval.vectors.vector_index import VectorIndex

N_ITEMS = 10_000
QUERY = "red acme running shoe"


@pytest.fixture(scope="module")
def items() -> ItemTable:
    """10,000 shoes, of which every thousandth is rare and every third red."""
    return ItemTable.from_items(
        Item(
            item_id=f"i-{row}",
            title="red running shoe" if row % 3 == 0 else "blue running shoe",
            brand="rare" if row % 1000 == 7 else "acme",
            price=float(row),
        )
        for row in range(N_ITEMS)
    )


@pytest.fixture(scope="module", params=["flat", "hnsw"])
def retriever(items, tiny_encoder_folder, request) -> Retriever:
    encoder = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16)
    vectors = np.random.default_rng(3).normal(size=(N_ITEMS, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    config = VectorIndexConfig(kind=request.param, m=8, ef_construction=40)
    return Retriever(
        encoder,
        VectorIndex.build(vectors, config),
        LexicalIndex.build(items, LexicalConfig()),
        FusionWeights(dense=0.5),
    )


@pytest.mark.parametrize(
    ("text", "n_matching"),
    [
        ("brand = rare", 10),  # 0.1 %
        ("brand = acme price < 100", 99),
        ("price >= 7000", 3000),
        ("brand = nobody", 0),
    ],
)
def test_pages_are_full_at_any_selectivity(retriever, items, text, n_matching):
    allowed = matching_rows(parse_filter(text), ItemColumns.of(items))
    assert len(allowed) == n_matching
    found = retriever.retrieve(QUERY, 50, allowed=allowed)
    assert len(found) == min(50, n_matching)
    assert allowed.mask[found.rows].all()


def test_the_best_of_those_that_meet_a_filter_are_found(retriever, items):
    allowed = matching_rows(parse_filter("brand = rare"), ItemColumns.of(items))
    found = retriever.retrieve(QUERY, 10, allowed=allowed)
    vector = retriever.encoder.encode([QUERY])[0]
    np.testing.assert_allclose(found.dense, retriever.vector_index.vectors_of(found.rows) @ vector, atol=1e-5)
    red = found.rows % 3 == 0
    # rows 2007, 5007 and 8007 are red, which the words of the query say
    assert red.sum() == 3
    assert found.lexical[red].min() > found.lexical[~red].max()
