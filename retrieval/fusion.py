"""Joining the channels, and fitting their weights.

    text  = w * dense + (1 - w) * lexical / (best lexical score of this query)
    score = b * behaviour + (1 - b) * text

``dense`` is the cosine, exact for every candidate, also for those that only the lexical channel returned. The lexical
score of a candidate that only the dense channel returned counts as 0: it is below all those of the full lexical list. A
convex combination of this kind, its weight fitted on a few labelled queries, beats reciprocal-rank fusion in and out of
domain. ``behaviour`` is a share of searches (``retrieval.event_log.query_log``) and is not stretched to 1: an item that
most shoppers chose counts for more than the first of many that few chose each. Whatever the weights, as long as words
take part, the best lexical hits keep a few places: the others can miss what was typed exactly.
Source: Bruch, Gai & Ingber 2023, An Analysis of Fusion Functions for Hybrid Retrieval, sections 4 and 5.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from corpus.config import Section
from corpus.errors import InputError
from corpus.prepared import Example
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates

# 0, 0.1, ... 0.9 and a weight that all but ignores BM25; 1 is no choice, since it would search without words
DENSE_GRID = (*(step / 10 for step in range(10)), 0.99)
BEHAVIOUR_GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
CUTOFF = 10
LEXICAL_EVERY = 10  # of the first 10 candidates one at least is the best lexical hit, of the first 20 two, and so on
RECIPROCAL_RANK_K = 60  # Cormack, Clarke & Büttcher 2009, section 2


class FusionWeights(Section):
    """How much each channel counts: w and b at the top of this module."""

    dense: float = Field(ge=0, le=1)  # 1: words do not count; 0: embeddings do not
    behaviour: float = Field(default=0.0, ge=0, lt=1)  # 0: the log is not asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The union of the channels' candidates for one query, not yet ordered; all arrays (n,)."""

    rows: IntArray  # ascending, each once
    dense: FloatArray  # exact inner product
    lexical: FloatArray  # BM25; NaN where the lexical channel did not return the item
    behaviour: FloatArray  # share of like searches that chose it; 0 where that channel did not return the item
    dense_rank: IntArray  # rank from 1 in the dense channel; 0 where it did not return the item
    lexical_rank: IntArray  # the same for the lexical channel


class PoolSource(Protocol):
    """Whatever collects all channels' candidates: a ``Retriever``."""

    def pools(self, queries: Sequence[str], k: int) -> list[Pool]:
        """Return one pool per query with up to k candidates of each channel."""
        ...


class Figures(Section):
    """How good one way of ordering the channels' candidates is."""

    mrr: float  # MRR@10: the order matters where no second stage follows
    recall: float  # among the first ``depth``: what a second stage can still put first

    @property
    def mean(self) -> float:
        """What the weights are chosen by."""
        return (self.mrr + self.recall) / 2


class FusionReport(Section):
    """Outcome of fitting the fusion weights on validation examples."""

    weights: FusionWeights  # chosen
    depth: int  # candidates that recall is counted among
    chosen: Figures  # at the chosen weights
    dense_alone: Figures
    lexical_alone: Figures
    text: Figures  # the best of dense and lexical together
    behaviour_alone: Figures  # 0 without a log
    reciprocal_rank: Figures  # reciprocal-rank fusion of dense and lexical, k = 60
    n_examples: int


