"""A reranker over an engine that answers by rule and takes the clock's time for it."""

from collections.abc import Callable

import numpy as np

from rerank.config import RerankerConfig
from rerank.probabilities import Isotonic, Platt, ProbabilityMap
from rerank.reranker import Reranked
from retrieval.candidates import Candidates

CONFIG = RerankerConfig(max_query_tokens=8, max_history_tokens=24, max_item_tokens=16)
N_ITEMS = 60
SECONDS_PER_PAIR = 0.001
MAPS: dict[str, ProbabilityMap] = {
    "click": Platt(slope=1.0, intercept=0.0),
    "purchase": Isotonic(logits=(-8.0, -6.0), probabilities=(0.2, 0.4)),
}


class Engine:
    """Scores each pair by its item, and takes the clock's time for it."""

    def __init__(self, score_of: Callable[[int], float]) -> None:
        self.score_of = score_of
        self.now = 100.0
        self.n_run = 0

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
        self.now += SECONDS_PER_PAIR * len(input_ids)
        self.n_run += len(input_ids)
        items = [int(line[types == 1][0]) for line, types in zip(input_ids, token_type_ids, strict=True)]
        return np.array([[self.score_of(item), 7, -7] for item in items], dtype=np.float32)


def candidates(n: int) -> Candidates:
    scores = np.linspace(1.0, 0.1, n, dtype=np.float32)
    return Candidates(
        rows=np.arange(n, dtype=np.int64),
        scores=scores,
        dense=scores,
        lexical=np.full(n, np.nan, dtype=np.float32),
        behaviour=np.zeros(n, dtype=np.float32),
    )


def check_order(answer: Reranked, n: int) -> None:
    assert sorted(answer.order.tolist()) == list(range(n))
    assert (np.diff(answer.scores) <= 0).all()
    assert np.isfinite(answer.rerank_scores).sum() == answer.n_scored


def check(answer: Reranked, n: int) -> None:
    check_order(answer, n)
    assert answer.probabilities.shape == (n, 3)
    assert answer.probabilities.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(answer.probabilities[:, 0]), np.isnan(answer.rerank_scores))
    assert np.isnan(answer.probabilities[:, 1]).all()  # that head has no map
