import numpy as np
import pytest

from corpus.synthetic.catalogue import BRAND, COLOUR, LEVEL, STYLE, Catalogue
from corpus.synthetic.choice import (
    behave,
    expected_gains,
    mean_taste,
    purchase_probabilities,
    relevance,
    taste,
)
from corpus.synthetic.config import ChoiceConfig
from corpus.synthetic.shoppers import Shoppers

CHOICE = ChoiceConfig(outside=1.0, cart_slack=0.5, click_slack=1.5, click_gap=0.8)
UTILITY = np.array([1.2, 0.4, -0.3, -np.inf])
N_DRAWS = 60_000


@pytest.fixture(scope="module")
def behaviour():
    utility = np.tile(UTILITY, (N_DRAWS, 1))
    return behave(utility, np.isfinite(utility), CHOICE, np.random.default_rng(0))


def test_purchases_happen_as_often_as_the_formula_says(behaviour):
    want = purchase_probabilities(UTILITY[None], CHOICE)[0]
    np.testing.assert_allclose(behaviour.bought.mean(axis=0), want, atol=0.008)
    # by hand: e^1.2 = 3.3201, e^0.4 = 1.4918, e^-0.3 = 0.7408, e^1 = 2.7183
    assert want == pytest.approx([0.40142, 0.18037, 0.08957, 0.0], abs=1e-4)


def test_expected_grades_are_those_of_what_shoppers_do(behaviour):
    grade = behaviour.clicked.astype(int) + behaviour.carted + behaviour.bought
    np.testing.assert_allclose(grade.mean(axis=0), expected_gains(UTILITY[None], CHOICE)[0], atol=0.02)


def test_a_purchase_implies_the_cart_and_the_cart_a_click(behaviour):
    assert not (behaviour.bought & ~behaviour.carted).any()
    assert not (behaviour.carted & ~behaviour.clicked).any()
    assert behaviour.clicked.sum() > behaviour.carted.sum() > behaviour.bought.sum() > 0
    assert behaviour.bought.sum(axis=1).max() == 1


def test_nobody_acts_on_an_item_not_looked_at():
    utility = np.full((200, 3), 50.0)
    looks = np.zeros((200, 3), dtype=bool)
    looks[:100, 1] = True
    done = behave(utility, looks, CHOICE, np.random.default_rng(0))
    np.testing.assert_array_equal(done.clicked, looks)


def test_relevance_adds_up_the_penalties_of_what_was_missed(catalogue: Catalogue):
    choice = ChoiceConfig()
    item = int(np.flatnonzero((catalogue.codes[:, LEVEL] == 0) & (catalogue.codes[:, COLOUR] == 1))[0])
    codes = catalogue.codes[item]
    stated = np.full((3, 6), -1)
    stated[1, BRAND], stated[1, COLOUR] = codes[BRAND], codes[COLOUR]
    stated[2, STYLE], stated[2, LEVEL], stated[2, COLOUR] = codes[STYLE] + 1, 3, codes[COLOUR] + 1
    fit = np.zeros((3, catalogue.types.max() + 1), dtype=np.float32)
    fit[:, catalogue.types[item]] = -4.0
    got = relevance(fit, stated, catalogue, choice)[:, item]
    missed = choice.missed_style + 3 * choice.missed_level + choice.missed_attribute
    assert got == pytest.approx([-4.0, -4.0, -4.0 - missed])


def test_taste_is_the_sum_of_brand_style_and_level(catalogue: Catalogue, shoppers: Shoppers):
    got = taste(shoppers, np.array([5, 3]), catalogue)
    brand, style, level = catalogue.codes[11, :3]
    assert got.shape == (2, len(catalogue))
    assert got[1, 11] == pytest.approx(shoppers.brand[3, brand] + shoppers.style[3, style] + shoppers.level[3, level])


def test_the_taste_of_a_stranger_is_the_mean_on_the_scale_of_odds(catalogue: Catalogue, shoppers: Shoppers):
    activity = np.arange(len(shoppers), dtype=np.float64)
    everyone = taste(shoppers, np.arange(len(shoppers)), catalogue).astype(np.float64)
    want = np.log(np.average(np.exp(everyone), axis=0, weights=activity))
    np.testing.assert_allclose(mean_taste(shoppers, activity, catalogue), want, rtol=1e-4, atol=1e-4)
