"""The choice model: utilities, what a shopper does with the results shown, and its probabilities in closed form.

Every item a shopper looks at gets the utility ``u + gumbel``, and so does buying nothing (``outside``). With V for
these sums, V0 for that of buying nothing and V* for the best item seen:

    bought    the best item, if V* > V0
    in cart   the best item, if V* > V0 - cart_slack
    clicked   every item with V > V0 - click_slack and V >= V* - click_gap

The largest of independent Gumbel variables with locations u is at i with probability exp(u_i) / Σ exp(u_j), and a
slack only moves a location; so every probability below is exact.

Source: McFadden 1974, Conditional logit analysis of qualitative choice behavior; Gumbel maximum.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.synthetic.catalogue import BRAND, LEVEL, STYLE, BoolArray, Catalogue, FloatArray, IntArray
from corpus.synthetic.config import ChoiceConfig
from corpus.synthetic.shoppers import Shoppers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What shoppers did with the items shown; each (n_searches, n_shown), and each implies the one before it."""

    clicked: BoolArray
    carted: BoolArray
    bought: BoolArray


def relevance(group_fit: FloatArray, stated: IntArray, catalogue: Catalogue, choice: ChoiceConfig) -> FloatArray:
    """Return how well every item answers what each query says.

    Args:
        group_fit: float32 (n, n_types), utility of each product type for the query's noun, 0 at best.
        stated: int64 (n, 6), the facet codes that the query states, -1 where it states none.
        catalogue: The store's items.
        choice: Constants of the model.
    Returns:
        float32 (n, n_items), 0 at best.
    """
    penalties = (
        choice.missed_brand,
        choice.missed_style,
        choice.missed_level,
        choice.missed_attribute,
        choice.missed_attribute,
        choice.missed_attribute,
    )
    fit = group_fit[:, catalogue.types]
    for facet, penalty in enumerate(penalties):
        rows = np.flatnonzero(stated[:, facet] >= 0)
        asked, has = stated[rows, facet, None], catalogue.codes[:, facet]
        missed = np.abs(asked - has) if facet == LEVEL else asked != has
        fit[rows] -= np.float32(penalty) * missed.astype(np.float32)
    return fit


def taste(shoppers: Shoppers, rows: IntArray, catalogue: Catalogue) -> FloatArray:
    """Return the taste of some shoppers for every item, float32 (n, n_items)."""
    codes = catalogue.codes
    utility = shoppers.brand[rows][:, codes[:, BRAND]]
    utility += shoppers.style[rows][:, codes[:, STYLE]]
    utility += shoppers.level[rows][:, codes[:, LEVEL]]
    return utility


def mean_taste(shoppers: Shoppers, activity: Floats, catalogue: Catalogue) -> FloatArray:
    """Return the taste to assume for a shopper of whom nothing is known: log E[exp(taste)] per item.

    Args:
        shoppers: Everybody's tastes.
        activity: float64 (n_shoppers,), the weight of each shopper, e.g. the number of searches.
        catalogue: The store's items.
    Returns:
        float32 (n_items,).
    """
    weight = activity / activity.sum()
    joint = np.einsum(
        "s,sb,st,sl->btl", weight, np.exp(shoppers.brand), np.exp(shoppers.style), np.exp(shoppers.level), optimize=True
    )
    codes = catalogue.codes
    return np.asarray(np.log(joint[codes[:, BRAND], codes[:, STYLE], codes[:, LEVEL]]), dtype=np.float32)


def behave(utility: Floats, looked_at: BoolArray, choice: ChoiceConfig, rng: np.random.Generator) -> Behaviour:
    """Draw what shoppers do with the results before them.

    Args:
        utility: float64 (n, n_shown), without noise.
        looked_at: bool (n, n_shown), which of them the shopper notices.
        choice: Constants of the model.
        rng: Source of the Gumbel noise.
    """
    value = np.where(looked_at, utility + rng.gumbel(size=utility.shape), -np.inf)
    nothing = choice.outside + rng.gumbel(size=(len(utility), 1))
    best = value.max(axis=1, keepdims=True)
    is_best = (value == best) & looked_at
    carted = is_best & (value > nothing - choice.cart_slack)
    clicked = (value > nothing - choice.click_slack) & (value >= best - choice.click_gap)
    return Behaviour(clicked=clicked, carted=carted, bought=is_best & (value > nothing))


def purchase_probabilities(utility: Floats, choice: ChoiceConfig) -> Floats:
    """Return the probability that each item is bought when the shopper looks at all of them.

    Args:
        utility: float64 (n, n_items); -inf for what cannot be bought.
        choice: Constants of the model.
    Returns:
        float64 (n, n_items); a row adds up to the probability that anything is bought.
    """
    return _wins(np.exp(utility), slack=0.0, choice=choice)


def expected_gains(utility: Floats, choice: ChoiceConfig) -> Floats:
    """Return each item's expected grade (click 1, cart 2, purchase 3) when the shopper looks at all of them.

    A purchase implies the cart and the cart a click, so the expected grade is the sum of the three probabilities.

    Args:
        utility: float64 (n, n_items); -inf for what cannot be bought.
        choice: Constants of the model, with cart_slack <= click_slack.
    Returns:
        float64 (n, n_items).
    """
    strength = np.exp(utility)
    rivals = strength.sum(axis=1, keepdims=True) - strength
    outside = np.exp(choice.outside - choice.click_slack)
    clicked = strength / np.maximum(strength + outside + np.exp(-choice.click_gap) * rivals, 1e-300)
    return np.asarray(
        clicked + _wins(strength, slack=choice.cart_slack, choice=choice) + _wins(strength, slack=0.0, choice=choice)
    )


def _wins(strength: Floats, *, slack: float, choice: ChoiceConfig) -> Floats:
    return np.asarray(strength / (np.exp(choice.outside - slack) + strength.sum(axis=1, keepdims=True)))
