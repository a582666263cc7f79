"""Whom the cross-encoder need not read: candidates that cheap scores put out of reach of the first page.

Reading takes most of a search's time, and most of what is read stays where the blend's first model had put it: behind
the first page. Where that model is sure, a page is enough to read; where many candidates score alike, all are worth it.

The rule has one number, the *reach*: a candidate is read if the first model puts it at most so far below the last item
of the first page. ``fit_reach`` takes the shortest that loses next to no nDCG@10 on searches that the models have not
seen. The blend's second model learns from lists that were read by the same rule, so that it knows in training what it
sees in service.

Source: the proximity thresholds of Cambazoglu et al. 2010, "Early exit optimizations for additive machine learned
ranking systems".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.arrays import FloatArray, IntArray

PAGE = 10  # results: what is read at least, and what nDCG@10 looks at
# reaches to try, by the share of the candidates behind the first page that they take in
_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
_DISCOUNTS = 1 / np.log2(np.arange(PAGE) + 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far behind the first page the cross-encoder reads, and what that costs."""

    reach: float | None  # in scores of the first model; None: however far behind
    lost: float  # share of nDCG@10 lost against reading all, on searches held out
    n_read: float  # candidates read of a search, mean


def worth_reading(first: FloatArray, depth: int | None, reach: float | None) -> IntArray:
    """Choose whom the cross-encoder reads; int64 (n_read,) positions, the first model's best first.

    Args:
        first: float32 (n,), scores of the first model.
        depth: Most candidates to read; None: all.
        reach: How far below the first page's last item a candidate may score; None: however far.
    """
    best = np.argsort(-first, kind="stable")[:depth]
    if reach is None or len(best) <= PAGE:
        return best
    ranked = first[best]
    # never rises along the list, so those within reach are its head
    return best[: max(PAGE, int(np.count_nonzero(ranked[PAGE - 1] - ranked <= reach)))]


def pruned(first: FloatArray, rerank_scores: FloatArray, reach: float | None) -> FloatArray:
    """Return the cross-encoder's scores as they would be under a reach: NaN for those it would not have read.

    Args:
        first: float32 (n,), scores of the first model.
        rerank_scores: float32 (n,), NaN where it read nothing.
        reach: See ``worth_reading``.
    """
    kept = worth_reading(first, _n_read(rerank_scores), reach)
    left = np.full_like(rerank_scores, np.nan)
    left[kept] = rerank_scores[kept]
    return left


def reaches_to_try(first: Sequence[FloatArray], rerank_scores: Sequence[FloatArray]) -> list[float]:
    """Return reaches that differ by the share of the candidates they leave unread, longest first; none within a page.

    Args:
        first: See ``fit_reach``.
        rerank_scores: Likewise.
    """
    gaps = np.concatenate([_gaps(scores, _n_read(read)) for scores, read in zip(first, rerank_scores, strict=True)])
    return np.quantile(gaps, _SHARES).tolist() if len(gaps) else []


def fit_reach(
    first: Sequence[FloatArray],
    rerank_scores: Sequence[FloatArray],
    grades: Sequence[FloatArray],
    final_of: Callable[[int, FloatArray], FloatArray],
    *,
    max_lost: float,
) -> Reach:
    """Find the shortest reach that loses little, trying from the longest on until one loses too much.

    What a reach loses is not read off each search's few grades: among some hundreds of searches, one purchase that
    changes its place would outweigh all else. An item counts instead as much as items do on average that stand at its
    rank once all is read, which never rises with the rank.

    Args:
        first: One (n,) array per search, scores of the first model that are held out.
        rerank_scores: The same of the cross-encoder; NaN where it read nothing. The first's best were read.
        grades: The same of the candidates' grades.
        final_of: Final scores of a search, by its number and the cross-encoder's scores of what is read of it.
        max_lost: Share of nDCG@10 that may be lost; 0 leaves all to be read.
    """
    chosen = Reach(reach=None, lost=0.0, n_read=float(np.mean([_n_read(scores) for scores in rerank_scores])))
    if max_lost == 0:
        return chosen
    full = [_order(final_of(number, scores)) for number, scores in enumerate(rerank_scores)]
    worth = _worth(full, grades)  # (longest,)
    whole = float(worth[:PAGE] @ _DISCOUNTS[: len(worth)])
    for reach in reaches_to_try(first, rerank_scores):
        left = [pruned(scores, read, reach) for scores, read in zip(first, rerank_scores, strict=True)]
        orders = [_order(final_of(number, scores)) for number, scores in enumerate(left)]
        kept = float(np.mean([_kept(order, best, worth) for order, best in zip(orders, full, strict=True)]))
        if whole - kept > max_lost * whole:
            break
        n_read = float(np.mean([_n_read(scores) for scores in left]))
        chosen = Reach(reach=reach, lost=1 - kept / max(whole, 1e-9), n_read=n_read)
    return chosen


def _order(scores: FloatArray) -> IntArray:
    return np.argsort(-scores, kind="stable")


def _worth(orders: Sequence[IntArray], grades: Sequence[FloatArray]) -> FloatArray:
    """Return what the item at each rank would add to nDCG@10 if it led, mean over searches: float64 (longest,)."""
    from scipy.optimize import isotonic_regression  # serving goes without it

    gains = np.zeros(max(map(len, orders)))
    for order, mine in zip(orders, grades, strict=True):
        ideal = -np.sort(-mine)[:PAGE]
        gains[: len(order)] += mine[order] / max(float(ideal @ _DISCOUNTS[: len(ideal)]), 1e-9)
    return isotonic_regression(gains / len(orders), increasing=False).x  # type: ignore[no-any-return]


def _kept(order: IntArray, full: IntArray, worth: FloatArray) -> float:
    """Return nDCG@10 of an order, if each candidate is worth as much as its rank in the full order tells."""
    rank = np.empty(len(full), dtype=np.int64)
    rank[full] = np.arange(len(full))
    page = order[:PAGE]
    return float(worth[rank[page]] @ _DISCOUNTS[: len(page)])


def _n_read(rerank_scores: FloatArray) -> int:
    return int(np.count_nonzero(~np.isnan(rerank_scores)))


def _gaps(first: FloatArray, n_read: int) -> FloatArray:
    """Return how far below the first page's last item those behind it score, of those that were read."""
    ranked = -np.sort(-first)[:n_read]
    return ranked[PAGE - 1 : PAGE] - ranked[PAGE:]
