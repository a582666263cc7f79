import json
import shutil

import pytest

from benchmarks.thinning import Sizes, thin
from corpus.prepared import Prepared

SIZES = Sizes(train=12, valid=5, test=4, items=30)


@pytest.fixture
def thinned(tiny_prepared, tmp_path):
    shutil.copytree(tiny_prepared.folder, tmp_path / "data")
    thin(tmp_path / "data", SIZES, seed=3)
    return Prepared(tmp_path / "data")


def test_so_many_searches_of_each_split_are_kept_unchanged(thinned, tiny_prepared):
    for split, n in (("train", 12), ("valid", 5), ("test", 4)):
        before = {example.query_id: example for example in tiny_prepared.examples(split)}
        kept = thinned.examples(split)
        assert len(kept) == n
        for example in kept:
            old = before[example.query_id]
            assert (example.query, example.timestamp, example.history) == (old.query, old.timestamp, old.history)
            assert [(label.weight, label.grade) for label in example.labels] == [
                (label.weight, label.grade) for label in old.labels
            ]
            # rows have moved; the items behind them have not
            assert [thinned.items.ids[label.row] for label in example.labels] == [
                tiny_prepared.items.ids[label.row] for label in old.labels
            ]


def test_items_are_filled_up_in_the_order_of_the_catalogue(thinned, tiny_prepared):
    assert len(thinned.items) == 30
    assert thinned.items.ids == [item_id for item_id in tiny_prepared.items.ids if item_id in set(thinned.items.ids)]


def test_labelled_items_stay_even_if_they_are_more_than_asked_for(tiny_prepared, tmp_path):
    shutil.copytree(tiny_prepared.folder, tmp_path / "data")
    thin(tmp_path / "data", Sizes(train=40, valid=5, test=4, items=1), seed=3)
    prepared = Prepared(tmp_path / "data")
    labelled = {
        label.row for split in ("train", "valid", "test") for e in prepared.examples(split) for label in e.labels
    }
    assert labelled == set(range(len(prepared.items)))


def test_a_store_smaller_than_asked_for_stays_whole(tiny_prepared, tmp_path):
    shutil.copytree(tiny_prepared.folder, tmp_path / "data")
    thin(tmp_path / "data", Sizes(train=999, valid=999, test=999, items=999), seed=3)
    prepared = Prepared(tmp_path / "data")
    assert prepared.items.ids == tiny_prepared.items.ids
    assert prepared.examples("test") == tiny_prepared.examples("test")


def test_the_same_seed_keeps_the_same_and_the_fingerprint_says_so(thinned, tiny_prepared, tmp_path):
    found = {}
    for name, seed in (("again", 3), ("other", 4)):
        shutil.copytree(tiny_prepared.folder, tmp_path / name)
        thin(tmp_path / name, SIZES, seed=seed)
        found[name] = Prepared(tmp_path / name)
    assert found["again"].examples("train") == thinned.examples("train")
    assert found["again"].items.ids == thinned.items.ids
    assert found["other"].items.ids != thinned.items.ids
    prints = [tiny_prepared.fingerprint, thinned.fingerprint, found["other"].fingerprint]
    assert len(set(prints)) == 3
    assert found["again"].fingerprint == thinned.fingerprint
    manifest = json.loads((thinned.folder / "manifest.json").read_text())
    assert (manifest["counts"]["items"], manifest["counts"]["examples"]) == (30, 21)


def test_exposure_stays_with_its_items(thinned, tiny_prepared):
    def by_item(prepared):
        found = prepared.exposure_before("test")
        return {prepared.items.ids[row]: clicks for row, clicks in zip(found.row, found.clicks.tolist(), strict=True)}

    before, after = by_item(tiny_prepared), by_item(thinned)
    assert after == {item_id: before[item_id] for item_id in thinned.items.ids if item_id in before}
    assert len(set(after.values())) > 1
