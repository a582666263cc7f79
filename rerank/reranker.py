"""The second stage: candidates in, the order that is served out."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corpus.errors import ArtefactError, DeadlineExceeded
from corpus.events import HistoryEvent
from corpus.items import ItemTable
from rerank.config import RerankerConfig
from rerank.explanation import explain_sum
from rerank.heads import N_HEADS
from rerank.history import item_names
from rerank.inputs import PassageTokens, TokenArray
from rerank.model_info import RerankerModelInfo
from rerank.parts import PartsOf, reordered, take_parts
from rerank.scorer import Pairs, PairScorer, open_scorer, open_torch_scorer, read_info
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.passages import passages

if TYPE_CHECKING:
    from rerank.blend import Blend  # lightgbm: a reranker without a blend goes without it

logger = logging.getLogger(__name__)

DEADLINE = "reranker_deadline"  # there was no time to read all that should be read
SLOW = "reranker_slow"  # there was time, but it is far slower than it has been: it was given what it used to take
FAILED = "reranker_failed"  # the cross-encoder broke and read nothing, or the blend did and the order lacks it

FIRST_CHUNK = 16  # pairs: about one page of results, and enough to measure the speed
LAST_CHUNK = 32  # pairs: bounds how late a wrong estimate can make an answer
LEAST_CHUNK = 4  # pairs: fewer are not worth a run of the model
SAFETY = 0.8  # share of the time left that a chunk may be expected to take
AMPLE_SHARE = 0.25  # of the time left: if all may be expected to take no more, chunks only make it slower
DOUBT = 0.9  # what is left of the known time per token, after a search that it kept from reading: it may be long past


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """The served order of one query's candidates; the first four arrays run in parallel, best first."""

    order: IntArray  # (n,) positions in the candidates
    scores: FloatArray  # (n,) final, never rising
    rerank_scores: FloatArray  # (n,) of the cross-encoder; NaN where it read nothing
    probabilities: FloatArray  # (n, 3) of click, cart and purchase; NaN where it read nothing or nobody knows
    n_scored: int  # candidates that the cross-encoder read
    degraded: str | None  # DEADLINE, SLOW, FAILED or None
    n_wanted: int | None = None  # of the candidates within the depth, how many it was to read; None: all
    busy_s: float = 0.0  # for how long the cross-encoder was at its present run, for others, when this was done
    parts_of: PartsOf | None = None  # what made up the scores, by positions here, if that was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What the cross-encoder made of some items."""

    logits: FloatArray  # (n_items, 3) NaN behind the first ``n``
    scores: FloatArray  # (n_items,) the ranking values of these
    n: int  # items read, from the first on
    degraded: str | None  # DEADLINE, SLOW, FAILED or None


