import numpy as np

from corpus.items import Item, ItemTable
from rerank.item_columns import ItemColumns


def item(item_id: str, **fields: object) -> Item:
    return Item(item_id=item_id, title="t", **fields)


def test_columns_after_a_change_are_those_of_a_catalogue_that_always_was_so():
    items = [
        item("a", brand="Acme", category=("x", "y"), price=np.e, in_stock=True),
        item("b", brand="solo", category=("x",), price=0.0),
        item("c"),
    ]
    before = ItemColumns.of(ItemTable.from_items(items))
    replacing = {
        1: item("b", brand="ACME", category=("x", "y", "z"), price=1.0, in_stock=False),
        3: item("d", brand="new"),
    }
    after = before.with_changes(replacing, n_items=4)
    want = ItemColumns.of(ItemTable.from_items([items[0], replacing[1], items[2], replacing[3]]))
    assert after.brands.tolist() == [0, 0, -1, 2]  # numbers differ from a new catalogue's, equality does not
    assert after.paths.tolist() == [[0, 1, -1], [0, 1, 2], [-1, -1, -1], [-1, -1, -1]] == want.paths.tolist()
    np.testing.assert_array_equal(after.prices, np.array([1, 0, np.nan, np.nan], dtype=np.float32))
    np.testing.assert_array_equal(after.stock, np.array([1, 0, np.nan, np.nan], dtype=np.float32))
    # what was there before is as it was
    assert (before.brands.tolist(), before.paths.shape) == ([0, 1, -1], (3, 2))
    assert np.isnan(before.prices[1])
    assert before.with_changes({}, n_items=3).paths.tolist() == before.paths.tolist()
