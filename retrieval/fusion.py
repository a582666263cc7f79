"""Joining the channels, and fitting their weights.

    text  = w * dense + (1 - w) * lexical / (best lexical score of this query)
    score = b * behaviour + (1 - b) * text

``dense`` is the cosine, exact for every candidate, also for those that only the lexical channel returned. The
lexical score of a candidate that only the dense channel returned counts as 0: it is below all those of the full
lexical list. A convex combination of this kind, its weight fitted on a few labelled queries, beats reciprocal-rank
fusion in and out of domain. ``behaviour`` is a share of searches (``retrieval.query_log``) and is not stretched to 1:
an item that most shoppers chose counts for more than the first of many that few chose each.
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

DENSE_GRID = tuple(step / 20 for step in range(21))  # 0, 0.05, ... 1
BEHAVIOUR_GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CUTOFF = 10
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


class FusionReport(Section):
    """Outcome of fitting the fusion weights on validation examples; all figures are MRR@10."""

    weights: FusionWeights  # chosen
    mrr: float  # at the chosen weights
    dense_alone: float
    lexical_alone: float
    text: float  # the best of dense and lexical together
    behaviour_alone: float  # 0 without a log
    reciprocal_rank: float  # reciprocal-rank fusion, k = 60
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
        Candidates, best first; equal scores by dense score, then in row order.
    """
    scores = _fused(pool, weights)
    order = np.lexsort((pool.rows, -pool.dense, -scores))
    return _pick(pool, order[np.isfinite(scores[order])][:k], scores)


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
    return _pick(pool, np.lexsort((pool.rows, -pool.dense, -scores))[:k], scores)


def fit_fusion(source: PoolSource, examples: Sequence[Example], *, depth: int = 100) -> FusionReport:
    """Choose the weights by MRR@10 on validation examples.

    Candidates are found once per distinct query, and only reweighted.

    Args:
        source: A retriever; its own weights play no part.
        examples: Validation examples; those without a label of weight above 0 are left out.
        depth: Candidates per channel.
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

    def mrr(rank: Callable[[Pool], Candidates]) -> float:
        best = {query: rank(pool).rows for query, pool in pools.items()}
        return float(np.mean([_reciprocal_rank(best[query], relevant) for query, relevant in judged]))

    grid = [FusionWeights(dense=w, behaviour=b) for w in DENSE_GRID for b in BEHAVIOUR_GRID]
    curve = {weights: mrr(lambda pool, w=weights: fuse(pool, w, CUTOFF)) for weights in grid}  # type: ignore[misc]
    chosen = max(grid, key=lambda weights: (curve[weights], weights.dense, -weights.behaviour))
    return FusionReport(
        weights=chosen,
        mrr=curve[chosen],
        dense_alone=curve[FusionWeights(dense=1.0)],
        lexical_alone=curve[FusionWeights(dense=0.0)],
        text=max(value for weights, value in curve.items() if weights.behaviour == 0),
        behaviour_alone=mrr(lambda pool: _pick(pool, _by_behaviour(pool)[:CUTOFF], pool.behaviour)),
        reciprocal_rank=mrr(lambda pool: fuse_reciprocal_rank(pool, CUTOFF)),
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
