"""What candidates are found by: a query, another item, or nothing but a category."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest

from corpus.columns import ItemColumns
from corpus.errors import UnknownItem
from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable
from indexer.bundle import Bundle
from retrieval.filtering.row_set import RowSet
from retrieval.ragged import Ragged
from server.stages.ranking import SearchTask
from server.stages.sources import open_source
from server.stages.wishes import Order, Spelling, Wishes

N = 60


@pytest.fixture(scope="module")
def related_bundle(bundle: Bundle) -> Bundle:
    """Item i-00 is related to i-33 by .8 and to i-59 by .2, and i-01 to i-50 by .4; popularity is set by hand."""
    related = Ragged.build(
        np.array([0, 0, 1]),
        np.array([33, 59, 50]),
        np.array([0.8, 0.2, 0.4], dtype=np.float32),
        n_keys=N,
        most=10,
    )
    popularity = np.zeros(N, dtype=np.float32)
    popularity[[10, 11, 12]] = np.expm1([2.0, 1.0, 0.5])
    return dataclasses.replace(
        bundle, behaviour=dataclasses.replace(bundle.behaviour, related=related, popularity=popularity)
    )


def task(**fields: object) -> SearchTask:
    return SearchTask(**{"query": "", "retrieval_depth": N, "rerank_depth": 0, **fields})  # type: ignore[arg-type]


def visited(*item_ids: str) -> list[HistoryEvent]:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    return [HistoryEvent(timestamp=now, type=EventType.CLICK, item_id=item_id) for item_id in item_ids]


def test_items_like_another_are_near_it_or_chosen_by_the_same_shoppers(related_bundle):
    found = open_source(related_bundle, task(similar_to="i-00"), ()).find(None)
    vectors = related_bundle.retriever.vectors_of(np.arange(N))
    want = vectors @ vectors[0] / 2
    want[33] += 0.4
    want[59] += 0.1
    order = np.argsort(-want[1:], kind="stable") + 1  # without the item itself
    assert found.rows.tolist() == order.tolist()
    np.testing.assert_allclose(found.scores, want[order], rtol=1e-5)
    np.testing.assert_allclose(found.dense, (vectors @ vectors[0])[order], rtol=1e-5)
    assert dict(zip(found.rows.tolist(), found.behaviour.tolist(), strict=True))[33] == pytest.approx(0.8)
    assert np.isnan(found.lexical).all()


def test_as_many_items_are_like_another_as_were_asked_for(related_bundle):
    found = open_source(related_bundle, task(similar_to="i-00", retrieval_depth=3), ()).find(None)
    assert len(found) == 3
    assert 0 not in found.rows


def test_a_related_item_that_is_not_allowed_is_not_found(related_bundle):
    source = open_source(related_bundle, task(similar_to="i-00"), ())
    allowed = RowSet.of(np.array([0, 5, 59]), N)
    assert sorted(source.find(allowed).rows.tolist()) == [5, 59]


def test_an_item_that_the_catalogue_lacks_has_no_like(related_bundle):
    with pytest.raises(UnknownItem, match="expected an item of the catalogue") as caught:
        open_source(related_bundle, task(similar_to="secret"), ())
    assert caught.value.field == "similar_to_item_id"
    assert "secret" not in str(caught.value)


def test_a_query_beside_an_item_searches_among_its_like(related_bundle):
    alike = open_source(related_bundle, task(similar_to="i-00", retrieval_depth=10), ()).find(None)
    found = open_source(related_bundle, task(similar_to="i-00", retrieval_depth=10, query="blue boot"), ()).find(None)
    assert sorted(found.rows) == sorted(alike.rows)
    query = related_bundle.retriever.encode("blue boot")
    np.testing.assert_allclose(found.dense, related_bundle.retriever.vectors_of(found.rows) @ query, rtol=1e-5)


def test_browsing_orders_by_popularity_and_then_by_rows(related_bundle):
    found = open_source(related_bundle, task(), ()).find(None)
    assert found.rows.tolist() == [10, 11, 12, *range(10), *range(13, 60)]
    np.testing.assert_allclose(found.scores[:4], [1, 0.5, 0.25, 0], rtol=1e-6)
    assert np.isnan(found.dense).all()


def test_what_goes_with_the_history_counts_as_much_as_popularity(related_bundle):
    found = open_source(related_bundle, task(), visited("i-00", "i-01", "i-00", "unknown")).find(None)
    # relatedness .8, .4 and .2: shares 1, .5 and .25; popularity 1, .5 and .25; halves of both
    score = dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
    assert [score[row] for row in (10, 33, 11, 50, 12, 59)] == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.125, 0.125])
    assert found.rows[:6].tolist() == [10, 33, 11, 50, 12, 59]


def test_a_history_that_is_related_to_nothing_leaves_popularity_alone(related_bundle):
    found = open_source(related_bundle, task(), visited("i-07")).find(None)
    assert found.scores[0] == 1.0


def test_browsing_stays_within_what_is_allowed(related_bundle):
    found = open_source(related_bundle, task(retrieval_depth=2), ()).find(RowSet.of(np.array([3, 11, 12]), N))
    assert found.rows.tolist() == [11, 12]
    assert found.scores[0] == 1.0  # of the most popular among them
    for k in (1, 3, 4, 59, 60, 61):
        every = open_source(related_bundle, task(retrieval_depth=k), ()).find(None)
        assert every.rows.tolist() == [10, 11, 12, *range(10), *range(13, 60)][:k]


@pytest.mark.parametrize(("order", "rows"), [(Order.PRICE, {0, 1, 2}), (Order.PRICE_DESC, {57, 58, 59})])
def test_browsing_in_an_order_looks_at_the_whole_category(related_bundle, order, rows):
    found = open_source(related_bundle, task(retrieval_depth=3, wishes=Wishes(order=order)), ()).find(None)
    assert set(found.rows.tolist()) == rows
    assert (np.diff(found.scores) <= 0).all()


def test_equally_popular_items_come_newest_first(bundle, tiny_items):
    items = [dataclasses.replace(tiny_items.item(row), updated_at=None) for row in range(N)]
    items[40] = dataclasses.replace(items[40], updated_at=datetime(2026, 1, 1, tzinfo=UTC))
    items[20] = dataclasses.replace(items[20], updated_at=datetime(2025, 1, 1, tzinfo=UTC))
    behaviour = dataclasses.replace(bundle.behaviour, popularity=np.zeros(N, dtype=np.float32))
    dated = dataclasses.replace(bundle, columns=ItemColumns.of(ItemTable.from_items(items)), behaviour=behaviour)
    found = open_source(dated, task(), ()).find(None)
    assert found.rows[:4].tolist() == [40, 20, 0, 1]


def test_words_are_looked_up_corrected_unless_that_is_not_wanted(bundle):
    def found(spelling: Spelling) -> np.ndarray:
        return open_source(bundle, task(query="sandalz", spelling=spelling), ()).find(None).lexical

    assert not np.isnan(found(Spelling.WORDS)).all()
    for spelling in (Spelling.OFF, Spelling.SUGGEST, Spelling.AUTO):
        assert np.isnan(found(spelling)).all()
