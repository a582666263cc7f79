"""How good the reranked lists of validation queries are, and the score weights that make them best."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from corpus.prepared import Prepared
from rerank.config import RerankerConfig
from rerank.heads import N_HEADS, head_flags
from rerank.inputs import PairTokenizer, PassageTokens, TokenArray
from rerank.probabilities import Calibration, fit_calibration
from rerank.scorer import Pairs, PairScorer
from retrieval.arrays import FloatArray, IntArray
from retrieval.retriever import Retriever

logger = logging.getLogger(__name__)

CUTOFF = 10
_HISTORY_LENGTHS = (1, 3, 9)  # events from which a slice begins: a few, what is read by default, more than that
# weights of the retrieval score, in units of the scores' spreads: from the reranker alone to (nearly) retrieval alone
GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One validation."""

    metrics: dict[str, float]
    score_weights: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSet:
    """Validation queries with their candidates; queries that retrieval finds nothing for count as missed."""

    prefixes: list[TokenArray]  # one per query
    anonymous: list[TokenArray]  # the same without history
    n_events: IntArray  # (n_queries,) length of each history
    rows: list[IntArray]  # candidates, best first
    retrieval: FloatArray  # (n_queries, depth) scores; -inf behind the last candidate
    relevant: np.ndarray[tuple[int, int], np.dtype[np.bool_]]  # (n_queries, depth)
    chosen: npt.NDArray[np.bool_]  # (n_queries, depth, 3): which heads a candidate is a positive of
    passage_tokens: PassageTokens

    def __len__(self) -> int:
        return len(self.prefixes)

    def without_history(self, queries: IntArray) -> "ValidationSet":
        """Return some of the queries, as a shopper without history would ask them."""
        return replace(
            self,
            prefixes=[self.anonymous[query] for query in queries],
            anonymous=[self.anonymous[query] for query in queries],
            n_events=np.zeros(len(queries), dtype=np.int64),
            rows=[self.rows[query] for query in queries],
            retrieval=self.retrieval[queries],
            relevant=self.relevant[queries],
            chosen=self.chosen[queries],
        )

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where there is a candidate: bool (n_queries, depth)."""
        return np.isfinite(self.retrieval)

    def heads(self, scorer: PairScorer) -> FloatArray:
        """Return the heads' logits for all candidates, float32 (n_candidates, 3), query by query, best first."""
        return scorer.heads(
            Pairs(
                prefixes=[p for p, rows in zip(self.prefixes, self.rows, strict=True) for _ in range(len(rows))],
                passages=[self.passage_tokens.of(row) for rows in self.rows for row in rows.tolist()],
            )
        )

    def score(self, scorer: PairScorer) -> FloatArray:
        """Score all candidates, float32 (n_queries, depth); -inf behind the last candidate."""
        return self.spread(scorer.ranking_values(self.heads(scorer)))

    def spread(self, values: FloatArray) -> FloatArray:
        """Put the candidates' values into their places: float32 (n_candidates,) to (n_queries, depth), -inf behind."""
        scores = np.full(self.retrieval.shape, -np.inf, dtype=np.float32)
        scores[self.known] = values
        return scores


def build_validation(
    prepared: Prepared,
    retriever: Retriever,
    tokenizer: PairTokenizer,
    passage_tokens: PassageTokens,
    name_of: Callable[[str], str | None],
    config: RerankerConfig,
) -> ValidationSet:
    """Draw validation queries that have an answer, with their histories, and retrieve their candidates."""
    drawn = prepared.examples("valid", limit=config.train.valid_examples, seed=config.train.seed)
    examples = [example for example in drawn if any(label.weight > 0 for label in example.labels)]
    depth = config.train.valid_depth
    found = retriever.retrieve_batch([example.query for example in examples], depth) if examples else []
    retrieval = np.full((len(examples), depth), -np.inf, dtype=np.float32)
    relevant = np.zeros((len(examples), depth), dtype=bool)
    chosen = np.zeros((len(examples), depth, N_HEADS), dtype=bool)
    for line, (example, candidates) in enumerate(zip(examples, found, strict=True)):
        retrieval[line, : len(candidates)] = candidates.scores
        place_of = {row: place for place, row in enumerate(candidates.rows.tolist())}
        for label in example.labels:
            if label.row in place_of:
                relevant[line, place_of[label.row]] |= label.weight > 0
                chosen[line, place_of[label.row]] |= head_flags(label) > 0
    return ValidationSet(
        prefixes=[tokenizer.prefix(example.query, example.history, name_of, config) for example in examples],
        anonymous=[tokenizer.prefix(example.query, (), name_of, config) for example in examples],
        n_events=np.array([len(example.history) for example in examples], dtype=np.int64),
        rows=[candidates.rows for candidates in found],
        retrieval=retrieval,
        relevant=relevant,
        chosen=chosen,
        passage_tokens=passage_tokens,
    )


