"""Joining the dense and the lexical channel, and fitting their weight.

    score = w * dense + (1 - w) * lexical / (best lexical score of this query)

``dense`` is the cosine, exact for every candidate, also for those that only the lexical channel returned. The
lexical score of a candidate that only the dense channel returned counts as 0: it is below all those of the full
lexical list. A convex combination of this kind, its one weight fitted on a few labelled queries, beats
reciprocal-rank fusion in and out of domain. Whatever the weight, as long as both channels take part, the best lexical
hits keep a few places: the dense channel alone can miss what was typed exactly.
Source: Bruch, Gai & Ingber 2023, An Analysis of Fusion Functions for Hybrid Retrieval, sections 4 and 5.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from corpus.config import Section
from corpus.errors import ConfigError, InputError
from corpus.prepared import Example
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates

# 0, 0.05, ... 0.95 and a weight that all but ignores BM25; 1 is no choice, since it would search without words
GRID = (*(step / 20 for step in range(20)), 0.99)
CUTOFF = 10
LEXICAL_EVERY = 10  # of the first 10 candidates one at least is the best lexical hit, of the first 20 two, and so on
RECIPROCAL_RANK_K = 60  # Cormack, Clarke & Büttcher 2009, section 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The union of both channels' candidates for one query, not yet ordered; all arrays (n,)."""

    rows: IntArray  # ascending, each once
    dense: FloatArray  # exact inner product
    lexical: FloatArray  # BM25; NaN where the lexical channel did not return the item
    dense_rank: IntArray  # rank from 1 in the dense channel; 0 where it did not return the item
    lexical_rank: IntArray  # the same for the lexical channel


class PoolSource(Protocol):
    """Whatever collects both channels' candidates: a ``Retriever``."""

    def pools(self, queries: Sequence[str], k: int) -> list[Pool]:
        """Return one pool per query with up to k candidates of each channel."""
        ...


class FusionRecall(Section):
    """How much of what is relevant stands among the candidates: what a second stage can still put first."""

    depth: int  # so many candidates
    chosen: float  # at the chosen weight
    curve: dict[str, float]  # by weight, "0.00" to "1.00"
    dense_alone: float
    lexical_alone: float
    reciprocal_rank: float


class FusionReport(Section):
    """Outcome of fitting the fusion weight on validation examples; figures are MRR@10 where they say nothing else."""

    dense_weight: float  # chosen
    mrr: float  # at the chosen weight
    curve: dict[str, float]  # by weight, "0.00" to "1.00"
    dense_alone: float
    lexical_alone: float
    reciprocal_rank: float  # reciprocal-rank fusion, k = 60
    recall: FusionRecall | None = None  # None: a model from before recall was fitted
    n_examples: int


def make_pool(
    dense: tuple[IntArray, FloatArray],
    lexical: tuple[IntArray, FloatArray],
    dense_of: Callable[[IntArray], FloatArray],
) -> Pool:
    """Unite both channels' hits for one query.

    Args:
        dense: Rows int64 (n,) and inner products, best first.
        lexical: Rows int64 (m,) and BM25 scores, best first.
        dense_of: Exact inner products of rows that the dense channel did not return.
    Returns:
        The union, at most n + m candidates.
    """
    rows = np.union1d(dense[0], lexical[0]).astype(np.int64, copy=False)
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
    return Pool(rows=rows, dense=cosine, lexical=bm25, dense_rank=dense_rank, lexical_rank=lexical_rank)


def fuse(pool: Pool, dense_weight: float, k: int) -> Candidates:
    """Order a pool by the convex combination at the top of this module.

    Args:
        pool: Both channels' candidates.
        dense_weight: w; 1 is the dense channel alone, 0 the lexical channel alone: either leaves out what the
            other channel found.
        k: Most candidates.
    Returns:
        Candidates, best first; equal scores by dense score, then in row order. Between 0 and 1, the m-th lexical hit
        comes at place ``LEXICAL_EVERY`` x m at the latest, with the score of what follows it.
    Raises:
        ConfigError: If the weight is not within [0, 1].
    """
    check_weight(dense_weight)
    lexical = _relative(pool.lexical)
    scores = (dense_weight * pool.dense + (1 - dense_weight) * lexical).astype(np.float32)
    order = np.lexsort((pool.rows, -pool.dense, -scores))
    if dense_weight == 1:
        order = order[pool.dense_rank[order] > 0]
    elif dense_weight == 0:
        order = order[pool.lexical_rank[order] > 0]
    else:
        order = _with_lexical_places(pool, order, k)
    # what was moved up counts as much as what it was put before
    scores[order] = np.maximum.accumulate(scores[order][::-1])[::-1]
    return _pick(pool, order[:k], scores)


