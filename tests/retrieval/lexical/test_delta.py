import math

import numpy as np
import pytest

from corpus.items import Item, ItemTable
from retrieval.config import LexicalConfig
from retrieval.filtering.row_set import RowSet
from retrieval.lexical.delta import LexicalDelta
from retrieval.lexical.lexical_index import LexicalIndex

CONFIG = LexicalConfig(title=2.0, description=0.0, brand=0.0, category=0.0, attributes=0.0, identifier=3.0)


@pytest.fixture
def empty() -> LexicalDelta:
    titles = ["red pan", "red steel pan", "blue mug", "rake", "hose"]  # 9 words of 5 titles: 1.8 on average
    items = ItemTable.from_items([Item(item_id=f"i-{row}", title=title) for row, title in enumerate(titles)])
    return LexicalDelta(LexicalIndex.build(items, CONFIG), items)


def item(title: str, item_id: str = "n") -> Item:
    return Item(item_id=item_id, title=title)


def test_scores_are_bm25_with_the_statistics_of_the_base(empty):
    rows, scores = empty.with_items({5: item("pan pan rake")}).search("red pan", 5)
    # two of five titles hold "pan"; three words where 1.8 are usual
    idf = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))
    saturation = 2.2 * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 1.8))
    assert (rows.tolist(), scores[0]) == ([5], pytest.approx(2.0 * idf * saturation, rel=1e-6))


def test_a_word_that_the_base_lacks_counts_by_the_delta(empty):
    delta = empty.with_items({5: item("zork pan"), 6: item("zork", "m")})
    idf = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))
    rows, scores = delta.search("zork", 5)
    want = [2.0 * idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * n / 1.8)) for n in (1, 2)]
    assert rows.tolist() == [6, 5]
    np.testing.assert_allclose(scores, want, rtol=1e-6)


def test_identifiers_count_by_their_words_and_rarity(empty):
    delta = empty.with_items({5: item("drill WH-1000XM4")})
    rows, scores = delta.search("wh1000xm4", 5)
    idf = math.log(1 + (5 - 1 + 0.5) / (1 + 0.5))
    assert (rows.tolist(), scores[0]) == ([5], pytest.approx(3.0 * idf * 1, rel=1e-5))
    assert (delta.n_with("wh1000xm4"), delta.n_with("wh1000xm5")) == (1, 0)


def test_replacing_and_dropping_leaves_no_word_behind(empty):
    first = empty.with_items({5: item("zork pan"), 2: item("green mug", "i-2")})
    second = first.with_items({5: item("gizmo rake")}, without=[2])
    assert second.search("zork green pan", 5)[0].tolist() == []
    assert second.search("gizmo", 5)[0].tolist() == [5]
    assert list(second.rows) == [5]
    assert [second.knows(word) for word in ("zork", "green", "gizmo", "gizmos")] == [False, False, True, True]
    # what was there before is as it was
    assert first.search("zork", 5)[0].tolist() == [5]
    assert first.knows("green")
    assert not second.with_items({}, without=[5])._postings


def test_only_allowed_rows_come_and_at_most_k(empty):
    delta = empty.with_items({row: item(f"zork {'x ' * row}", f"n-{row}") for row in (5, 6, 7)})
    assert delta.search("zork", 2)[0].tolist() == [5, 6]
    assert delta.search("zork", 5, allowed=RowSet.of(np.array([7, 6]), 8))[0].tolist() == [6, 7]