def make_pool(
    dense: tuple[IntArray, FloatArray],
    lexical: tuple[IntArray, FloatArray],
    behaviour: tuple[IntArray, FloatArray],
    dense_of: Callable[[IntArray], FloatArray],
) -> Pool:
    """Unite the channels' hits for one query.

    Args:
        dense: Rows int64 (n,) and inner products, best first.
        lexical: Rows int64 (m,) and BM25 scores, best first.
        behaviour: Rows int64 (l,) and shares, best first.
        dense_of: Exact inner products of rows that the dense channel did not return.
    Returns:
        The union, at most n + m + l candidates.
    """
    rows = np.unique(np.concatenate([dense[0], lexical[0], behaviour[0]])).astype(np.int64, copy=False)
    in_dense, in_lexical = np.searchsorted(rows, dense[0]), np.searchsorted(rows, lexical[0])
    dense_rank, lexical_rank = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    dense_rank[in_dense] = np.arange(1, len(in_dense) + 1)
    lexical_rank[in_lexical] = np.arange(1, len(in_lexical) + 1)
    cosine = np.empty(len(rows), dtype=np.float32)
    cosine[in_dense] = dense[1]
    missing = dense_rank == 0
    if missing.any():
        cosine[missing] = dense_of(rows[missing])
    bm25 = np.full(len(rows), np.nan, dtype=np.float32)
    bm25[in_lexical] = lexical[1]
    share = np.zeros(len(rows), dtype=np.float32)
    share[np.searchsorted(rows, behaviour[0])] = behaviour[1]
    return Pool(
        rows=rows,
        dense=cosine,
        lexical=bm25,
        behaviour=share,
        dense_rank=dense_rank,
        lexical_rank=lexical_rank,
    )


def fuse(pool: Pool, weights: FusionWeights, k: int) -> Candidates:
    """Order a pool by the convex combination at the top of this module.

    Args:
        pool: All channels' candidates.
        weights: A channel that weighs nothing adds no candidates of its own either.
        k: Most candidates.
    Returns:
        Candidates, best first; equal scores by dense score, then in row order. Where words and something else weigh
        anything, the m-th lexical hit comes at place ``LEXICAL_EVERY`` x m at the latest, with the score of what
        follows it.
    """
    scores = _fused(pool, weights)
    order = np.lexsort((pool.rows, -pool.dense, -scores))
    order = order[np.isfinite(scores[order])]
    if weights.dense < 1 and (weights.dense > 0 or weights.behaviour > 0):
        order = _with_lexical_places(pool, order, k)
    # what was moved up counts as much as what it was put before
    scores[order] = np.maximum.accumulate(scores[order][::-1])[::-1]
    return _pick(pool, order[:k], scores)


def _fused(pool: Pool, weights: FusionWeights) -> FloatArray:
    """Return the fused scores, -inf for candidates that no channel of any weight returned; float32 (n,)."""
    text = weights.dense * pool.dense + (1 - weights.dense) * _relative(pool.lexical)
    scores = weights.behaviour * pool.behaviour + (1 - weights.behaviour) * text
    found = np.zeros(len(scores), dtype=bool)
    if weights.dense > 0:
        found |= pool.dense_rank > 0
    if weights.dense < 1:
        found |= pool.lexical_rank > 0
    if weights.behaviour > 0:
        found |= pool.behaviour > 0
    return np.where(found, scores, -np.inf).astype(np.float32)


def fuse_reciprocal_rank(pool: Pool, k: int) -> Candidates:
    """Order a pool by the sum over channels of 1 / (60 + rank); a channel that lacks the item adds nothing.

    Source: Cormack, Clarke & Büttcher 2009, Reciprocal Rank Fusion Outperforms Condorcet, section 2.
    """
    scores = np.zeros(len(pool.rows), dtype=np.float32)
    for rank in (pool.dense_rank, pool.lexical_rank):
        scores += np.where(rank > 0, 1 / (RECIPROCAL_RANK_K + rank), 0).astype(np.float32)
    order = np.lexsort((pool.rows, -pool.dense, -scores))
    return _pick(pool, order[scores[order] > 0][:k], scores)


