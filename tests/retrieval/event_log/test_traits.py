from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.items import Item, ItemTable
from retrieval.event_log import traits
from retrieval.event_log.traits import BRAND, CATEGORY, FIRST_ATTRIBUTE, TITLE, Traits, trait_hash, words

SOFA = Item(item_id="a", title="Blue Settee, blue", brand="Acme", category=("Home", "Sofas"))
LAMP = Item(item_id="b", title="Desk lamp", brand="ACME", attributes={"Colour": ("Red", "Blue", "red")})
CABLE = Item(item_id="c", title="Cable", category=("Home",), attributes={"colour": ("blue",), "length": ("2 m",)})
POPULARITY = np.array([1, 3, 0], dtype=np.float32)  # and one more for each: 2, 4 and 1


@pytest.fixture
def table() -> Traits:
    return Traits.build(ItemTable.from_items([SOFA, LAMP, CABLE]), POPULARITY)


def found(table: Traits, *rows: int) -> dict[tuple[int, int], float]:
    """By position and hash: what the trait counts."""
    position, number, share = table.entries(np.array(rows, dtype=np.int64))
    assert (np.diff(position) >= 0).all()
    known = zip(position.tolist(), table.hashes[number].tolist(), share.tolist(), strict=True)
    return {(place, text): round(counted, 6) for place, text, counted in known}


def colour(value: str) -> int:
    return trait_hash(FIRST_ATTRIBUTE, "colour", value)


def test_an_item_has_title_words_category_brand_and_values(table: Traits):
    assert found(table, 0) == {
        (0, trait_hash(TITLE, "", "blue")): 1,
        (0, trait_hash(TITLE, "", "settee")): 1,
        (0, trait_hash(CATEGORY, "", "home > sofas")): 1,
        (0, trait_hash(BRAND, "", "acme")): 1,
    }


def test_values_of_one_attribute_share_what_it_counts(table: Traits):
    got = found(table, 2, 1)
    assert got[0, colour("blue")] == 1
    assert (got[1, colour("blue")], got[1, colour("red")]) == (0.5, 0.5)


def test_every_trait_is_of_one_kind(table: Traits):
    kind_of = dict(zip(table.hashes.tolist(), table.kinds.tolist(), strict=True))
    assert kind_of[trait_hash(TITLE, "", "blue")] == TITLE
    assert kind_of[trait_hash(BRAND, "", "acme")] == BRAND
    # colour is told more often than length
    assert kind_of[colour("red")] == kind_of[colour("blue")] == FIRST_ATTRIBUTE
    assert kind_of[trait_hash(FIRST_ATTRIBUTE, "length", "2 m")] == FIRST_ATTRIBUTE + 1
    assert table.n_kinds == FIRST_ATTRIBUTE + 2


def test_what_is_usual_is_a_share_of_the_choices_whose_trait_is_known(table: Traits):
    usual = dict(zip(table.hashes.tolist(), table.usual.tolist(), strict=True))
    assert usual[trait_hash(TITLE, "", "blue")] == pytest.approx(2 / 7)
    assert usual[trait_hash(TITLE, "", "lamp")] == pytest.approx(4 / 7)
    assert usual[trait_hash(BRAND, "", "acme")] == 1
    assert usual[trait_hash(CATEGORY, "", "home")] == pytest.approx(1 / 3)
    assert usual[colour("blue")] == pytest.approx((4 / 2 + 1) / 5)


def test_rare_attributes_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(traits, "MAX_ATTRIBUTES", 1)
    table = Traits.build(ItemTable.from_items([SOFA, LAMP, CABLE]), POPULARITY)
    assert colour("blue") in table.hashes
    assert trait_hash(FIRST_ATTRIBUTE, "length", "2 m") not in table.hashes


def test_changed_and_new_items_have_what_is_known_of_them_now(table: Traits):
    moved = Item(item_id="a", title="Red settee", brand="Kiri", category=("Home",))
    new = Item(item_id="d", title="Unheard lamp", attributes={"colour": ("Blue", "green"), "depth": ("1",)})
    after = table.extended(5).with_changes({0: moved}).with_changes({3: new})
    got = found(after, 3, 0, 2)
    assert {key: value for key, value in got.items() if key[0] < 2} == {
        (0, trait_hash(TITLE, "", "lamp")): 1,
        (0, colour("blue")): 0.5,
        (1, trait_hash(TITLE, "", "settee")): 1,
        (1, trait_hash(CATEGORY, "", "home")): 1,
    }
    assert {key: value for key, value in got.items() if key[0] == 2} == {
        (2, text): counted for (_, text), counted in found(table, 2).items()
    }
    assert found(after, 4) == {}  # a place that nobody has
    assert found(table, 0)[0, trait_hash(BRAND, "", "acme")] == 1  # as it was


def test_words_are_folded_once_each_and_cjk_in_pairs():
    assert words("USB-C cable, CABLE 2m") == ["usb", "c", "cable", "2m"]
    assert words("手机壳") == ["手机", "机壳"]


def test_an_empty_catalogue_has_no_traits():
    table = Traits.build(ItemTable.from_items([]), np.empty(0, dtype=np.float32))
    assert len(table.hashes) == len(table.of_items) == 0
    after = table.extended(1).with_changes({0: SOFA})
    assert found(after, 0) == {}


def test_traits_survive_the_disk(table: Traits, tmp_path: Path):
    table.save(tmp_path)
    assert found(Traits.load(tmp_path, n_items=3), 0, 1, 2) == found(table, 0, 1, 2)


@pytest.mark.parametrize("name", ["trait_hashes.npy", "trait_kinds.npy", "trait_usual.npy", "traits_rows.npy"])
@pytest.mark.parametrize("change", ["missing", "negative", "longer", "other type"])
def test_broken_files_are_refused(table: Traits, tmp_path: Path, name: str, change: str):
    table.save(tmp_path)
    array = np.load(tmp_path / name)
    (tmp_path / name).unlink()
    broken = {
        "negative": array[::-1].copy() if name == "trait_hashes.npy" else -1 - array,
        "longer": np.append(array, array[-1:]),
        "other type": array.astype(np.int16),
    }
    if change != "missing":
        np.save(tmp_path / name, broken[change])
    with pytest.raises(ArtefactError, match="build the bundle again"):
        Traits.load(tmp_path, n_items=3)


def test_traits_of_another_catalogue_are_refused(table: Traits, tmp_path: Path):
    table.save(tmp_path)
    with pytest.raises(ArtefactError, match="4 items"):
        Traits.load(tmp_path, n_items=4)
