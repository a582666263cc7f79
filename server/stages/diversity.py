"""Results that differ from each other: by what they are, and by whose and what they are at most.

**Strength.** The best of the ranking are chosen one after the other by maximal marginal relevance:

    argmax over the items left of  (1 - strength) · relevance(item) - strength · max over those chosen of cos(item, it)

with relevance the score brought to 0 … 1 over these items, and cos the inner product of the items' embeddings.
Source: Carbonell & Goldstein 1998, The Use of MMR, Diversity-Based Reranking, section 2, with lambda = 1 - strength.

**Limits** of how many results a page has of one brand or category. A page takes the best that still fit; if too few
fit, it is filled with the best of those that do not. Pinned items stand where they are to stand and count first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corpus.columns import ItemColumns, TextColumn
from retrieval.arrays import FloatArray, IntArray
from server.stages.wishes import Diversity


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How many results of one value a page may have."""

    codes: list[int]  # by place in the ranking: the item's value; -1 for none, which counts nowhere
    most: int


def vary(scores: FloatArray, vectors: FloatArray, strength: float) -> IntArray:
    """Return the order in which maximal marginal relevance chooses items; of equals the earlier.

    Args:
        scores: float32 (n,).
        vectors: float32 (n, dim), L2-normalised.
        strength: From 0, relevance alone, to 1, difference alone (the first is the most relevant all the same).
    Returns:
        Positions int64 (n,).
    """
    n = len(scores)
    width = float(np.ptp(scores)) if n else 0.0
    relevance = (1 - strength) * (scores - scores.min(initial=np.inf)) / (width or 1.0)
    similar = vectors @ vectors.T  # (n, n)
    nearest = np.zeros(n)  # to what is chosen
    left = np.ones(n, dtype=np.bool_)
    order = np.empty(n, dtype=np.int64)
    for rank in range(n):
        # the first is chosen for itself, also where relevance counts for nothing
        value = scores if rank == 0 else relevance - strength * nearest
        best = int(np.argmax(np.where(left, value, -np.inf)))
        order[rank], left[best] = best, False
        nearest = similar[best] if rank == 0 else np.maximum(nearest, similar[best])
    return order


def limits_of(rows: IntArray, wanted: Diversity, columns: ItemColumns) -> list[Limit]:
    """Return the limits of a request, for items in their order."""
    asked = ((columns.texts["brand"], wanted.max_per_brand), (columns.category_leaf, wanted.max_per_category))
    return [Limit(codes=_codes(column, rows), most=most) for column, most in asked if most is not None]


def fill(
    n: int, pins: Mapping[int, int], limits: Sequence[Limit] = (), *, page_size: int = 0, first_page: int = 0
) -> IntArray:
    """Fill pages with pinned items and the best that fit beside them.

    Args:
        n: Items, in the order of their places.
        pins: Rank from 1 → place of the item; ranks behind the end come last.
        limits: How many of one value a page may have.
        page_size: Results of a page; 0: all are one page.
        first_page: Results of the first page; 0: as of all others.
    Returns:
        Places int64 (n,), best first.
    """
    pinned = _within(n, pins)
    taken = set(pinned.values())
    rest = [place for place in range(n) if place not in taken]
    order: list[int] = []
    while len(order) < n:
        end = min(n, len(order) + ((first_page if not order else 0) or page_size or n))
        here = {slot: pinned[slot] for slot in range(len(order), end) if slot in pinned}
        chosen, rest = _choose(rest, end - len(order) - len(here), limits, here.values())
        following = iter(chosen)
        order += [here[slot] if slot in here else next(following) for slot in range(len(order), end)]
    return np.array(order, dtype=np.int64)


def _choose(rest: Sequence[int], n: int, limits: Sequence[Limit], beside: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return n places, first those that fit beside others in the limits, and all that are left, in their order."""
    beside = list(beside)
    counts = [Counter(limit.codes[place] for place in beside) for limit in limits]
    fitting: list[int] = []
    others: list[int] = []
    for number, place in enumerate(rest):
        if len(fitting) == n:
            others += rest[number:]
            break
        codes = [limit.codes[place] for limit in limits]
        fits = all(
            code < 0 or count[code] < limit.most for code, count, limit in zip(codes, counts, limits, strict=True)
        )
        (fitting if fits else others).append(place)
        if fits:
            for code, count in zip(codes, counts, strict=True):
                count[code] += 1
    n_missing = n - len(fitting)
    return fitting + others[:n_missing], others[n_missing:]


def _within(n: int, pins: Mapping[int, int]) -> dict[int, int]:
    """Return slot from 0 → place, with ranks behind the end moved to the last slots that are free."""
    slots: dict[int, int] = {}
    end = n
    for rank in sorted(pins, reverse=True):
        end = min(rank, end) - 1
        slots[end] = pins[rank]
    return slots


def _codes(column: TextColumn, rows: IntArray) -> list[int]:
    codes = np.full(len(rows), -1, dtype=np.int64)
    positions, found = column.entries(rows)
    codes[positions] = found
    return codes.tolist()
