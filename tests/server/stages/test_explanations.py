import numpy as np
import pytest

from rerank.explanation import GROUPS
from rerank.parts import BASE, UNREAD
from server.stages.explanations import BOOST, WORDS, contributions

PARTS = {
    "words": np.array([0.25, 0.0], dtype=np.float32),
    "meaning": np.array([-0.5, 1.0], dtype=np.float32),
    "base": np.array([0.125, 0.125], dtype=np.float32),
}


def test_what_made_up_a_score_comes_strongest_first_in_numbers_and_words():
    told = contributions(PARTS, 0, is_pinned=False)
    assert [(part.name, part.value) for part in told] == [("meaning", -0.5), ("words", 0.25), ("base", 0.125)]
    assert told[0].description == "the similarity of meaning lowers the score by 0.5"
    assert told[1].description == "the match of words raises the score by 0.25"


def test_what_added_nothing_is_left_out():
    assert [part.name for part in contributions(PARTS, 1, is_pinned=False)] == ["meaning", "base"]


def test_a_pin_says_all_of_the_rank_and_nothing_of_the_score():
    told = contributions(PARTS, 0, is_pinned=True)
    assert (told[0].name, told[0].value) == ("pin", 0.0)
    assert sum(part.value for part in told) == pytest.approx(-0.125)


def test_what_was_not_asked_for_is_not_told():
    assert contributions(None, 0, is_pinned=True) == ()


def test_every_part_has_words():
    assert {*GROUPS, BASE, UNREAD, BOOST} <= WORDS.keys()
