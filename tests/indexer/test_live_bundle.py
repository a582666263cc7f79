"""A snapshot answers as a bundle would that was built from the same items."""

from dataclasses import replace

import numpy as np
import pytest

from corpus.events import EventType, HistoryEvent
from corpus.items import Item, ItemTable
from indexer.bundle import VECTORS_FILE, Bundle, open_bundle, open_item_encoder
from indexer.live_bundle import LiveBundle
from rerank.features import FEATURES
from retrieval.filtering.row_set import RowSet
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.passages import passages
from tests.corpus.test_live_log import NOON

GIZMO = Item(item_id="gizmo-771234", title="purple gizmotron pan", brand="zork", category=("kitchen", "pan"), price=5.0)


@pytest.fixture(scope="module")
def base(blended_workspace) -> Bundle:
    workspace, report = blended_workspace
    return open_bundle(workspace.bundles / report.manifest.version, n_threads=1)


@pytest.fixture(scope="module")
def encoder(base):
    return open_item_encoder(base)


@pytest.fixture
def live(base) -> LiveBundle:
    return LiveBundle.of(base)


@pytest.fixture
def apply(encoder):
    def run(live: LiveBundle, *items: Item, deletions: tuple[str, ...] = ()) -> LiveBundle:
        upserts = {item.item_id: item for item in items}
        texts = live.passages_to_embed(upserts)
        embeddings = dict(zip(texts, encoder.encode(list(texts.values())), strict=True))
        return live.with_changes(upserts, deletions, embeddings)

    return run


def found(live: LiveBundle, query: str, k: int = 200, **options: object) -> list[str]:
    bundle = live.bundle
    return [bundle.items.item(row).item_id for row in bundle.retriever.retrieve(query, k, **options).rows.tolist()]


def of_base(base: Bundle, row: int, **changes: object) -> Item:
    return replace(base.items.item(row), **changes)


def test_the_encoder_of_a_bundle_embeds_items_as_its_build_did(base, encoder):
    vectors = np.load(base.folder / VECTORS_FILE)
    np.testing.assert_allclose(encoder.encode(passages(base.items, base.stage.item_fields)), vectors, atol=2e-6)


def test_without_changes_a_snapshot_is_the_bundle(live, base):
    assert live.bundle is base
    assert live.n_changed == 0


def test_a_new_item_is_found_by_meaning_words_and_id(live, apply):
    after = apply(live, GIZMO)
    assert found(after, "gizmotron", k=3)[0] == GIZMO.item_id
    for query in ("purple pan", "gizmotrons", "771234"):  # the second is no mistake for any word of the catalogue
        rows, scores = after.bundle.retriever._worded(query, 5, allowed=None)
        assert rows[0] == 60, query
        assert scores[0] > 0
    near = after.bundle.retriever._near(after.vectors[60][None], 3, exact=False, allowed=None)
    assert (near.ids[0, 0], near.scores[0, 0]) == (60, pytest.approx(1.0, abs=1e-5))
    assert GIZMO.item_id not in found(live, "gizmotron")  # an earlier snapshot never changes


def test_a_deleted_item_is_found_by_no_channel_and_comes_back(live, apply, base):
    query = base.items.item(17).title
    assert "i-17" in found(live, query)
    gone = apply(live, deletions=("i-17", "nobody"))
    assert "i-17" not in found(gone, query)
    assert len(found(gone, query)) == 59
    vector = base.retriever.encoder.encode([query])[0]
    assert 17 in base.behaviour.queries.search(vector, 99)[0]
    assert 17 not in gone.bundle.retriever._chosen(base.behaviour.queries, vector, 99, allowed=None)[0]
    back = apply(gone, base.items.item(17))
    assert found(back, query) == found(live, query)
    assert (back.vectors, list(back.words.rows)) == ({}, [])  # the base speaks for it again


def test_a_new_price_embeds_tokenises_and_indexes_nothing(live, apply, base):
    cheap = of_base(base, 3, price=1.25, in_stock=True, image_uri="x.png", updated_at=NOON)
    assert live.passages_to_embed({"i-03": cheap}) == {}
    after = apply(live, cheap)
    assert (after.vectors, after.tokens, list(after.words.rows)) == ({}, {}, [])
    assert after.bundle.items.item(3).price == 1.25
    assert (after.bundle.columns.price[3], after.bundle.columns.in_stock[3]) == (1.25, 1)
    assert after.bundle.reranker.blend.extractor._log_prices(np.array([3])) == pytest.approx(np.log(1.25))
    assert live.bundle.reranker.blend.extractor._log_prices(np.array([3])) == pytest.approx(np.log(13.0))


def test_what_no_tower_reads_changes_words_alone(live, apply, base):
    after = apply(live, of_base(base, 3, description="unheard-of zzyzx"))
    assert (after.vectors, list(after.words.rows)) == ({}, [3])
    assert after.bundle.retriever._worded("zzyzx", 5, allowed=None)[0].tolist() == [3]
    # the base still holds the old words, and they find nothing more
    old = base.retriever.lexical_index.search("home", 60)[0].tolist()
    assert (3 in old, of_base(base, 4).description) == (False, "the running shoe for home")
    moved = apply(after, of_base(base, 4, description=None))
    assert 4 in old
    assert 4 not in moved.bundle.retriever._worded("home", 60, allowed=None)[0]


