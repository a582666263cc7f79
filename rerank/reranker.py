"""The second stage: candidates in, the order that is served out."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError
from corpus.events import HistoryEvent
from corpus.items import ItemTable
from rerank.config import RerankerConfig
from rerank.heads import N_HEADS
from rerank.history import item_names
from rerank.inputs import PairTokenizer, PassageTokens, TokenArray
from rerank.scorer import Pairs, PairScorer, open_scorer, read_info
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates

logger = logging.getLogger(__name__)

DEADLINE = "reranker_deadline"  # some or all candidates kept the order of retrieval for lack of time
FAILED = "reranker_failed"  # all candidates kept the order of retrieval because the model broke

FIRST_CHUNK = 16  # pairs: about one page of results, and enough to measure the speed
LAST_CHUNK = 32  # pairs: bounds how late a wrong estimate can make an answer
LEAST_CHUNK = 4  # pairs: fewer are not worth a run of the model
SAFETY = 0.8  # share of the time left that a chunk may be expected to take


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """The served order of one query's candidates; the first four arrays run in parallel, best first."""

    order: IntArray  # (n,) positions in the candidates
    scores: FloatArray  # (n,) final, never rising
    rerank_scores: FloatArray  # (n,) of the cross-encoder; NaN where not scored
    probabilities: FloatArray  # (n, 3) of click, cart and purchase; NaN where not scored or unknown
    n_scored: int
    degraded: str | None  # DEADLINE, FAILED or None


class Reranker:
    """Orders candidates by reading query, history and item together.

    The final score of a scored candidate is ``rerank · w_rerank + retrieval · w_retrieval``. Candidates that time did
    not suffice for follow behind all scored ones in the order of retrieval; their final score is the lowest scored
    one minus how far retrieval puts them behind the first of them. So scores never rise along the list, and a caller
    may cut it anywhere, but a score compares only with scores of the same answer.

    Safe to call from several threads if the engine is.
    """

    def __init__(
        self,
        scorer: PairScorer,
        tokenizer: PairTokenizer,
        passage_tokens: PassageTokens,
        name_of: Callable[[str], str | None],
        config: RerankerConfig,
        score_weights: dict[str, float],
    ) -> None:
        """Join the parts of a reranker.

        Args:
            scorer: Runs the model.
            tokenizer: The model's tokenizer.
            passage_tokens: Pre-tokenised items, by row.
            name_of: An item's name by its id, None for unknown items; see ``rerank.history.item_names``.
            config: How inputs are written.
            score_weights: ``{"rerank": 1.0, "retrieval": w}``.
        """
        self.scorer = scorer
        self.tokenizer = tokenizer
        self.passage_tokens = passage_tokens
        self.config = config
        self.score_weights = score_weights
        self.clock = time.monotonic
        self._name_of = name_of
        self._seconds_per_token: float | None = None  # running estimate; a lost update between threads does no harm

    def rerank(
        self, query: str, history: Sequence[HistoryEvent], candidates: Candidates, *, deadline: float | None = None
    ) -> Reranked:
        """Order candidates for one shopper. A broken model raises nothing: the order of retrieval is the answer then.

        Args:
            query: The normalised query.
            history: The shopper's earlier events, newest first; empty for an anonymous one.
            candidates: What retrieval found, best first.
            deadline: When to be done, on the clock of ``time.monotonic``; None takes the time it needs.
        Returns:
            All candidates, ordered, with the reason in ``degraded`` if not all were scored.
        """
        logits = np.full((len(candidates), N_HEADS), np.nan, dtype=np.float32)
        try:
            prefix = self.tokenizer.prefix(query, history, self._name_of, self.config)
            n_scored = self._score(prefix, candidates.rows, logits, deadline)
        except Exception:  # a broken model must not fail the search
            logger.exception("the reranker failed; the order of retrieval is served")
            return self._ordered(candidates, self.scorer.ranking_values(logits), logits, 0, FAILED)
        scores = self.scorer.ranking_values(logits)
        if not np.isfinite(scores[:n_scored]).all():
            logger.error("the reranker answered NaN or infinity; the order of retrieval is served")
            return self._ordered(candidates, scores, logits, 0, FAILED)
        return self._ordered(candidates, scores, logits, n_scored, None if n_scored == len(candidates) else DEADLINE)

    def pairs(self, prefix: TokenArray, rows: IntArray) -> Pairs:
        """Return the inputs of one request's candidates."""
        return Pairs(prefixes=[prefix] * len(rows), passages=[self.passage_tokens.of(row) for row in rows.tolist()])

    def _score(self, prefix: TokenArray, rows: IntArray, logits: FloatArray, deadline: float | None) -> int:
        """Fill ``logits`` from the best candidate on while time lasts; returns how many were scored."""
        pairs = self.pairs(prefix, rows)
        if deadline is None:
            logits[:] = self.scorer.heads(pairs)
            return len(rows)
        done = 0
        while done < len(rows):
            began = self.clock()
            size = min(self._affordable(pairs, done, deadline - began), len(rows) - done)
            if size == 0:
                break
            chunk = slice(done, done + size)
            logits[chunk] = self.scorer.heads(Pairs(prefixes=pairs.prefixes[chunk], passages=pairs.passages[chunk]))
            self._learn(pairs, chunk, self.clock() - began)
            done += size
        return done

    def _affordable(self, pairs: Pairs, done: int, seconds_left: float) -> int:
        """Return how many of the pairs from ``done`` on to score next; 0 to stop."""
        most = FIRST_CHUNK if done == 0 else LAST_CHUNK
        if seconds_left <= 0:
            return 0
        if self._seconds_per_token is None:
            return most
        lengths = [len(prefix) + len(passage) + 1 for prefix, passage in _slice(pairs, done, done + most)]
        budget = SAFETY * seconds_left / self._seconds_per_token  # tokens
        size = int(np.searchsorted(np.cumsum(lengths), budget, side="right"))
        return size if size >= min(LEAST_CHUNK, len(lengths)) else 0

    def _learn(self, pairs: Pairs, chunk: slice, seconds: float) -> None:
        n_tokens = sum(len(prefix) + len(passage) + 1 for prefix, passage in _slice(pairs, chunk.start, chunk.stop))
        measured, known = seconds / n_tokens, self._seconds_per_token
        if measured <= 0:  # a clock too coarse to tell
            return
        self._seconds_per_token = measured if known is None else 0.7 * known + 0.3 * measured

    def _ordered(
        self, candidates: Candidates, scores: FloatArray, logits: FloatArray, n_scored: int, degraded: str | None
    ) -> Reranked:
        n = len(candidates)
        order = np.arange(n, dtype=np.int64)
        retrieval = candidates.scores.astype(np.float32)
        final = retrieval.copy()
        if n_scored > 0:
            final[:n_scored] = (
                self.score_weights["rerank"] * scores[:n_scored]
                + self.score_weights["retrieval"] * retrieval[:n_scored]
            )
            order[:n_scored] = np.argsort(-final[:n_scored], kind="stable")
            if n_scored < n:
                final[n_scored:] = final[:n_scored].min() + (retrieval[n_scored:] - retrieval[n_scored])
        else:
            scores = np.full(n, np.nan, dtype=np.float32)
            logits = np.full_like(logits, np.nan)
        return Reranked(
            order=order,
            scores=final[order],
            rerank_scores=scores[order],
            probabilities=self.scorer.probabilities(logits[order]),
            n_scored=n_scored,
            degraded=degraded,
        )


