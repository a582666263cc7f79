from math import log

import numpy as np
import pytest

from corpus.items import Item, ItemTable
from rerank.meanings import Meaning, compare_words
from retrieval.event_log.traits import Traits
from retrieval.event_log.word_log import WordLog

NAN = float("nan")
ITEMS = ItemTable.from_items(
    [
        Item(item_id="a", title="Oak Settee", brand="acme", category=("Home",), attributes={"colour": ("midnight",)}),
        Item(item_id="b", title="Settee", attributes={"colour": ("midnight", "snow")}),
        Item(item_id="c", title="Lamp", brand="kiri", category=("Light",), attributes={"colour": ("snow",)}),
        Item(item_id="d", title="Lamp"),
    ]
)
QUERIES = ["sofa", "black"]
CHOICES = [(0, 0, 3.0), (0, 1, 1.0), (1, 0, 1.0), (1, 2, 1.0)]  # query, row, weight


def compare(query: str, *rows: int, popularity: tuple[float, ...] = (0, 0, 0, 0)) -> Meaning:
    traits = Traits.build(ITEMS, np.array(popularity, dtype=np.float32))
    number, row, weight = zip(*CHOICES, strict=True)
    pairs = np.array(number), np.array(row), np.array(weight, dtype=np.float32)
    words = WordLog.build(QUERIES, pairs, traits)
    return compare_words(words, traits, query, np.array(rows, dtype=np.int64))


def lift(count: float, n: float, usual: float) -> float:
    return log((count + 2 * usual) / ((n + 2) * usual))


def same(got: np.ndarray, *want: float) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_title_is_as_good_as_its_best_word():
    got = compare("sofa", 0, 2)
    settee, oak, lamp = lift(4, 4, 2 / 4), lift(3, 4, 1 / 4), lift(0, 4, 2 / 4)
    assert oak > settee
    same(got.title, oak, lamp)
    same(got.title_weakest, oak, lamp)


def test_over_the_words_of_a_query_a_title_has_their_mean_and_the_weakest():
    got = compare("black sofa", 1)
    sofa, black = lift(4, 4, 2 / 4), lift(1, 2, 2 / 4)
    same(got.title, (sofa + black) / 2)
    same(got.title_weakest, min(sofa, black))


def test_lifts_of_properties_are_summed_over_words_and_properties():
    got = compare("black sofa", 0)
    category = lift(3, 3, 1 / 2) + lift(1, 2, 1 / 2)
    brand = lift(3, 3, 1 / 2) + lift(1, 2, 1 / 2)
    # midnight is usual for 1.5 of 3 items, and 3.5 of the 4 choices after "sofa" had it
    colour = lift(3.5, 4, 1.5 / 3) + lift(1, 2, 1.5 / 3)
    same(got.category, category)
    same(got.brand, brand)
    same(got.traits, category + brand + colour)
    same(got.traits_weakest, min(category, brand, colour))


def test_a_property_that_speaks_against_an_item_shows():
    got = compare("sofa", 0, 2)
    assert got.traits_weakest[0] > 0 > got.traits_weakest[1]


def test_what_is_not_told_of_an_item_is_not_known():
    got = compare("sofa", 1, 3)
    assert np.isnan(got.category).all()
    assert np.isnan(got.brand).all()
    colour = (lift(3.5, 4, 0.5) + lift(0.5, 4, 0.5)) / 2
    same(got.traits, colour, NAN)
    same(got.traits_weakest, colour, NAN)


def test_what_everybody_chooses_says_little_about_a_word():
    rare, common = compare("sofa", 0), compare("sofa", 0, popularity=(96, 0, 0, 0))
    assert common.brand[0] < rare.brand[0]
    same(common.brand, lift(3, 3, 97 / 98))


@pytest.mark.parametrize("query", ["chair", "?!"])
def test_words_that_the_log_does_not_know_say_nothing(query: str):
    got = compare(query, 0, 3)
    for name in ("title", "title_weakest", "category", "brand", "traits", "traits_weakest"):
        same(getattr(got, name), NAN, NAN)


def test_an_unknown_word_does_not_weaken_the_known_ones():
    same(compare("unheard sofa", 0).title, *compare("sofa", 0).title.tolist())


def test_no_items_have_no_meaning():
    assert len(compare("sofa").title) == 0