def fuse_reciprocal_rank(pool: Pool, k: int) -> Candidates:
    """Order a pool by the sum over channels of 1 / (60 + rank); a channel that lacks the item adds nothing.

    Source: Cormack, Clarke & Büttcher 2009, Reciprocal Rank Fusion Outperforms Condorcet, section 2.
    """
    scores = np.zeros(len(pool.rows), dtype=np.float32)
    for rank in (pool.dense_rank, pool.lexical_rank):
        scores += np.where(rank > 0, 1 / (RECIPROCAL_RANK_K + rank), 0).astype(np.float32)
    return _pick(pool, np.lexsort((pool.rows, -pool.dense, -scores))[:k], scores)


def fit_fusion(source: PoolSource, examples: Sequence[Example], *, depth: int = 100) -> FusionReport:
    """Choose the dense weight by the mean of MRR@10 and recall on validation examples.

    The order matters where no second stage follows; what is not among the candidates, no second stage can order.
    Candidates are found once per distinct query, and only reweighted.

    Args:
        source: A retriever; its own weight plays no part.
        examples: Validation examples; those without a label of weight above 0 are left out.
        depth: Candidates per channel, and those among which recall is counted.
    Returns:
        The best weight of ``GRID`` (of equals the largest: the dense channel knows synonyms that a small
        validation set may not show), and what the alternatives score.
    Raises:
        InputError: If no example has a positive label.
    """
    judged = [(e.query, {label.row for label in e.labels if label.weight > 0}) for e in examples]
    judged = [(query, relevant) for query, relevant in judged if relevant]
    if not judged:
        raise InputError("expected validation examples with a positive label to fit the fusion weight, got none")
    queries = list(dict.fromkeys(query for query, _ in judged))
    pools = dict(zip(queries, source.pools(queries, depth), strict=True))
    wanted = max(depth, CUTOFF)

    def measure(rank: Callable[[Pool], Candidates]) -> tuple[float, float]:
        best = {query: rank(pool).rows for query, pool in pools.items()}
        mrr = np.mean([_reciprocal_rank(best[query][:CUTOFF], relevant) for query, relevant in judged])
        recall = np.mean([_recall(best[query][:depth], relevant) for query, relevant in judged])
        return float(mrr), float(recall)

    curve = {w: measure(lambda pool, w=w: fuse(pool, w, wanted)) for w in (*GRID, 1.0)}  # type: ignore[misc]
    chosen = max(GRID, key=lambda weight: (sum(curve[weight]), weight))
    by_ranks = measure(lambda pool: fuse_reciprocal_rank(pool, wanted))
    return FusionReport(
        dense_weight=chosen,
        mrr=curve[chosen][0],
        curve={f"{weight:.2f}": mrr for weight, (mrr, _) in curve.items()},
        dense_alone=curve[1.0][0],
        lexical_alone=curve[0.0][0],
        reciprocal_rank=by_ranks[0],
        recall=FusionRecall(
            depth=depth,
            chosen=curve[chosen][1],
            curve={f"{weight:.2f}": recall for weight, (_, recall) in curve.items()},
            dense_alone=curve[1.0][1],
            lexical_alone=curve[0.0][1],
            reciprocal_rank=by_ranks[1],
        ),
        n_examples=len(judged),
    )


def check_weight(dense_weight: float) -> None:
    """Refuse a weight outside [0, 1].

    Raises:
        ConfigError: If it is.
    """
    if not 0 <= dense_weight <= 1:
        raise ConfigError(f"expected a dense weight in [0, 1], got {dense_weight}; mend retriever.fusion.dense_weight")


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
    return Candidates(rows=pool.rows[order], scores=scores[order], dense=pool.dense[order], lexical=pool.lexical[order])


def _reciprocal_rank(rows: IntArray, relevant: Collection[int]) -> float:
    hits = np.flatnonzero(np.isin(rows, list(relevant)))
    return 1 / (1 + int(hits[0])) if len(hits) else 0.0


def _recall(rows: IntArray, relevant: Collection[int]) -> float:
    return int(np.isin(rows, list(relevant)).sum()) / len(relevant)
