"""What a candidate has in common with the shopper's earlier items: their brand, colour, size, whatever the store tells.

For each value v that the candidate has, such as the colour blue,

    lift(v) = log( (c(v) + S p(v)) / ((n + S) p(v)) )

with ``n`` the history's items of which the property is known, ``c(v)`` those of them that have the value, and ``p(v)``
the value's share of all choices in the store: how much oftener this shopper chooses it than everybody does. ``S``
items of the usual kind are added, so that one blue chair is no passion for blue. A candidate's taste is the sum over
its properties: the log odds of naive Bayes. The words of titles are compared by the same lift, with ``n`` all of the
history's items; where a store tells no brands and colours, they are what items have in common.
Source: Cestnik 1990, "Estimating probabilities: a crucial task in machine learning" (the m-estimate).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rerank.lifts import lift
from retrieval.arrays import FloatArray, IntArray, look_up
from retrieval.event_log.traits import BRAND, TITLE, Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """How well some items fit a history; float32 (n,) each, NaN for items of which no property is known."""

    total: FloatArray  # sum of the lifts of an item's properties
    strongest: FloatArray  # the greatest of them
    beyond_brand: FloatArray  # the sum without the brand
    title: FloatArray  # mean lift of the words of an item's title
    title_shared: FloatArray  # sum of their lifts above 0: what its title has in common with the history's
    title_strongest: FloatArray  # the greatest of them


def compare_history(traits: Traits, history: IntArray, rows: IntArray) -> Taste:
    """Compare items with a history.

    Args:
        traits: Of the items.
        history: int64 (m,), rows of the history's items, repetitions counting.
        rows: int64 (n,) of the items.
    """
    _, mine, my_shares = traits.entries(history)
    known, places = np.unique(mine, return_inverse=True)
    counts = np.bincount(places, weights=my_shares, minlength=len(known))  # c, of the traits in the history
    n = np.bincount(traits.kinds[mine], weights=my_shares, minlength=traits.n_kinds)
    n[TITLE] = len(history)
    position, theirs, share = traits.entries(rows)
    usual, kind = traits.usual[theirs], traits.kinds[theirs]
    lifts = lift(look_up(known, counts, theirs), n[kind], usual)
    property_of, word = kind >= BRAND, kind == TITLE
    item, properties = position[property_of], lifts[property_of]
    shares = share[property_of]
    item_of_word, words = position[word], lifts[word]
    n_words = np.bincount(item_of_word, minlength=len(rows))
    return Taste(
        total=_sum(item, properties * shares, len(rows)),
        strongest=_greatest(item, properties, len(rows)),
        beyond_brand=_sum(item, np.where(kind[property_of] == BRAND, 0.0, properties * shares), len(rows)),
        title=_sum(item_of_word, words / np.maximum(n_words, 1)[item_of_word], len(rows)),
        title_shared=_sum(item_of_word, np.maximum(words, 0.0), len(rows)),
        title_strongest=_greatest(item_of_word, words, len(rows)),
    )


def _sum(item: IntArray, values: npt.NDArray[np.float64], n: int) -> FloatArray:
    told = np.bincount(item, minlength=n) > 0
    total = np.bincount(item, weights=values, minlength=n)
    return np.where(told, total, np.nan).astype(np.float32)


def _greatest(item: IntArray, values: npt.NDArray[np.float64], n: int) -> FloatArray:
    greatest = np.full(n, np.nan, dtype=np.float32)
    if len(item):
        begins = np.flatnonzero(np.diff(item, prepend=-1))
        greatest[item[begins]] = np.maximum.reduceat(values, begins)
    return greatest