def validate(validation: ValidationSet, scorer: PairScorer) -> Outcome:
    """Rerank every query's candidates and fit the weight of the retrieval score.

    Of all weights that are not clearly worse than the best one, the largest is taken: a reranker that has shown no
    gain beyond chance leaves the order to retrieval. (Taking the best one outright let a reranker that had learned
    nothing, on 80 queries, take the order over and lose a third of the MRR on test.)

    The weight is fitted on the same queries that the blended figure is given for; one number chosen from fourteen
    on hundreds of queries makes it slightly too good, which the test split shows.

    Returns:
        MRR@10 of retrieval alone, of the reranker alone, and of both with the chosen weight (``mrr_at_10``, 0 if the
        model answers NaN); and the weights, such that the final score is rerank + w · retrieval.
    """
    reranked = validation.score(scorer)
    known = validation.known
    before = mean_reciprocal_rank(validation.retrieval, validation.relevant)
    if not np.isfinite(reranked[known]).all():
        logger.error("the reranker answered NaN or infinity in validation: its training diverged")
        return Outcome(
            metrics={"mrr_at_10": 0.0, "mrr_at_10_rerank_only": 0.0, "mrr_at_10_retrieval": before},
            score_weights={"rerank": 1.0, "retrieval": 1.0},
        )
    unit = _spread(reranked, known) / max(_spread(validation.retrieval, known), 1e-9)
    weights = [share * unit for share in GRID]
    found = np.stack(
        [reciprocal_ranks(_blend(reranked, validation.retrieval, w), validation.relevant) for w in weights]
    )  # (n_weights, n_queries)
    chosen = _largest_good(found)
    mrr = found.mean(axis=1) if len(validation) else np.zeros(len(weights))
    return Outcome(
        metrics={
            "mrr_at_10": float(mrr[chosen]),
            "mrr_at_10_rerank_only": float(mrr[0]),
            "mrr_at_10_retrieval": before,
        },
        score_weights={"rerank": 1.0, "retrieval": float(weights[chosen])},
    )


def calibrate(validation: ValidationSet, logits: FloatArray, heads: tuple[str, ...]) -> Calibration:
    """Fit the map from logit to probability of each head on the candidates of all queries.

    Args:
        validation: The queries.
        logits: Of the finished model, from ``ValidationSet.heads``.
        heads: Those that were trained.
    """
    if len(validation) == 0:
        return Calibration(maps={}, metrics={})
    queries = np.repeat(np.arange(len(validation)), [len(rows) for rows in validation.rows])
    return fit_calibration(logits, validation.chosen[validation.known], queries, heads)


def history_effect(
    validation: ValidationSet, scorer: PairScorer, logits: FloatArray, retrieval_weight: float
) -> dict[str, float]:
    """Tell what histories are worth: MRR@10 of the served order of the queries that have one, with it and without.

    Args:
        validation: The queries.
        scorer: Of the finished model.
        logits: Its answers to all queries, from ``ValidationSet.heads``.
        retrieval_weight: Of the retrieval score in the final one.
    Returns:
        ``mrr_at_10_with_history`` and ``mrr_at_10_without_history``, and the same by the length of the history, such as
        ``mrr_at_10_with_history_of_3_to_8``; nothing for lengths that no query has.
    """
    told = np.flatnonzero(validation.n_events > 0)
    if len(told) == 0:
        return {}
    personal = validation.spread(scorer.ranking_values(logits))[told]
    stripped = validation.without_history(told)
    found = {
        name: reciprocal_ranks(_blend(scores, stripped.retrieval, retrieval_weight), stripped.relevant)
        for name, scores in (("with", personal), ("without", stripped.score(scorer)))
    }
    lengths = validation.n_events[told]
    slices = {"": np.ones(len(told), dtype=bool)}
    for least, most in zip(_HISTORY_LENGTHS, (*_HISTORY_LENGTHS[1:], None), strict=True):
        name = f"_of_{least}_up" if most is None else f"_of_{least}_to_{most - 1}"
        slices[name] = (lengths >= least) & (True if most is None else lengths < most)
    return {
        f"mrr_at_10_{kind}_history{name}": float(ranks[chosen].mean())
        for name, chosen in slices.items()
        if chosen.any()
        for kind, ranks in found.items()
    }


def _largest_good(found: FloatArray) -> int:
    """Return the last line whose mean is within one standard error, paired by query, of the best line's.

    Source: the one-standard-error rule of Breiman et al. 1984, "Classification and regression trees", section 3.4.3.
    """
    n_queries = found.shape[1]
    if n_queries == 0:
        return len(found) - 1
    lost = found[np.argmax(found.mean(axis=1))] - found  # (n_weights, n_queries)
    error = lost.std(axis=1, ddof=1) / np.sqrt(n_queries) if n_queries > 1 else np.zeros(len(found))
    return int(np.flatnonzero(lost.mean(axis=1) <= error)[-1])


def mean_reciprocal_rank(scores: FloatArray, relevant: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> float:
    """Return MRR@10: the mean of 1 / rank of the first relevant candidate, 0 from rank 11 on.

    Args:
        scores: (n_queries, depth), higher is better; of equals the first in line leads.
        relevant: bool (n_queries, depth).
    Source: Voorhees 1999, TREC-8 question answering track.
    """
    return float(reciprocal_ranks(scores, relevant).mean()) if len(scores) else 0.0


def reciprocal_ranks(scores: FloatArray, relevant: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> FloatArray:
    """Return each query's 1 / rank of its first relevant candidate, float32 (n_queries,); see the mean above."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)[:, :CUTOFF]
    return np.where(hits.any(axis=1), 1.0 / (1.0 + hits.argmax(axis=1)), 0.0).astype(np.float32)


def _blend(reranked: FloatArray, retrieval: FloatArray, weight: float) -> FloatArray:
    known = np.isfinite(retrieval)
    return np.where(known, reranked + np.float32(weight) * np.where(known, retrieval, 0.0), -np.inf).astype(np.float32)


def _spread(scores: FloatArray, known: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> float:
    """Mean over queries of the standard deviation among a query's candidates."""
    spreads = [float(np.std(line[mask])) for line, mask in zip(scores, known, strict=True) if mask.any()]
    return float(np.mean(spreads)) if spreads else 0.0
