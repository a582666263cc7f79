"""What speed costs: quality beside the plain fp32 path on judged test queries, and whether answers are the same twice.

The plain fp32 path is the same chain, first stage and blend included, with torch's fp32 scores of all candidates in the
place of what is served: no int8, no candidate left out.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.latency_models import ONNX, PLAIN, TANDEM, Models
from corpus.prepared import Example, Prepared
from indexer.bundle import Bundle
from rerank.reranker import Reranker
from rerank.scorer import Pairs, PairScorer
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.metrics import evaluate_rankings

logger = logging.getLogger(__name__)

TOP = 10
RETRIEVED = 200  # candidates of a search, as the server finds by default
ALL_READ = "Tandem, all read"  # also what the blend puts out of reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One test query with what the first stage found for it."""

    example: Example
    candidates: Candidates


def judged_queries(bundle: Bundle, prepared: Prepared, *, n: int, seed: int) -> list[Judged]:
    """Draw test queries that led to something, and find their candidates with the tables from before the test."""
    drawn = prepared.examples("test", limit=4 * n, seed=seed)
    examples = [example for example in drawn if any(label.grade > 0 for label in example.labels)][:n]
    found = bundle.retriever.retrieve_batch([example.query for example in examples], RETRIEVED)
    return [Judged(example=example, candidates=rows) for example, rows in zip(examples, found, strict=True)]


def measure_quality(models: Models, served: Reranker, judged: Sequence[Judged], *, depth: int) -> list[dict[str, Any]]:
    """Compare what is served, and ONNX Runtime in its place, with the plain fp32 path.

    Args:
        models: The same weights in every system.
        served: The bundle's second stage, over tables from before the test.
        judged: From ``judged_queries``.
        depth: Candidates that the cross-encoder may read.
    """
    qrels = {
        each.example.query_id: {label.row: label.grade for label in each.example.labels if label.grade > 0}
        for each in judged
    }
    systems = {
        PLAIN: through(served, models.fp32),
        ALL_READ: served,
        TANDEM: served,
        ONNX: through(served, models.onnx),
    }
    runs: dict[str, dict[str, list[int]]] = {}
    for name, reranker in systems.items():
        logger.info("quality of %s on %d queries", name, len(judged))
        runs[name] = {each.example.query_id: _order(reranker, each, depth, whole=name != TANDEM) for each in judged}
    measured = {name: evaluate_rankings(run, qrels)["nDCG@10"] for name, run in runs.items()}
    return [_compared(name, runs, measured) for name in systems]


def measure_determinism(
    scorer: PairScorer, served: Reranker, judged: Sequence[Judged], *, depth: int
) -> dict[str, Any]:
    """Score each query's candidates alone, beside another query's and in other batches; tell how often that shows.

    Args:
        scorer: The engine to try.
        served: Makes the inputs.
        judged: Queries; the next one of the list shares the batches.
        depth: Candidates of each.
    """
    # the budget of tokens decides the batches; of one scorer, so that a model is in memory once
    budgets = [
        PairScorer(scorer.engine, scorer.tokenizer, _one_head(scorer), batch_tokens=budget) for budget in (1024, 16384)
    ]
    inputs = [_pairs(served, each, depth) for each in judged]
    order_changed = members_changed = 0
    largest = 0.0
    for number, own in enumerate(inputs):
        other = inputs[(number + 1) % len(inputs)]
        both = Pairs(prefixes=[*own.prefixes, *other.prefixes], passages=[*own.passages, *other.passages])
        first = scorer.ranking_values(scorer.heads(own))
        again = [scorer.ranking_values(each.heads(own)) for each in budgets]
        again.append(scorer.ranking_values(scorer.heads(both))[: len(first)])
        want = _top(first)
        order_changed += any(not np.array_equal(_top(scores), want) for scores in again)
        members_changed += any(set(_top(scores).tolist()) != set(want.tolist()) for scores in again)
        largest = max(largest, *(float(np.abs(scores - first).max(initial=0)) for scores in again))
    return {
        "n_queries": len(inputs),
        "depth": depth,
        "order_changed": round(order_changed / max(len(inputs), 1), 4),
        "members_changed": round(members_changed / max(len(inputs), 1), 4),
        "largest_difference": largest,
    }


def through(served: Reranker, scorer: PairScorer) -> Reranker:
    """Return the same second stage with every candidate read by another engine."""
    return Reranker(scorer, served.passage_tokens, served.name_of, served.config, served.score_weights, served.blend)


def _order(reranker: Reranker, each: Judged, depth: int, *, whole: bool) -> list[int]:
    found = reranker.rerank(each.example.query, each.example.history, each.candidates, depth=depth, whole=whole)
    rows: list[int] = each.candidates.rows[found.order].tolist()
    return rows


def _compared(name: str, runs: dict[str, dict[str, list[int]]], measured: dict[str, FloatArray]) -> dict[str, Any]:
    lost = measured[PLAIN] - measured[name]
    shared = [
        len(set(run[:TOP]) & set(runs[name][query][:TOP])) / max(len(run[:TOP]), 1)
        for query, run in runs[PLAIN].items()
    ]
    mean = float(measured[PLAIN].mean())
    return {
        "system": name,
        "n_queries": len(lost),
        "ndcg": round(float(measured[name].mean()), 4),
        "lost": round(float(lost.mean()), 4),
        "lost_error": round(float(1.96 * lost.std() / np.sqrt(max(len(lost), 1))), 4),
        "lost_share": round(float(lost.mean()) / mean, 4) if mean > 0 else None,
        "overlap": round(float(np.mean(shared)), 4),
        "same_members": round(float(np.mean([share == 1 for share in shared])), 4),
    }


def _pairs(served: Reranker, each: Judged, depth: int) -> Pairs:
    example = each.example
    prefix = served.tokenizer.prefix(example.query, example.history, served.name_of, served.config)
    return served.pairs(prefix, each.candidates.rows[:depth])


def _one_head(scorer: PairScorer) -> dict[str, float]:
    """Return weights for a scorer whose own ranking values are not asked for."""
    return {"click": 1.0, "cart": 0.0, "purchase": 0.0}


def _top(scores: FloatArray) -> IntArray:
    return np.argsort(-scores, kind="stable")[:TOP]
