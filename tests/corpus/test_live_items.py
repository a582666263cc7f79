from datetime import UTC, datetime, timedelta

import pytest

from corpus.catalogue import clean_items
from corpus.errors import UnknownItem
from corpus.items import Item, ItemTable
from corpus.live_items import LiveItems, merge_changes
from corpus.live_log import Change

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def item(item_id: str, title: str = "a title", **fields: object) -> Item:
    return Item(item_id=item_id, title=title, **fields)


@pytest.fixture
def base() -> ItemTable:
    return ItemTable.from_items([item("a"), item("b", category=("x", "y")), item("c", updated_at=NOON)])


def upsert(*items: Item) -> dict[str, Item]:
    return {each.item_id: each for each in items}


def test_an_updated_item_keeps_its_row_and_a_new_one_gets_the_next(base):
    before = LiveItems(base)
    after = before.with_changes(upsert(item("d"), item("b", "new b"), item("e")), ())
    assert [after.row_of(each) for each in "abcde"] == [0, 1, 2, 3, 4]
    assert (len(after), after.item(1).title, after.item(0)) == (5, "new b", base.item(0))
    assert after.ids == ["a", "b", "c", "d", "e"]
    assert after.column("title") == ["a title", "new b", "a title", "a title", "a title"]
    assert after.titles([4, 1]) == ["a title", "new b"]
    # what was there before is as it was
    assert (len(before), before.row_of("d"), before.item(1).category) == (3, None, ("x", "y"))
    with pytest.raises(UnknownItem, match=r"\[0, 5\), got 5"):
        after.item(5)


def test_a_gone_item_is_found_by_no_id_and_comes_back_to_its_row(base):
    gone = LiveItems(base).with_changes(upsert(item("d")), ()).with_changes({}, ["b", "d", "nobody"])
    assert (gone.row_of("b"), gone.row_of("d"), gone.gone) == (None, None, {1, 3})
    assert (len(gone), gone.item(3).item_id) == (4, "d")  # an older answer may still show it
    back = gone.with_changes(upsert(item("d", "again"), item("f")), ())
    assert (back.row_of("d"), back.row_of("f"), back.gone) == (3, 4, {1})


def change(sequence: int, *upserts: Item, deletions: tuple[str, ...] = (), time: datetime = NOON) -> Change:
    return Change(sequence=sequence, time=time, upserts=upserts, deletions=deletions)


def titles(table: ItemTable) -> dict[str, str]:
    return dict(zip(table.ids, table.column("title"), strict=True))


def test_merging_keeps_order_puts_new_items_behind_and_takes_gone_ones_out(base):
    merged = merge_changes(
        base,
        [
            change(1, item("z", "first"), item("b", "new b")),
            change(2, item("y"), deletions=("a",)),
            change(3, item("z", "second"), deletions=("y",)),
        ],
    )
    assert titles(merged) == {"b": "new b", "c": "a title", "z": "second"}
    assert merged.item(0) == item("b", "new b")
    assert merge_changes(base, []) is base


@pytest.mark.parametrize(
    ("live", "time", "kept"),
    [
        (item("c", "live"), NOON, "live"),  # as late as the export's
        (item("c", "live"), NOON - timedelta(seconds=1), "a title"),
        (item("c", "live", updated_at=NOON - timedelta(days=1)), NOON + timedelta(days=1), "a title"),
        (item("c", "live", updated_at=NOON + timedelta(days=1)), NOON - timedelta(days=1), "live"),
    ],
)
def test_of_an_exported_and_a_live_item_the_later_counts(base, live, time, kept):
    assert titles(merge_changes(base, [change(1, live, time=time)]))["c"] == kept


def test_an_export_after_a_deletion_brings_the_item_back(base):
    early, late = NOON - timedelta(hours=1), NOON + timedelta(hours=1)
    assert "c" in merge_changes(base, [change(1, deletions=("c",), time=early)]).ids
    assert "c" not in merge_changes(base, [change(1, deletions=("c",), time=late)]).ids
    assert "a" not in merge_changes(base, [change(1, deletions=("a",), time=early)]).ids  # it does not say when


def test_live_items_are_cleaned_as_the_catalogue_is():
    dirty = item(
        " a ",
        "Caf&eacute;  <b>cup",
        description="<p>fine</p>",
        brand="N/A",
        category=("Home &amp; Garden", ""),
        attributes={"colour": ("red", "red", "null")},
        price=3.0,
        updated_at=NOON,
    )
    assert clean_items([dirty]) == [
        item(
            "a",
            "Café <b>cup",
            description="fine",
            category=("Home & Garden",),
            attributes={"colour": ("red",)},
            price=3.0,
            updated_at=NOON,
        )
    ]
