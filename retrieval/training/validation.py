"""How good the towers are while they are trained: cheap, and the same questions every time."""

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator

from corpus.prepared import Example, Prepared
from retrieval.arrays import FloatArray, IntArray, cut
from retrieval.config import RetrieverConfig
from retrieval.training.towers import encode_texts

MRR = "MRR@10"
HIT = "hit@100"


def first_positive_ranks(scores: FloatArray, positives: Sequence[IntArray]) -> IntArray:
    """Return the rank, from 1, of each query's best-placed positive.

    Args:
        scores: (n_queries, n_items), higher is better; equal scores rank in the order of the items.
        positives: Columns of each query's positives, at least one.
    """
    ranks = np.empty(len(scores), dtype=np.int64)
    for number, (row, columns) in enumerate(zip(scores, positives, strict=True)):
        best = columns[np.lexsort((columns, -row[columns]))[0]]
        ranks[number] = 1 + np.count_nonzero(row > row[best]) + np.count_nonzero(row[:best] == row[best])
    return ranks


class Validation(BaseEvaluator):  # type: ignore[misc]  # the library is untyped
    """Ranks a fixed sample of the catalogue for a fixed sample of validation queries, dense scores alone.

    The figures are higher than over the whole catalogue; they choose the best checkpoint, and are no quality claim.
    """

    def __init__(
        self, examples: Sequence[Example], rows: IntArray, texts: Sequence[str], config: RetrieverConfig
    ) -> None:
        """Take the questions.

        Args:
            examples: Validation examples, each with a label of weight above 0.
            rows: (n,) rows of the sampled items, ascending; every positive is among them.
            texts: The catalogue's passages, in row order.
            config: Token limits.
        """
        super().__init__()
        self.primary_metric = MRR
        self.queries = [example.query for example in examples]
        self.rows = rows
        self._texts = [texts[row] for row in rows]
        self._positives = [np.searchsorted(rows, positive_rows(example)) for example in examples]
        self._config = config

    @classmethod
    def sample(cls, prepared: Prepared, texts: Sequence[str], config: RetrieverConfig) -> "Validation | None":
        """Draw the questions by the training's seed; None if no validation example has a positive."""
        train = config.train
        drawn = prepared.examples("valid", limit=train.valid_examples, seed=train.seed, with_history=False)
        examples = [example for example in drawn if len(positive_rows(example))]
        if not examples:
            return None
        rng = np.random.default_rng(train.seed)
        sampled = rng.choice(len(texts), size=min(train.valid_items, len(texts)), replace=False)
        rows = np.unique(np.concatenate([sampled, *map(positive_rows, examples)])).astype(np.int64)
        return cls(examples, rows, texts, config)

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return MRR@10 and hit@100 of the towers as they are now."""
        config = self._config
        queries = encode_texts(model, self.queries, role="query", max_tokens=config.max_query_tokens)
        items = encode_texts(model, self._texts, role="item", max_tokens=config.max_item_tokens)
        scores = cut(queries, config.dim) @ cut(items, config.dim).T  # as they will be served
        ranks = first_positive_ranks(scores, self._positives)
        return {
            MRR: float(np.where(ranks <= 10, 1.0 / ranks, 0.0).mean()),
            HIT: float((ranks <= 100).mean()),
        }


def positive_rows(example: Example) -> IntArray:
    """Return the rows of the items with a weight above 0."""
    return np.array([label.row for label in example.labels if label.weight > 0], dtype=np.int64)
