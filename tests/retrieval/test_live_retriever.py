"""Both parts of a catalogue under live updates, searched as one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.errors import InputError, UnknownItem
from corpus.items import Item
from retrieval import live_retriever
from retrieval.config import LexicalConfig, VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.fusion import FusionWeights
from retrieval.lexical.delta import LexicalDelta
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.live_retriever import Delta, LiveRetriever
from retrieval.retriever import Retriever
from retrieval.vectors.vector_index import VectorIndex

DIM, N_BASE, N_ITEMS = 8, 60, 66


class Table:
    """Embeds by a table: what is tested is who is asked, and what becomes of the answers."""

    dim = DIM

    def encode(self, queries):
        return np.stack([unit(np.random.default_rng(len(query)), 1)[0] for query in queries])


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.standard_normal((n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["flat", "hnsw"])
def base(request, tiny_items) -> Retriever:
    index = VectorIndex.build(unit(np.random.default_rng(1), N_BASE), VectorIndexConfig(kind=request.param))
    return Retriever(Table(), index, LexicalIndex.build(tiny_items, LexicalConfig()), FusionWeights(dense=0.5))


@pytest.fixture(scope="module")
def words(base, tiny_items) -> LexicalDelta:
    return LexicalDelta(base.lexical_index, tiny_items)


@pytest.mark.parametrize("few_hidden", [0, 256], ids=["selected by the index", "dropped behind it"])
@settings(max_examples=40)
@given(
    changed=st.sets(st.integers(0, N_BASE - 1), max_size=20),
    gone=st.sets(st.integers(0, N_ITEMS - 1), max_size=40),
    allowed=st.none() | st.sets(st.integers(0, N_ITEMS - 1)),
    k=st.integers(1, 80),
)
def test_meaning_is_searched_as_over_one_array(base, words, few_hidden, changed, gone, allowed, k):
    rows = np.array([*sorted(changed), *range(N_BASE, N_ITEMS)])
    vectors = np.concatenate([base.vector_index.vectors_of(np.arange(N_BASE)), np.zeros((6, DIM), dtype=np.float32)])
    vectors[rows] = unit(np.random.default_rng(2), len(rows))
    delta = Delta(
        n_base=N_BASE,
        n_items=N_ITEMS,
        gone=np.array(sorted(gone), dtype=np.int64),
        vector_rows=rows,
        vectors=vectors[rows],
        words=words,
    )
    live = LiveRetriever(base, delta)
    queries = base.encoder.encode(["a", "bb"])
    among = None if allowed is None else RowSet.of(np.array(sorted(allowed), dtype=np.int64), N_ITEMS)
    before, live_retriever.FEW_HIDDEN = live_retriever.FEW_HIDDEN, few_hidden
    try:
        hits = live._near(queries, k, exact=True, allowed=among)
    finally:
        live_retriever.FEW_HIDDEN = before
    open_rows = np.array(sorted((set(range(N_ITEMS)) if allowed is None else allowed) - gone), dtype=np.int64)
    scores = queries @ vectors[open_rows].T
    want = open_rows[np.argsort(-scores, axis=1, kind="stable")[:, :k]]
    n = want.shape[1]
    np.testing.assert_array_equal(hits.ids[:, :n], want)
    assert (hits.ids[:, n:] == -1).all()
    np.testing.assert_allclose(hits.scores[:, :n], np.take_along_axis(queries @ vectors.T, want, 1), atol=1e-6)
    np.testing.assert_array_equal(live.vectors_of(np.arange(N_ITEMS)), vectors)


def test_words_of_a_changed_item_are_its_new_ones_alone(base, words):
    changed = words.with_items({0: Item(item_id="i-00", title="zork rake"), 60: Item(item_id="n", title="rake")})
    delta = Delta(
        n_base=N_BASE,
        n_items=61,
        gone=np.array([57]),
        vector_rows=np.array([60]),
        vectors=unit(np.random.default_rng(3), 1),
        words=changed,
    )
    live = LiveRetriever(base, delta)
    rakes = base.lexical_index.search("rake", 60)[0].tolist()
    assert 57 in rakes
    rows, scores = live._worded("rake", 60, allowed=None)
    assert sorted(rows.tolist()) == sorted({*rakes, 0, 60} - {57})
    assert (np.diff(scores) <= 0).all()
    assert live._worded("running", 60, allowed=None)[0].tolist().count(0) == 0
    assert base.lexical_index.correct("zork") != "zork"
    assert live._worded("zork", 60, allowed=None)[0].tolist() == [0]
    assert live._worded("rake", 2, allowed=RowSet.of(np.array([0, 57, 55]), 61))[0].tolist() in ([0, 55], [55, 0])
    assert live.correct("zork") is None
    assert base.lexical_index.search("rakke", 60)[0].tolist() == rakes
    assert len(live._worded("rakke", 60, allowed=None, spelling=False)[0]) == 0
    assert sorted(live._worded("rakke", 60, allowed=None)[0].tolist()) == sorted({*rakes, 0, 60} - {57})
    found = live.retrieve("zork rake", 61)
    assert len(found) == 60
    vector = base.encoder.encode(["zork rake"])[0]
    np.testing.assert_allclose(found.dense, live.vectors_of(found.rows) @ vector, atol=1e-6)


def test_what_is_gone_is_neither_present_nor_near(base, words):
    delta = Delta(
        n_base=N_BASE,
        n_items=61,
        gone=np.array([57]),
        vector_rows=np.array([60]),
        vectors=base.vector_index.vectors_of(np.array([57])),
        words=words,
    )
    live = LiveRetriever(base, delta)
    vector = base.vector_index.vectors_of(np.array([57]))[0]
    rows, scores = live.near(vector, 99)
    assert (rows[0], scores[0]) == (60, pytest.approx(1.0, abs=1e-5))
    assert sorted(rows.tolist()) == [row for row in range(61) if row != 57]
    assert len(live.present(None)) == 60
    assert live.present(RowSet.of(np.array([56, 57, 60]), 61)).rows.tolist() == [56, 60]


def test_rows_of_another_catalogue_are_refused(base, words):
    none = np.empty(0, dtype=np.int64)
    live = LiveRetriever(
        base,
        Delta(n_base=60, n_items=60, gone=none, vector_rows=none, vectors=np.empty((0, DIM), np.float32), words=words),
    )
    with pytest.raises(InputError, match="catalogue of 60 items, got ones of 61"):
        live.retrieve("a", 5, allowed=RowSet.of(np.array([1]), 61))
    with pytest.raises(UnknownItem, match=r"rows in \[0, 60\), got 3 to 60"):
        live.vectors_of(np.array([3, 60]))