class Reranker:
    """Orders candidates by reading query, history and item together, and by what the event log knows.

    Without a blend the cross-encoder reads the first ``depth`` candidates, and the final score of those it read is
    ``rerank · w_rerank + retrieval · w_retrieval``. The others follow behind in the order of retrieval; their final
    score is the lowest of those read minus how far retrieval puts them behind the first of them.

    With a blend, its first model chooses whom the cross-encoder reads, and its second orders all candidates. Whoever
    the first puts too far behind is not worth reading; see ``rerank.pruning``.

    So scores never rise along the list, and a caller may cut it anywhere, but a score compares only with scores of
    the same answer. Safe to call from several threads if the engine is.
    """

    def __init__(
        self,
        scorer: PairScorer,
        passage_tokens: PassageTokens,
        name_of: Callable[[str], str | None],
        config: RerankerConfig,
        score_weights: dict[str, float],
        blend: "Blend | None" = None,
    ) -> None:
        """Join the parts of a reranker.

        Args:
            scorer: Runs the model.
            passage_tokens: Pre-tokenised items, by row.
            name_of: An item's name by its id, None for unknown items; see ``rerank.history.item_names``.
            config: How inputs are written.
            score_weights: ``{"rerank": 1.0, "retrieval": w}``; heeded without a blend.
            blend: The learned blend, over the same catalogue.
        """
        self.scorer = scorer
        self.tokenizer = scorer.tokenizer
        self.passage_tokens = passage_tokens
        self.config = config
        self.score_weights = score_weights
        self.blend = blend
        self.clock = time.monotonic
        self.name_of = name_of
        self._seconds_per_token: float | None = None  # running estimate; a lost update between threads does no harm

    def with_blend(self, blend: "Blend | None") -> "Reranker":
        """Return the same cross-encoder under another blend, or under none."""
        return Reranker(self.scorer, self.passage_tokens, self.name_of, self.config, self.score_weights, blend)

    def with_scorer(self, scorer: PairScorer) -> "Reranker":
        """Return the same reranker, as fast as it is known to be, whose model somebody else runs."""
        after = Reranker(scorer, self.passage_tokens, self.name_of, self.config, self.score_weights, self.blend)
        after._seconds_per_token = self._seconds_per_token
        return after

    def with_items(
        self, passage_tokens: PassageTokens, name_of: Callable[[str], str | None], blend: "Blend | None"
    ) -> "Reranker":
        """Return the same cross-encoder, as fast as it is known to be, over other items."""
        after = Reranker(self.scorer, passage_tokens, name_of, self.config, self.score_weights, blend)
        after._seconds_per_token = self._seconds_per_token
        return after

    def rerank(
        self,
        query: str,
        history: Sequence[HistoryEvent],
        candidates: Candidates,
        *,
        depth: int | None = None,
        deadline: float | None = None,
        whole: bool = False,
        explain: bool = False,
    ) -> Reranked:
        """Order candidates for one shopper. A broken model raises nothing: what is left without it is the answer then.

        Args:
            query: The normalised query.
            history: The shopper's earlier events, newest first; empty for an anonymous one.
            candidates: What retrieval found, best first.
            depth: How many of them the cross-encoder may read; None: all.
            deadline: When to be done, on the clock of ``time.monotonic``; None takes the time it needs. A scorer may
                know that waiting so long is not worth it.
            whole: Whether it reads so many even if a blend finds fewer worth reading: who is not read has no
                probabilities.
            explain: Also tell what made up the scores.
        Returns:
            All candidates, ordered, with the reason in ``degraded`` if the cross-encoder read fewer than it might.
        """
        if self.blend is None:
            read = self._read(query, history, candidates.rows[:depth], deadline)
            return self._joined(candidates, read, explain=explain)
        try:
            features = self.blend.features(query, history, candidates)
            first = self.blend.first(features)  # (n,)
        except Exception:  # broken trees must not fail the search, either
            logger.exception("the blend failed; the cross-encoder orders without it")
            read = self._read(query, history, candidates.rows[:depth], deadline)
            return replace(self._joined(candidates, read, explain=explain), degraded=FAILED)
        best = self.blend.worth_reading(first, depth, whole=whole)
        read = self._read(query, history, candidates.rows[best], deadline)
        scores = np.full(len(candidates), np.nan, dtype=np.float32)
        scores[best] = read.scores
        final = self.blend.final(first, features, scores) if read.n else first
        parts_of = self.blend.explain(features, scores if read.n else None) if explain else None
        return self._reranked(np.argsort(-final, kind="stable"), final, best, read, parts_of)

    def score(self, query: str, history: Sequence[HistoryEvent], rows: IntArray) -> FloatArray:
        """Let the cross-encoder read some items, however long it takes; float32 (n,).

        Args:
            query: The normalised query.
            history: The shopper's earlier events, newest first.
            rows: int64 (n,) of the items.
        """
        return self.scorer.score(self.pairs(self._prefix(query, history), rows))

    def pairs(self, prefix: TokenArray, rows: IntArray) -> Pairs:
        """Return the inputs of one request's candidates."""
        return Pairs(prefixes=[prefix] * len(rows), passages=[self.passage_tokens.of(row) for row in rows.tolist()])

    def _prefix(self, query: str, history: Sequence[HistoryEvent]) -> TokenArray:
        return self.tokenizer.prefix(query, history, self.name_of, self.config)

    def _read(self, query: str, history: Sequence[HistoryEvent], rows: IntArray, deadline: float | None) -> _Read:
        """Score items from the first on while time lasts."""
        logits = np.full((len(rows), N_HEADS), np.nan, dtype=np.float32)
        nothing = _Read(logits=logits, scores=logits[:, 0], n=0, degraded=FAILED)
        filled = logits.copy()
        if deadline is not None and self.clock() >= deadline:
            return replace(nothing, degraded=DEADLINE if len(rows) else None)
        try:
            pairs = self.pairs(self._prefix(query, history), rows)
            short_of = DEADLINE
            if deadline is not None:
                patience_ends = self.clock() + self.scorer.patience_s(pairs.n_tokens)
                if patience_ends < deadline:
                    deadline, short_of = patience_ends, SLOW
            n = self._score(pairs, filled, deadline)
        except Exception:  # a broken model must not fail the search
            logger.exception("the reranker failed; candidates keep the order they had without it")
            return nothing
        scores = self.scorer.ranking_values(filled)
        if not np.isfinite(scores[:n]).all():
            logger.error("the reranker answered NaN or infinity; candidates keep the order they had without it")
            return nothing
        return _Read(logits=filled, scores=scores, n=n, degraded=None if n == len(rows) else short_of)

    def _score(self, pairs: Pairs, logits: FloatArray, deadline: float | None) -> int:
        """Fill ``logits`` from the first pair on while time lasts; returns how many were scored."""
        unread = self.scorer.recall(pairs, logits)
        done = self._read_on(pairs, unread, logits, deadline)
        if done == len(unread):
            return len(logits)
        logits[unread[done] :] = np.nan  # what is known of those behind does not count
        return unread[done]

    def _read_on(self, pairs: Pairs, unread: list[int], logits: FloatArray, deadline: float | None) -> int:
        """Read pairs from the first on while time lasts; returns how many of ``unread`` were."""
        if deadline is None:
            if unread:
                logits[unread] = self.scorer.heads(pairs.take(unread))
            return len(unread)
        lengths = pairs.take(unread).lengths
        done = 0
        while done < len(unread):
            began, backlog = self.clock(), self.scorer.backlog
            size = self._affordable(lengths[done:], deadline - began, backlog, first=done == 0)
            if size == 0:
                break
            chunk = slice(done, done + size)
            n_tokens = sum(lengths[chunk]) + backlog
            try:
                logits[unread[chunk]] = self.scorer.heads_by(pairs.take(unread[chunk]), deadline)
            except DeadlineExceeded:  # it would have taken longer than this, or the call was cancelled
                self._learn(n_tokens, self.clock() - began, at_least=True)
                break
            self._learn(n_tokens, self.clock() - began)
            done += size
        return done

    def _affordable(self, lengths: Sequence[int], seconds_left: float, backlog: int, *, first: bool) -> int:
        """Return how many of the pairs to score next; 0 to stop.

        Args:
            lengths: Tokens of each pair that is left.
            seconds_left: Until the deadline.
            backlog: Tokens that the model reads for others before.
            first: Whether nothing has been scored yet.
        """
        if seconds_left <= 0:
            return 0
        known = self._seconds_per_token
        n_left, n_tokens = len(lengths), sum(lengths)
        lengths = lengths[: FIRST_CHUNK if first else LAST_CHUNK]
        if known is None:
            return len(lengths)
        if (n_tokens + backlog) * known <= AMPLE_SHARE * seconds_left:
            return n_left
        budget = SAFETY * seconds_left / known - backlog  # tokens
        size = int(np.searchsorted(np.cumsum(lengths), budget, side="right"))
        if size >= min(LEAST_CHUNK, len(lengths)):
            return size
        if first and backlog == 0:
            self._seconds_per_token = DOUBT * known
        return 0

    def _learn(self, n_tokens: int, seconds: float, *, at_least: bool = False) -> None:
        measured, known = seconds / n_tokens, self._seconds_per_token
        if measured <= 0 or (at_least and measured <= (known or 0)):  # a clock too coarse to tell; nothing learned
            return
        self._seconds_per_token = measured if known is None else 0.7 * known + 0.3 * measured

    def _joined(self, candidates: Candidates, read: _Read, *, explain: bool) -> Reranked:
        """Order without a blend: a weighted sum where the cross-encoder read, retrieval behind."""
        n = len(candidates)
        order = np.arange(n, dtype=np.int64)
        retrieval = candidates.scores.astype(np.float32)
        final = retrieval.copy()
        if read.n > 0:
            weights = self.score_weights
            final[: read.n] = weights["rerank"] * read.scores[: read.n] + weights["retrieval"] * retrieval[: read.n]
            order[: read.n] = np.argsort(-final[: read.n], kind="stable")
            if read.n < n:
                final[read.n :] = final[: read.n].min() + (retrieval[read.n :] - retrieval[read.n])
        parts_of = None
        if explain:
            scores = np.full(n, np.nan, dtype=np.float32)
            scores[: len(read.scores)] = read.scores
            parts_of = partial(take_parts, explain_sum(candidates, scores, final, self.score_weights, read.n))
        return self._reranked(order, final, np.arange(len(read.scores)), read, parts_of)

    def _reranked(
        self, order: IntArray, final: FloatArray, places: IntArray, read: _Read, parts_of: PartsOf | None
    ) -> Reranked:
        """Put an answer together; ``places`` are the positions of the items that were to be read."""
        logits = np.full((len(order), N_HEADS), np.nan, dtype=np.float32)
        scores = np.full(len(order), np.nan, dtype=np.float32)
        logits[places], scores[places] = read.logits, read.scores
        return Reranked(
            order=order,
            scores=final[order],
            rerank_scores=scores[order],
            probabilities=self.scorer.probabilities(logits[order]),
            n_scored=read.n,
            degraded=read.degraded,
            n_wanted=len(places),
            busy_s=self.scorer.busy_s,
            parts_of=None if parts_of is None else reordered(parts_of, order),
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


def open_torch_reranker(version_folder: Path, items: ItemTable) -> Reranker:
    """Open a trained version over a catalogue, without a bundle: its passages are tokenised here. Imports torch.

    Raises:
        ArtefactError: If it is not a finished version.
    """
    info = RerankerModelInfo.load(version_folder)
    scorer = open_torch_scorer(version_folder)
    texts = passages(items, info.config.item_fields)
    tokens = PassageTokens.build(scorer.tokenizer, texts, info.config.max_item_tokens)
    return join_reranker(scorer, tokens, items, info.config, info.score_weights)


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
    return Reranker(scorer, passage_tokens, item_names(items), config, score_weights)
