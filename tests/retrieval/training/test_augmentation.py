from collections import Counter

import numpy as np
import pytest

from retrieval.training.augmentation import NEIGHBOURS, augment


def variants(query: str, n: int = 4000) -> Counter[str]:
    rng = np.random.default_rng(1)
    return Counter(augment(query, rng) for _ in range(n))


def test_neighbours_are_neighbours():
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert set(NEIGHBOURS["p"]) == set("ol")
    assert set(NEIGHBOURS["m"]) == set("njk")
    assert all(letter in NEIGHBOURS[other] for letter, others in NEIGHBOURS.items() for other in others)
    assert len(NEIGHBOURS) == 26


def test_a_word_gets_every_error_of_one_letter_and_no_other():
    word = "pans"  # too short to be cut by a space
    dropped = {"pns", "pas", "pan"}
    doubled = {"paans", "panns", "panss"}
    swapped = {"pnas", "pasn"}
    replaced = {"pans"[:place] + near + "pans"[place + 1 :] for place in (1, 2, 3) for near in NEIGHBOURS[word[place]]}
    assert set(variants(word)) == dropped | doubled | swapped | replaced


def test_spaces_are_lost_and_gained():
    seen = variants("usb charger")
    assert seen["usbcharger"] > 0
    assert {"usb cha rger", "usb char ger"} <= set(seen)
    spaces = sum(count for text, count in seen.items() if text.count(" ") != 1)
    assert spaces / 4000 == pytest.approx(0.25, abs=0.03)


def test_numbers_short_words_and_first_letters_are_left_alone():
    for text in variants("red iphone 15 mx500"):
        joined = text.replace(" ", "")
        assert joined.startswith("redi")
        assert joined.endswith("15mx500")


def test_where_nothing_can_be_mistyped_nothing_is():
    assert set(variants("tv", 50)) == {"tv"}
    assert set(variants("x5000", 50)) == {"x5000"}
    assert set(variants("a4 b5", 50)) == {"a4b5"}


def test_letters_of_other_alphabets_are_never_replaced_by_latin_ones():
    assert not {letter for text in variants("кофе") for letter in text} & set("abcdefghijklmnopqrstuvwxyz")