def test_scores_of_changed_items_are_those_of_the_index_that_they_left(live, apply, base):
    """Were every item rewritten as it is, each word would count what it counts in the base."""
    touched = [of_base(base, row, image_uri="x") for row in range(0, 60, 2)]
    reworded = replace(live, words=live.words.with_items({int(i.item_id[2:]): i for i in touched}))
    retriever = reworded._snapshot({}, base.reranker).retriever
    for query in ("red acme running shoe", "home", "leather boots boots", "i-17 pan", "blue nordly"):
        want_rows, want = base.retriever.lexical_index.search(query, 60)
        rows, scores = retriever._worded(query, 60, allowed=None)
        order, want_order = np.argsort(rows), np.argsort(want_rows)
        np.testing.assert_array_equal(rows[order], want_rows[want_order])
        np.testing.assert_allclose(scores[order], want[want_order], rtol=1e-5)


def test_a_snapshot_orders_words_as_an_index_over_the_same_items(live, apply, base):
    renamed = of_base(base, 8, title="green solo leather boot deluxe", brand="solo")
    after = apply(live, GIZMO, renamed, deletions=("i-20",))
    merged = ItemTable.from_items([after.items.item(row) for row in range(61) if row != 20])
    rebuilt = LexicalIndex.build(merged, base.stage.lexical)
    for query in ("solo leather boot", "deluxe", "pan"):
        ids = [merged.ids[row] for row in rebuilt.search(query, 60)[0].tolist()]
        rows, _ = after.bundle.retriever._worded(query, 60, allowed=None)
        assert {after.items.item(row).item_id for row in rows.tolist()} == set(ids)
        assert after.items.item(int(rows[0])).item_id == ids[0]


def test_every_distance_is_exact_whoever_answers(live, apply, base, encoder):
    after = apply(live, GIZMO, of_base(base, 8, title="green rake"), deletions=("i-20", "i-41"))
    table = ItemTable.from_items([after.items.item(row) for row in range(61)])
    vectors = encoder.encode(passages(table, base.stage.item_fields))
    queries = base.retriever.encoder.encode(["purple pan", "rake"])
    scores = queries @ vectors.T
    scores[:, [20, 41]] = -np.inf
    want = np.argsort(-scores, axis=1, kind="stable")
    retriever = after.bundle.retriever
    for k in (5, 200):
        hits = retriever._near(queries, k, exact=True, allowed=None)
        np.testing.assert_array_equal(hits.ids[:, :59], want[:, : min(k, 59)])
        np.testing.assert_allclose(hits.scores[:, :5], np.take_along_axis(scores, want, 1)[:, :5], atol=1e-5)
        assert (hits.ids[:, 59:] == -1).all()
    some = RowSet.of(np.array([8, 20, 30, 60]), 61)
    assert set(retriever._near(queries, 9, exact=True, allowed=some).ids[0].tolist()) - {-1} == {8, 30, 60}
    np.testing.assert_allclose(retriever.vectors_of(np.array([60, 3, 8])), vectors[[60, 3, 8]], atol=1e-5)


def test_rows_that_a_filter_allows_bound_every_channel(live, apply):
    after = apply(live, GIZMO, deletions=("i-20",))
    some = RowSet.of(np.array([20, 21, 22, 60]), 61)
    assert set(found(after, "purple gizmotron pan", allowed=some)) == {"i-21", "i-22", GIZMO.item_id}


def test_many_hidden_rows_are_passed_over_by_the_index_itself(live, apply, base, monkeypatch):
    monkeypatch.setattr("retrieval.live_retriever.FEW_HIDDEN", 2)
    after = apply(live, deletions=("i-01", "i-02", "i-03"))
    assert len(found(after, "red acme running shoe")) == 57
    assert set(found(after, "red acme running shoe")).isdisjoint({"i-01", "i-02", "i-03"})


def test_the_cross_encoder_reads_new_items_and_new_names(live, apply, base):
    renamed = of_base(base, 5, title="steel pan of purple", brand="kiri")
    after = apply(live, GIZMO, renamed, deletions=("i-06",))
    reranker = after.bundle.reranker
    texts = passages(ItemTable.from_items([GIZMO, renamed]), reranker.config.item_fields)
    want = [ids[: reranker.config.max_item_tokens] for ids in reranker.tokenizer.token_ids(texts)]
    np.testing.assert_array_equal(reranker.passage_tokens.of(60), want[0])
    np.testing.assert_array_equal(reranker.passage_tokens.of(5), want[1])
    assert reranker.passage_tokens.lengths(np.array([60, 5])).tolist() == [len(want[0]), len(want[1])]
    names = [reranker.name_of(item_id) for item_id in (GIZMO.item_id, "i-05", "i-06", "i-07")]
    assert names == ["zork purple gizmotron pan", "kiri steel pan of purple", None, base.reranker.name_of("i-07")]


def test_the_blend_knows_the_columns_of_new_items_and_no_behaviour(live, apply, base):
    deep = replace(GIZMO, category=("kitchen", "pan", "gizmotron", "purple"))
    after = apply(live, deep, of_base(base, 5, brand="ZORK"))
    history = [HistoryEvent(timestamp=NOON, type=EventType.CLICK, item_id=GIZMO.item_id, query=None)]
    candidates = after.bundle.retriever.retrieve("purple gizmotron pan", 61)
    features = after.bundle.reranker.blend.features("purple gizmotron pan", history, candidates)
    place = candidates.rows.tolist().index(60)
    named = dict(zip(FEATURES, features[place].tolist(), strict=True))
    assert (named["popularity"], named["price"], named["chosen_before"]) == (0, pytest.approx(np.log(5.0)), 1)
    assert np.isnan(named["click_rate"])
    assert (named["brand_affinity"], named["category_affinity"]) == (1, 1)
    place = candidates.rows.tolist().index(5)
    assert features[place, FEATURES.index("brand_affinity")] == 1
    reranked = after.bundle.reranker.rerank("purple gizmotron pan", history, candidates)
    assert sorted(reranked.order.tolist()) == list(range(61))
