import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.errors import ArtefactError
from corpus.items import Item, ItemTable
from corpus.prepared import EXAMPLE_SCHEMA, EXPOSURE_SCHEMA, FORMAT_VERSION, SPLITS, Pairs, Prepared


def search(number: int, split: str, query: str, user: str | None, *labels: tuple[int, float]) -> dict[str, object]:
    return {
        "query_id": f"q-{number}",
        "query": query,
        "user_id": user,
        "timestamp": None if user == "judge" else datetime(2026, 1, number, 12, tzinfo=UTC),
        "split": split,
        "labels": [{"row": row, "weight": weight, "grade": 3 * weight} for row, weight in labels],
        "history": [],
    }


SEARCHES = (
    search(1, "train", "pan", "ada", (4, 1.0), (5, 0.25)),
    search(2, "train", "hose", None, (7, 0.5)),
    search(3, "train", "rake", "bob"),  # led to nothing
    search(4, "train", "pan", "bob", (5, 1.0), (6, 0.0)),  # the second was judged irrelevant
    search(5, "valid", "shoe", "ada", (1, 1.0)),
    search(6, "test", "pan", "cyd", (2, 1.0)),
)


@pytest.fixture
def write(tiny_items: ItemTable, tmp_path: Path) -> Callable[..., Prepared]:
    def write(*searches: dict[str, object]) -> Prepared:
        tiny_items.write(tmp_path / "items.parquet")
        pl.DataFrame(list(searches), schema=EXAMPLE_SCHEMA).write_parquet(tmp_path / "examples.parquet")
        manifest = {"format_version": FORMAT_VERSION, "fingerprint": "f"}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return Prepared(tmp_path)

    return write


def listed(pairs: Pairs) -> list[tuple[str, int, float]]:
    return [
        (pairs.queries[number], row, weight)
        for number, row, weight in zip(pairs.query.tolist(), pairs.row.tolist(), pairs.weight.tolist(), strict=True)
    ]


def test_pairs_are_the_labels_of_weight_above_nothing(write):
    pairs = write(*SEARCHES).pairs("train")
    assert listed(pairs) == [("pan", 4, 1.0), ("pan", 5, 0.25), ("hose", 7, 0.5), ("pan", 5, 1.0)]
    assert pairs.queries == ["pan", "hose"]
    assert (pairs.query.dtype, pairs.row.dtype, pairs.weight.dtype) == (np.int64, np.int64, np.float32)


def test_pairs_say_whose_and_when_without_a_name(write):
    pairs = write(*SEARCHES).pairs("train")
    ada, again, nobody, bob = pairs.shopper.tolist()
    assert ada == again >= 0
    assert nobody == -1
    assert bob >= 0 and bob != ada
    assert pairs.shopper.dtype == np.int64
    noon = np.array(["2026-01-01T12", "2026-01-01T12", "2026-01-02T12", "2026-01-04T12"], dtype="datetime64[us]")
    np.testing.assert_array_equal(pairs.timestamp, noon)
    assert pairs.timestamp.dtype == noon.dtype


def test_one_shopper_is_the_same_in_all_splits(write):
    pairs = write(*SEARCHES).pairs("train", "valid", "test")
    assert listed(pairs)[-2:] == [("shoe", 1, 1.0), ("pan", 2, 1.0)]
    assert pairs.queries == ["pan", "hose", "shoe"]
    ada, bob, ada_later, cyd = pairs.shopper[[0, 3, 4, 5]].tolist()
    assert ada == ada_later
    assert len({ada, bob, cyd}) == 3


def test_before_a_split_lies_all_that_may_be_known_when_it_is_answered(write):
    prepared = write(*SEARCHES)
    assert SPLITS == ("train", "valid", "test")
    assert listed(prepared.pairs_before("test")) == listed(prepared.pairs("train", "valid"))
    assert listed(prepared.pairs_before("valid")) == listed(prepared.pairs("train"))
    assert max(prepared.pairs_before("test").timestamp) < np.datetime64("2026-01-06")


def test_before_the_training_split_lies_nothing(write):
    pairs = write(*SEARCHES).pairs_before("train")
    assert (pairs.queries, listed(pairs)) == ([], [])
    assert (pairs.query.dtype, pairs.row.dtype, pairs.shopper.dtype) == (np.int64, np.int64, np.int64)
    assert pairs.weight.dtype == np.float32
    assert pairs.timestamp.dtype == np.dtype("datetime64[us]")


