"""What is done to a ranking after the second stage, because its request asks for it: cut, boost, order, vary, pin.

**Boosts** are given in units of the ranking's own range, for what a score is worth differs from blend to blend:

    score'(item) = score(item) + boost(item) · (best score - worst score)

with ``boost(item)`` the sum over the conditions that the item meets, cut to -1 … 1. So a boost of 1 puts the very last
item beside the first, -1 the first beside the last, and 0.1 is worth a tenth of what lies between them. It is
min-max normalisation of the scores, to which the boost is added.
Source: Lee 1997, Analyses of Multiple Evidence Combination, section 3 (the normalisation).

The other wishes change the order and leave the scores. Diversity and pins: see ``server.stages.diversity``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from corpus.columns import ItemColumns
from rerank.heads import HEADS
from retrieval.arrays import FloatArray, IntArray
from retrieval.filtering.predicates import matching_rows
from server.stages.diversity import fill, limits_of, vary
from server.stages.explanations import BOOST
from server.stages.ranking import Ranking
from server.stages.wishes import Boost, Order, Wishes

VARIED = 100  # best results that are chosen to differ: their number squared is compared; further down nobody looks
_PURCHASE = HEADS.index("purchase")


def arrange(
    ranking: Ranking,
    wishes: Wishes,
    columns: ItemColumns,
    pins: Mapping[int, int],
    vectors_of: Callable[[IntArray], FloatArray],
) -> Ranking:
    """Put a ranking into the order that its request asks for.

    Args:
        ranking: As the stages made it.
        wishes: What is asked for.
        columns: Of the catalogue that it is of.
        pins: Rank from 1 → row of the item that is to stand there; each is in the ranking.
        vectors_of: Embeddings of rows.
    Returns:
        The same items. Scores hold the boosts; they fall along the list where nothing but boosts was asked for.
    """
    if wishes.boosts:
        ranking = _boosted(ranking, wishes.boosts, columns)
    if wishes.order is not Order.RELEVANCE:
        ranking = ranking.take(ordered(ranking.rows, wishes.order, columns))
    wanted = wishes.diversity
    if wanted is not None and wanted.strength > 0:
        best = vary(ranking.scores[:VARIED], vectors_of(ranking.rows[:VARIED]), wanted.strength)
        ranking = ranking.take(np.concatenate([best, np.arange(len(best), len(ranking))]))
    if pins or wanted is not None:
        place_of = {row: place for place, row in enumerate(ranking.rows.tolist())}
        places = {rank: place_of[row] for rank, row in pins.items()}
        limits = [] if wanted is None else limits_of(ranking.rows, wanted, columns)
        sizes = {} if wanted is None else {"page_size": wanted.page_size, "first_page": wanted.first_page}
        ranking = ranking.take(fill(len(ranking), places, limits, **sizes))
    return ranking


def cut(ranking: Ranking, least: float, kept: Collection[int]) -> tuple[Ranking, int] | None:
    """Leave out what is less likely to be bought than is asked for, and what the cross-encoder did not read.

    It reads those that everything else puts first, and of the others nobody knows that they are likely enough.

    Args:
        ranking: As the stages made it.
        least: Probability, above 0.
        kept: Rows that stay all the same.
    Returns:
        What stays, and how many of these are likely enough; None if no item's probability is known.
    """
    chances = ranking.probabilities[:, _PURCHASE]
    if len(ranking) and np.isnan(chances).all():
        return None
    likely = chances >= np.float32(least)  # NaN is not
    stays = likely | np.isin(ranking.rows, list(kept))
    return ranking.take(np.flatnonzero(stays)), int(likely.sum())


def boosts_of(rows: IntArray, boosts: Sequence[Boost], columns: ItemColumns) -> FloatArray:
    """Return the sum of the boosts that each of some items earns, cut to -1 … 1; float32 (n,)."""
    total = np.zeros(len(rows))
    for boost in boosts:
        total += np.where(matching_rows(boost.condition, columns).mask[rows], boost.boost, 0.0)
    return total.clip(-1.0, 1.0).astype(np.float32)


def ordered(rows: IntArray, order: Order, columns: ItemColumns) -> IntArray:
    """Return the positions of some items in an order; equals keep theirs, and items without the value come last.

    Args:
        rows: int64 (n,), in order of relevance.
        order: What to order by.
        columns: Of the catalogue.
    Returns:
        int64 (n,).
    """
    if order is Order.RELEVANCE:
        return np.arange(len(rows))
    values = columns.updated_at[rows] if order is Order.NEWEST else columns.price[rows]
    return np.argsort(values if order is Order.PRICE else -values, kind="stable")  # numpy puts NaN last


def _boosted(ranking: Ranking, boosts: Sequence[Boost], columns: ItemColumns) -> Ranking:
    if not len(ranking):
        return ranking
    # equal scores have no range, but are told apart by a boost all the same
    width = float(ranking.scores.max() - ranking.scores.min()) or 1.0
    added = boosts_of(ranking.rows, boosts, columns) * np.float32(width)
    boosted = ranking.with_added(BOOST, added)
    return boosted.take(np.argsort(-boosted.scores, kind="stable"))
