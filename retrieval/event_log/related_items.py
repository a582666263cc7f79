"""Items that the same shoppers chose: what a history says about an item beyond their texts."""

from dataclasses import dataclass

import numpy as np

from retrieval.arrays import FloatArray, IntArray
from retrieval.ragged import Ragged

MAX_ITEMS_PER_SHOPPER = 200  # the latest: pairs grow with the square, and a robot's are no taste
_CHUNK = 2048  # items whose related ones are computed at a time: bounds memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Relatedness:
    """How related each of some items is to a history; three parallel arrays (n,), 0 where nothing relates them."""

    total: FloatArray  # summed over the history's items
    strongest: FloatArray  # to the most related one
    latest: FloatArray  # to the newest one


def relate_items(
    shopper: IntArray, row: IntArray, timestamp: IntArray, *, n_items: int, most: int, shrinkage: float
) -> Ragged:
    """Find, for every item, those that the same shoppers chose.

        relatedness(i, j) = shoppers of both / (sqrt(shoppers of i · shoppers of j) + shrinkage)

    the cosine of their shoppers, shrunk so that two items of one common shopper are not as good as twins.
    Source: Sarwar et al. 2001, Item-based collaborative filtering; Bell & Koren 2007 for shrinkage.

    Args:
        shopper: int64 (n,), -1 for choices of nobody known, which are left out.
        row: int64 (n,), the item chosen.
        timestamp: int64 (n,), any rising measure of time: it decides which choices of a busy shopper count.
        n_items: Size of the catalogue.
        most: Related items kept per item.
        shrinkage: Pseudo-shoppers in the denominator.
    Returns:
        Per item, the related ones, most related first; never the item itself.
    """
    from scipy import sparse  # only for counting: a server looks up what was counted

    known = shopper >= 0
    shopper, row, timestamp = shopper[known], row[known], timestamp[known]
    order = np.lexsort((-timestamp, shopper))
    shopper, row = shopper[order], row[order]
    begins = np.searchsorted(shopper, shopper)  # where each shopper's choices begin
    kept = np.arange(len(shopper)) - begins < MAX_ITEMS_PER_SHOPPER
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    shape = (int(shopper.max(initial=-1)) + 1, n_items)
    chosen = sparse.csr_matrix((ones, (shopper[kept], row[kept])), shape=shape)
    chosen.data[:] = 1.0  # twice the same item is one choice
    by_item = chosen.T.tocsr()  # (n_items, n_shoppers)
    root = np.sqrt(np.diff(by_item.indptr)).astype(np.float32)  # (n_items,)
    parts = []
    for start in range(0, n_items, _CHUNK):
        together = (by_item[start : start + _CHUNK] @ chosen).tocsr()  # (chunk, n_items) common shoppers
        for place in range(together.shape[0]):
            item = start + place
            span = slice(together.indptr[place], together.indptr[place + 1])
            others = together.indices[span]
            scores = together.data[span] / (root[item] * root[others] + shrinkage)
            scores[others == item] = 0.0
            best = np.lexsort((others, -scores))[:most]
            best = best[scores[best] > 0]
            parts.append((others[best].astype(np.int32), scores[best].astype(np.float32)))
    return Ragged.join(parts)


def relatedness(related: Ragged, history: IntArray, rows: IntArray) -> Relatedness:
    """Tell how related items are to what a shopper chose before.

    Args:
        related: From ``relate_items``.
        history: int64 (m,), rows of the history's items, newest first.
        rows: int64 (n,), distinct items to relate.
    """
    order = np.argsort(rows)
    ascending = rows[order]
    scores = np.zeros((len(history), len(rows)), dtype=np.float32)
    line, others, values = related.entries(history)
    if len(rows):
        place = np.searchsorted(ascending, others).clip(max=len(rows) - 1)
        hit = ascending[place] == others
        scores[line[hit], order[place[hit]]] = values[hit]
    nothing = np.zeros(len(rows), dtype=np.float32)
    return Relatedness(
        total=scores.sum(axis=0),
        strongest=scores.max(axis=0, initial=0.0),
        latest=scores[0] if len(scores) else nothing,
    )