def open_reranker(
    folder: Path, passage_tokens: PassageTokens, items: ItemTable, *, n_threads: int | None = None
) -> Reranker:
    """Open a folder written by ``rerank.scorer.export_reranker``; needs no torch.

    Args:
        folder: The exported reranker.
        passage_tokens: Pre-tokenised items.
        items: The catalogue, for the names in histories.
        n_threads: Threads of the engine; None lets it decide.
    Raises:
        ArtefactError: If a file is missing or broken, or the passages are not those of the catalogue.
    """
    info = read_info(folder)
    scorer = open_scorer(folder, n_threads=n_threads)
    return join_reranker(scorer, passage_tokens, items, info.config, info.score_weights)


def join_reranker(
    scorer: PairScorer,
    passage_tokens: PassageTokens,
    items: ItemTable,
    config: RerankerConfig,
    score_weights: dict[str, float],
) -> Reranker:
    """Join a scorer of either engine and a catalogue to a reranker.

    Raises:
        ArtefactError: If the passages are not as many as the items.
    """
    if len(passage_tokens) != len(items):
        raise ArtefactError(
            f"expected the passages of {len(items):,} items, got {len(passage_tokens):,}; rebuild the bundle"
        )
    return Reranker(scorer, scorer.tokenizer, passage_tokens, item_names(items), config, score_weights)


def _slice(pairs: Pairs, begin: int, end: int) -> list[tuple[TokenArray, TokenArray]]:
    return list(zip(pairs.prefixes[begin:end], pairs.passages[begin:end], strict=True))