def test_judged_queries_have_no_time(write):
    pairs = write(search(1, "train", "pan", "judge", (4, 1.0)), search(2, "train", "pan", "ada", (4, 1.0))).pairs(
        "train"
    )
    assert np.isnat(pairs.timestamp).tolist() == [True, False]


def test_data_without_any_shopper_or_time_are_read(write):
    searches = [search(n, "train", "pan", None, (n, 1.0)) | {"timestamp": None} for n in (1, 2)]
    pairs = write(*searches).pairs("train")
    assert pairs.shopper.tolist() == [-1, -1]
    assert np.isnat(pairs.timestamp).all()
    assert pairs.timestamp.dtype == np.dtype("datetime64[us]")


def test_pairs_agree_with_the_examples(tiny_prepared: Prepared):
    for split in SPLITS:
        want = [
            (example.query, label.row, pytest.approx(label.weight))
            for example in tiny_prepared.examples(split)
            for label in example.labels
        ]
        assert listed(tiny_prepared.pairs(split)) == want


def test_a_folder_that_was_not_prepared_is_refused(tmp_path: Path):
    with pytest.raises(ArtefactError, match="tandem prepare"):
        Prepared(tmp_path)


def test_exposure_is_summed_over_the_splits_asked_for(write_examples, tiny_items, tmp_path):
    prepared = write_examples(tmp_path / "data", tiny_items)
    rows = [("train", 7, 10, 3, 2.5), ("test", 7, 1, 1, 0.25), ("valid", 2, 4, 0, 1.5), ("valid", 7, 5, 1, 0.5)]
    table = pl.DataFrame(rows, schema=EXPOSURE_SCHEMA, orient="row")
    table.write_parquet(prepared.folder / "exposure.parquet")

    def read(exposure):
        columns = (exposure.row, exposure.impressions, exposure.clicks, exposure.expected_clicks)
        assert [str(column.dtype) for column in columns] == ["int64", "float32", "float32", "float32"]
        return list(zip(*(column.tolist() for column in columns), strict=True))

    assert read(prepared.exposure("train")) == [(7, 10.0, 3.0, 2.5)]
    assert read(prepared.exposure("train", "valid", "test")) == [(2, 4.0, 0.0, 1.5), (7, 16.0, 5.0, 3.25)]
    assert read(prepared.exposure_before("test")) == [(2, 4.0, 0.0, 1.5), (7, 15.0, 4.0, 3.0)]
    assert read(prepared.exposure_before("valid")) == read(prepared.exposure("train"))
    assert read(prepared.exposure_before("train")) == []


def test_a_folder_of_another_format_is_refused_with_the_remedy(write_examples, tiny_items, tmp_path):
    prepared = write_examples(tmp_path / "data", tiny_items)
    path = prepared.folder / "manifest.json"
    path.write_text(json.dumps({**prepared.manifest, "format_version": 1}), encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"format 2 .*got 1; run `tandem prepare` again"):
        Prepared(prepared.folder)


def test_the_same_data_has_the_rows_of_another_catalogue(write, tiny_items):
    prepared = write(*SEARCHES)
    # without i-05, i-04 last, and an item that the data never saw
    kept = [tiny_items.item(row) for row in (0, 1, 2, 3, 6, 7)]
    other = ItemTable.from_items([*kept, Item(item_id="new", title="new"), tiny_items.item(4)])
    moved = prepared.under(other)
    assert [[(label.row, label.weight) for label in each.labels] for each in moved.examples("train")] == [
        [(7, 1.0)],
        [(5, 0.5)],
        [],
        [(4, 0.0)],
    ]
    pairs = moved.pairs("train")
    assert [(pairs.queries[q], row) for q, row in zip(pairs.query.tolist(), pairs.row.tolist(), strict=True)] == [
        ("pan", 7),
        ("hose", 5),
    ]
    assert moved.items is other
    assert moved.fingerprint == prepared.fingerprint
    back = moved.under(tiny_items)
    assert back.examples("train") == prepared.examples("train")
    np.testing.assert_array_equal(back.pairs("train").row, prepared.pairs("train").row)
