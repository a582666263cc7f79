import numpy as np
import pytest

from corpus.errors import UnknownItem
from corpus.items import ItemTable


def test_some_rows_and_some_ids_make_tables_of_their_own(tiny_items: ItemTable):
    taken = tiny_items.take(np.array([17, 3, 17]))
    assert taken.ids == ["i-17", "i-03", "i-17"]
    assert taken.item(1) == tiny_items.item(3)
    assert tiny_items.take(range(58, 60)).ids == ["i-58", "i-59"]
    named = tiny_items.named(["i-30", "unknown", "i-02"])
    assert (named.ids, named.row_of("i-30"), named.row_of("i-00")) == (["i-02", "i-30"], 1, None)


def test_a_table_that_nobody_asks_for_ids_makes_no_look_up(tiny_items: ItemTable):
    table = ItemTable(tiny_items.frame)
    assert (len(table), table.item(5).item_id) == (60, "i-05")
    with pytest.raises(UnknownItem, match=r"\[0, 60\)"):
        table.item(60)
    assert not {"ids", "_row_of"} & set(vars(table))
    assert table.row_of("i-17") == 17
    assert {"ids", "_row_of"} <= set(vars(table))
