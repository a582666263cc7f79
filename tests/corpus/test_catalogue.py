from datetime import UTC, datetime

import polars as pl
import pytest

from corpus.catalogue import read_catalogue
from corpus.errors import BadSource, InputError
from corpus.items import ItemTable
from corpus.rejects import RejectLog
from corpus.settings import DataConfig


@pytest.fixture
def read(store):
    def run(name="items.jsonl", **settings):
        config = DataConfig(items=f"source/{name}", **settings)
        with RejectLog(store.root / "rejects.jsonl") as rejects:
            return ItemTable(read_catalogue(config, store.root, rejects)), rejects.counts

    return run


def test_every_field_is_cleaned(store, read):
    store.rows(
        "items.jsonl",
        [
            {
                "item_id": 17,
                "title": " Salt &amp;  Pepper™ ",
                "description": "<p>Fine\x00 &amp; dandy</p>",
                "brand": "N/A",
                "category": "Food > Spices",
                "price": "4,50 €",
                "currency": "EUR",
                "in_stock": "yes",
                "attributes": {"size": ["S"]},
                "image_uri": "https://example.org/a?b=1&amp;c=2",
                "updated_at": "2024-01-01",
            }
        ],
    )
    table, _ = read()
    item = table.item(0)
    assert (item.item_id, item.title, item.description, item.brand) == ("17", "Salt & PepperTM", "Fine & dandy", None)
    assert item.category == ("Food", "Spices")
    assert (item.price, item.currency, item.in_stock) == (4.5, "EUR", True)
    assert item.attributes == {"size": ("S",)}
    assert item.image_uri == "https://example.org/a?b=1&amp;c=2"  # an address is no text
    assert item.updated_at == datetime(2024, 1, 1, tzinfo=UTC)


def test_bad_rows_are_refused_with_their_reason(store, read):
    good = [{"item_id": f"i{n}", "title": "None"} for n in range(4)]  # a title may be any word
    bad = [
        {"item_id": "", "title": "t"},
        {"item_id": "x" * 129, "title": "t"},
        {"item_id": "a\u0007b", "title": "t"},
        {"item_id": "z", "title": "\u200b"},
    ]
    store.rows("items.jsonl", good + bad)
    table, counts = read(max_reject_share=0.5)
    assert len(table) == 4
    assert counts == {
        "items: item_id missing": 1,
        "items: item_id is not 1-128 printable characters": 2,
        "items: title missing": 1,
    }


def test_of_duplicates_the_one_updated_last_wins_then_the_one_read_last(store, read):
    rows = [
        {"item_id": "a", "title": "newest", "updated_at": "2024-03-01"},
        {"item_id": "b", "title": "first"},
        {"item_id": "a", "title": "older", "updated_at": "2024-01-01"},
        {"item_id": "b", "title": "second"},
        {"item_id": "a", "title": "undated"},
    ]
    store.rows("items.jsonl", rows)
    table, counts = read(max_reject_share=0.0)  # duplicates are no faults
    assert list(zip(table.ids, table.column("title"), strict=True)) == [("a", "newest"), ("b", "second")]
    assert counts == {"items: duplicate": 3}


def test_an_empty_catalogue_is_an_error(store, read):
    (store.source / "items.csv").write_text("item_id,title\n")
    with pytest.raises(BadSource, match=r"expected items in source/items.csv, got 0 rows"):
        read("items.csv")
    (store.source / "items.jsonl").write_text("")
    with pytest.raises(BadSource, match="got 0 rows"):
        read()


def test_too_many_bad_rows_stop_the_run_and_are_explained(store, read):
    store.rows("items.jsonl", [{"item_id": "a", "title": "t"}, {"item_id": "b"}, {"item_id": "c"}])
    with pytest.raises(InputError, match=r"at most 5\.0%.*got 2 of 3: 2 x title missing \(first at .*items.jsonl:2\)"):
        read()


def test_a_prepared_table_reads_back_as_it_was(store, read):
    store.rows("items.jsonl", [{"item_id": "a", "title": "t", "category": ["x", "y"], "attributes": {"c": ["d"]}}])
    table, _ = read()
    table.write(store.source / "again.parquet")
    again, _ = read("again.parquet")
    assert again.frame.equals(table.frame)
    assert again.frame.schema == table.frame.schema
    assert again.frame["attributes"].dtype == pl.List(pl.Struct({"name": pl.String, "values": pl.List(pl.String)}))
