"""The second stage: candidates in, the order that is served out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corpus.events import HistoryEvent
from corpus.items import ItemTable
from rerank.config import RerankerConfig
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates

if TYPE_CHECKING:
    from rerank.inputs import PairTokenizer, PassageTokens
    from rerank.scorer import PairScorer

DEADLINE = "reranker_deadline"  # some or all candidates kept the order of retrieval for lack of time
FAILED = "reranker_failed"  # all candidates kept the order of retrieval because the model broke


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """The served order of one query's candidates; the first three arrays run in parallel, best first."""

    order: IntArray  # (n,) positions in the candidates
    scores: FloatArray  # (n,) final, never rising
    rerank_scores: FloatArray  # (n,) of the cross-encoder; NaN where not scored
    n_scored: int
    degraded: str | None  # DEADLINE, FAILED or None


class Reranker:
    """Orders candidates by reading query, history and item together."""

    def __init__(
        self,
        scorer: "PairScorer",
        tokenizer: "PairTokenizer",
        passage_tokens: "PassageTokens",
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
        raise NotImplementedError

    def rerank(
        self, query: str, history: Sequence[HistoryEvent], candidates: Candidates, *, deadline: float | None = None
    ) -> Reranked:
        """Order candidates for one shopper (``deadline`` on the clock of ``time.monotonic``)."""
        raise NotImplementedError


def open_reranker(
    folder: Path, passage_tokens: "PassageTokens", items: ItemTable, *, n_threads: int | None = None
) -> Reranker:
    """Open a folder written by ``rerank.scorer.export_reranker``; needs no torch."""
    raise NotImplementedError