def fit_fusion(source: PoolSource, examples: Sequence[Example], *, depth: int = 100) -> FusionReport:
    """Choose the weights by the mean of MRR@10 and recall on validation examples.

    The order matters where no second stage follows; what is not among the candidates, no second stage can order.
    Candidates are found once per distinct query, and only reweighted.

    Args:
        source: A retriever; its own weights play no part.
        examples: Validation examples; those without a label of weight above 0 are left out.
        depth: Candidates per channel, and those among which recall is counted.
    Returns:
        The best weights of both grids (of equals the largest dense weight: embeddings know synonyms that a small
        validation set may not show; then the smallest of behaviour), and what the alternatives score.
    Raises:
        InputError: If no example has a positive label.
    """
    judged = [(e.query, {label.row for label in e.labels if label.weight > 0}) for e in examples]
    judged = [(query, relevant) for query, relevant in judged if relevant]
    if not judged:
        raise InputError("expected validation examples with a positive label to fit the fusion weights, got none")
    queries = list(dict.fromkeys(query for query, _ in judged))
    pools = dict(zip(queries, source.pools(queries, depth), strict=True))
    wanted = max(depth, CUTOFF)

    def measure(rank: Callable[[Pool], Candidates]) -> Figures:
        best = {query: rank(pool).rows for query, pool in pools.items()}
        mrr = np.mean([_reciprocal_rank(best[query][:CUTOFF], relevant) for query, relevant in judged])
        recall = np.mean([_recall(best[query][:depth], relevant) for query, relevant in judged])
        return Figures(mrr=float(mrr), recall=float(recall))

    grid = [FusionWeights(dense=w, behaviour=b) for w in DENSE_GRID for b in BEHAVIOUR_GRID]
    curve = {weights: measure(lambda pool, w=weights: fuse(pool, w, wanted)) for weights in grid}  # type: ignore[misc]
    chosen = max(grid, key=lambda weights: (curve[weights].mean, weights.dense, -weights.behaviour))
    text = max((w for w in grid if w.behaviour == 0), key=lambda weights: curve[weights].mean)
    return FusionReport(
        weights=chosen,
        depth=depth,
        chosen=curve[chosen],
        dense_alone=measure(lambda pool: fuse(pool, FusionWeights(dense=1.0), wanted)),
        lexical_alone=curve[FusionWeights(dense=0.0)],
        text=curve[text],
        behaviour_alone=measure(lambda pool: _pick(pool, _by_behaviour(pool)[:wanted], pool.behaviour)),
        reciprocal_rank=measure(lambda pool: fuse_reciprocal_rank(pool, wanted)),
        n_examples=len(judged),
    )


def _by_behaviour(pool: Pool) -> IntArray:
    order = np.lexsort((pool.rows, -pool.behaviour))
    return order[pool.behaviour[order] > 0]


def _relative(lexical: FloatArray) -> npt.NDArray[np.float32]:
    """Divide by the best, so that 1 is the best lexical hit of this query; 0 for what the channel did not return."""
    known = np.nan_to_num(lexical, nan=0.0)
    best = known.max(initial=0.0)
    return known / best if best > 0 else known


def _with_lexical_places(pool: Pool, order: IntArray, k: int) -> IntArray:
    """Move the best lexical hits up to the places that are theirs, where they do not stand higher already."""
    places = order.tolist()
    n = min(k // LEXICAL_EVERY, int(pool.lexical_rank.max(initial=0)))
    by_rank = np.argsort(np.where(pool.lexical_rank > 0, pool.lexical_rank, len(places) + 1), kind="stable")
    for number, hit in enumerate(by_rank[:n].tolist(), start=1):
        last = number * LEXICAL_EVERY - 1
        if hit not in places[: last + 1]:
            places.remove(hit)
            places.insert(last, hit)
    return np.array(places, dtype=np.int64)


def _pick(pool: Pool, order: IntArray, scores: FloatArray) -> Candidates:
    return Candidates(
        rows=pool.rows[order],
        scores=scores[order],
        dense=pool.dense[order],
        lexical=pool.lexical[order],
        behaviour=pool.behaviour[order],
    )


def _reciprocal_rank(rows: IntArray, relevant: Collection[int]) -> float:
    hits = np.flatnonzero(np.isin(rows, list(relevant)))
    return 1 / (1 + int(hits[0])) if len(hits) else 0.0


def _recall(rows: IntArray, relevant: Collection[int]) -> float:
    return int(np.isin(rows, list(relevant)).sum()) / len(relevant)
