"""How well a candidate's traits fit what the words of the query mean, going by what was chosen after them.

For each word w of the query and each trait v of the candidate

    lift(w, v) = log( (n(w, v) + S p(v)) / ((n(w) + S) p(v)) )

with ``n(w)`` the choices after queries with the word whose item has a known trait of v's kind, ``n(w, v)`` those of
them whose item has v, and ``p(v)`` the trait's share of all choices: how much oftener than usual v is chosen where the
word is asked for. ``S`` choices of the usual kind are added, so that one blue chair after "azure" is no translation.
Over the words of a query the lifts are summed, as naive Bayes has it; of a title, each word of the query has its best
one, as in the translation models of retrieval.
Sources: Cestnik 1990, "Estimating probabilities: a crucial task in machine learning" (the m-estimate); Berger &
Lafferty 1999, "Information retrieval as statistical translation".
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rerank.lifts import lift
from retrieval.arrays import FloatArray, IntArray, look_up
from retrieval.event_log.traits import BRAND, CATEGORY, TITLE, Traits
from retrieval.event_log.word_log import WordLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """How well some items fit a query's words; float32 (n,) each, NaN where no word or no such trait is known."""

    title: FloatArray  # mean over the query's words of the best lift among the title's words
    title_weakest: FloatArray  # the least of these: the word that the title answers worst
    category: FloatArray  # lift of the category
    brand: FloatArray  # of the brand
    traits: FloatArray  # sum of the lifts of category, brand and attributes
    traits_weakest: FloatArray  # the least of these: the property that speaks most against the item


def compare_words(log: WordLog, traits: Traits, query: str, rows: IntArray) -> Meaning:
    """Compare items with the words of a query.

    Args:
        log: The words of all queries.
        traits: Of the items, those that the log was counted by.
        query: Normalised.
        rows: int64 (n,) of the items.
    """
    n = len(rows)
    asked = log.find(query)
    item, number, share = traits.entries(rows)
    if not len(asked) or not len(number):
        unknown = np.full(n, np.nan, dtype=np.float32)
        return Meaning(
            title=unknown,
            title_weakest=unknown,
            category=unknown,
            brand=unknown,
            traits=unknown,
            traits_weakest=unknown,
        )
    distinct, place = np.unique(number, return_inverse=True)
    lifts = _lifts(log, traits, asked, distinct)  # (n_words, n_distinct)
    kind = traits.kinds[number]
    in_title = kind == TITLE
    best = _best(item[in_title], lifts[:, place[in_title]], n)
    width = traits.n_kinds
    others = ~in_title
    cell = item[others] * width + kind[others]
    summed = np.bincount(cell, weights=(lifts.sum(axis=0)[place] * share)[others], minlength=n * width)
    told = np.bincount(cell, minlength=n * width) > 0
    of_kind = np.where(told, summed, np.nan).reshape(n, width)
    known = told.reshape(n, width).any(axis=1)
    weakest = np.where(np.isnan(of_kind), np.inf, of_kind).min(axis=1)
    return Meaning(
        title=best.mean(axis=0).astype(np.float32),
        title_weakest=best.min(axis=0).astype(np.float32),
        category=of_kind[:, CATEGORY].astype(np.float32),
        brand=of_kind[:, BRAND].astype(np.float32),
        traits=np.where(known, np.nansum(of_kind, axis=1), np.nan).astype(np.float32),
        traits_weakest=np.where(known, weakest, np.nan).astype(np.float32),
    )


def _lifts(log: WordLog, traits: Traits, asked: IntArray, numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return the lift of each word and trait: float64 (n_words, n_traits)."""
    usual = traits.usual[numbers].astype(np.float64)
    counted = np.stack([look_up(*log.chosen.of(word), numbers) for word in asked.tolist()])
    totals = log.totals[asked][:, traits.kinds[numbers]]
    return lift(counted, totals, usual)


def _best(item: IntArray, lifts: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """Return the greatest lift of each word among each item's entries: float64 (n_words, n), NaN without any.

    Args:
        item: (n_entries,) ascending.
        lifts: (n_words, n_entries).
        n: How many items there are.
    """
    best = np.full((len(lifts), n), np.nan)
    if len(item):
        begins = np.flatnonzero(np.diff(item, prepend=-1))
        best[:, item[begins]] = np.maximum.reduceat(lifts, begins, axis=1)
    return best
