from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.items import Item, ItemTable
from retrieval.event_log import word_log
from retrieval.event_log.query_log import query_hash
from retrieval.event_log.traits import BRAND, CATEGORY, FIRST_ATTRIBUTE, TITLE, Traits, trait_hash
from retrieval.event_log.word_log import WordLog

ITEMS = ItemTable.from_items(
    [
        Item(item_id="a", title="Settee", brand="acme", attributes={"colour": ("blue",)}),
        Item(item_id="b", title="Oak settee", attributes={"colour": ("blue", "red")}),
        Item(item_id="c", title="Lamp", brand="kiri", category=("Light",)),
    ]
)
QUERIES = ["blue sofa", "sofa", "sofa sofa lamp"]
CHOICES = [(0, 0, 2.0), (1, 0, 1.0), (1, 1, 4.0), (2, 2, 1.0)]  # query, row, weight


@pytest.fixture
def traits() -> Traits:
    return Traits.build(ITEMS, np.zeros(3, dtype=np.float32))


def build(traits: Traits, choices: list[tuple[int, int, float]] = CHOICES) -> WordLog:
    number, row, weight = zip(*choices, strict=True) if choices else ((), (), ())
    pairs = np.array(number, dtype=np.int64), np.array(row, dtype=np.int64), np.array(weight, dtype=np.float32)
    return WordLog.build(QUERIES if choices else [], pairs, traits)


def chosen(log: WordLog, traits: Traits, word: str) -> dict[int, float]:
    (place,) = log.find(word)
    numbers, weights = log.chosen.of(int(place))
    assert (np.diff(numbers) > 0).all()
    return dict(zip(traits.hashes[numbers].tolist(), weights.tolist(), strict=True))


def test_a_word_is_followed_by_the_traits_of_what_was_chosen(traits: Traits):
    log = build(traits)
    assert chosen(log, traits, "blue") == {
        trait_hash(TITLE, "", "settee"): 2,
        trait_hash(BRAND, "", "acme"): 2,
        trait_hash(FIRST_ATTRIBUTE, "colour", "blue"): 2,
    }
    # 2 and 1 of the first item, 4 of the second, 1 of the lamp; a word counts once in a query
    assert chosen(log, traits, "sofa") == {
        trait_hash(TITLE, "", "settee"): 7,
        trait_hash(TITLE, "", "oak"): 4,
        trait_hash(TITLE, "", "lamp"): 1,
        trait_hash(CATEGORY, "", "light"): 1,
        trait_hash(BRAND, "", "acme"): 3,
        trait_hash(BRAND, "", "kiri"): 1,
        trait_hash(FIRST_ATTRIBUTE, "colour", "blue"): 3 + 2,
        trait_hash(FIRST_ATTRIBUTE, "colour", "red"): 2,
    }


def test_totals_count_the_choices_whose_kind_is_known(traits: Traits):
    log = build(traits)
    (sofa,) = log.find("sofa")
    assert log.totals[sofa].tolist() == [8, 1, 4, 7]  # titles, categories, brands, colours


def test_words_are_found_in_any_query_and_unknown_ones_left_out(traits: Traits):
    log = build(traits)
    places = log.find("Lamp of blue, LAMP")
    assert log.hashes[places].tolist() == [query_hash("lamp"), query_hash("blue")]
    assert not len(log.find("chair"))


def test_counting_in_small_steps_gives_the_same(traits: Traits, monkeypatch: pytest.MonkeyPatch):
    whole = build(traits)
    monkeypatch.setattr(word_log, "_ENTRIES_AT_ONCE", 1)
    parts = build(traits)
    np.testing.assert_array_equal(parts.totals, whole.totals)
    for name in ("offsets", "rows", "values"):
        np.testing.assert_array_equal(getattr(parts.chosen, name), getattr(whole.chosen, name))


def test_only_the_words_that_most_choices_followed_are_kept(traits: Traits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(word_log, "MAX_WORDS", 2)
    log = build(traits)
    assert set(log.hashes.tolist()) == {query_hash("sofa"), query_hash("blue")}
    assert chosen(log, traits, "blue")[trait_hash(BRAND, "", "acme")] == 2


def test_only_the_most_chosen_traits_of_a_word_are_kept(traits: Traits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(word_log, "MAX_TRAITS", 1)
    log = build(traits)
    assert chosen(log, traits, "sofa") == {trait_hash(TITLE, "", "settee"): 7}
    assert log.totals[log.find("sofa")[0]].tolist() == [8, 1, 4, 7]


def test_the_words_past_the_first_ones_of_a_query_do_not_count(traits: Traits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(word_log, "MAX_QUERY_WORDS", 1)
    log = build(traits)
    assert not len(log.find("lamp"))
    assert len(log.find("blue sofa")) == 1


def test_an_empty_log_knows_no_word(traits: Traits, tmp_path: Path):
    log = build(traits, [])
    assert not len(log.find("sofa"))
    log.save(tmp_path)
    assert not len(WordLog.load(tmp_path, traits).find("sofa"))


def test_words_survive_the_disk_without_their_text(traits: Traits, tmp_path: Path):
    log = build(traits)
    log.save(tmp_path)
    assert chosen(WordLog.load(tmp_path, traits), traits, "sofa") == chosen(log, traits, "sofa")
    assert not any(b"sofa" in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["word_hashes.npy", "word_totals.npy", "word_traits_rows.npy"])
@pytest.mark.parametrize("change", ["missing", "negative", "longer", "other type"])
def test_broken_files_are_refused(traits: Traits, tmp_path: Path, name: str, change: str):
    build(traits).save(tmp_path)
    array = np.load(tmp_path / name)
    (tmp_path / name).unlink()
    broken = {
        "negative": array[::-1].copy() if name == "word_hashes.npy" else -1 - array,
        "longer": np.concatenate([array, array[-1:]]),
        "other type": array.astype(np.int16),
    }
    if change != "missing":
        np.save(tmp_path / name, broken[change])
    with pytest.raises(ArtefactError, match="build the bundle again"):
        WordLog.load(tmp_path, traits)
