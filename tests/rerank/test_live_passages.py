import numpy as np

from corpus.items import Item, ItemTable
from corpus.live_items import LiveItems
from rerank.history import item_names
from rerank.inputs import PassageTokens
from rerank.live_passages import LivePassages, live_names


def test_changed_passages_stand_before_those_that_were_built():
    base = PassageTokens(np.array([1, 2, 3], dtype=np.int32), np.array([0, 1, 3]))
    live = LivePassages(base, {1: np.array([9], dtype=np.int32), 2: np.array([7, 8], dtype=np.int32)}, 3)
    assert [live.of(row).tolist() for row in range(3)] == [[1], [9], [7, 8]]
    assert (len(live), live.lengths(np.array([2, 0])).tolist()) == (3, [2, 1])


def test_names_follow_changes_and_gone_items_have_none():
    table = ItemTable.from_items([Item(item_id="a", title="pan", brand="acme"), Item(item_id="b", title="mug")])
    changed = {
        "b": Item(item_id="b", title="cup", brand="solo"),
        "c": Item(item_id="c", title="Solo rake", brand="solo"),
    }
    name_of = live_names(LiveItems(table).with_changes(changed, ()), item_names(table))
    assert [name_of(each) for each in "abcd"] == ["acme pan", "solo cup", "Solo rake", None]
    without = LiveItems(table).with_changes(changed, ()).with_changes({}, ["a", "c"])
    gone = live_names(without, item_names(table))
    assert [gone(each) for each in "abc"] == [None, "solo cup", None]
