"""Training pairs: reading them, drawing them, and making batches of them. Imports torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor

from corpus.errors import InputError
from corpus.prepared import Prepared
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import RetrieverTrainConfig
from retrieval.towers import TowerTokenizer, features_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPairs:
    """Every (search, item that answered it) of the training split."""

    queries: list[str]  # distinct texts
    query: IntArray  # (n,) position in ``queries``
    row: IntArray  # (n,) row of the item table
    weight: FloatArray  # (n,) above 0
    n_items: int  # size of the catalogue

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def read(cls, prepared: Prepared) -> "TrainingPairs":
        """Read the pairs of weight above 0.

        Raises:
            InputError: If there are fewer than two.
        """
        pairs = prepared.pairs("train")
        if len(pairs.row) < 2:
            raise InputError(
                f"expected at least 2 query-item pairs to train on, got {len(pairs.row)}; check that the event log's "
                "items are in the catalogue and that [data] event_weights count its events"
            )
        return cls(
            queries=pairs.queries,
            query=pairs.query,
            row=pairs.row,
            weight=pairs.weight,
            n_items=len(prepared.items),
        )

    def item_log_q(self, *, weighted: bool) -> FloatArray:
        """Return the log-probability that a drawn pair brings each item; -inf for items without a pair.

        Args:
            weighted: Whether pairs are drawn in proportion to their weights, or all alike.
        Returns:
            float32 (n_items,), natural logarithm.
        """
        counts = np.bincount(self.row, weights=self.weight if weighted else None, minlength=self.n_items)
        with np.errstate(divide="ignore"):
            log_q: FloatArray = np.log(counts / counts.sum()).astype(np.float32)
        return log_q


class PairSampler(DefaultBatchSampler):  # type: ignore[misc]  # the library is untyped
    """Draws an epoch's pairs in proportion to their weights, in an order that seed and epoch decide.

    A pair of weight w comes floor or ceil of n·w/Σw times per epoch (systematic resampling): equal weights give every
    pair exactly once, and none of the noise of drawing with replacement.

    Source: Kitagawa 1996, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space models".
    """

    def __init__(self, weights: FloatArray, batch_size: int, seed: int) -> None:
        """Take the pairs' weights.

        Args:
            weights: (n,) above 0.
            batch_size: Pairs per batch; the last may be smaller.
            seed: Seed of the order.
        """
        super().__init__(range(len(weights)), batch_size=batch_size, drop_last=False)
        shares = weights.astype(np.float64)
        self._upper = np.cumsum(shares) / shares.sum()
        self._seed = seed

    def draw(self, epoch: int) -> IntArray:
        """Return the (n,) pairs of an epoch, counted from 0, in order."""
        n = len(self._upper)
        rng = np.random.default_rng([self._seed, epoch])
        ticks = (np.arange(n) + rng.random()) / n
        chosen = np.searchsorted(self._upper, ticks, side="right").clip(max=n - 1)
        return rng.permutation(chosen)

    def __iter__(self) -> Iterator[list[int]]:
        chosen = self.draw(self.epoch)
        for start in range(0, len(chosen), self.batch_size):
            yield chosen[start : start + self.batch_size].tolist()


class PairCollator:
    """Makes a batch of pairs: texts to token ids, uniform negatives, and who answers whom.

    Every distinct text is encoded once, however often the batch holds it. The negatives depend on the seed and the
    batch's pairs alone, so that a resumed training sees the batches that it would have seen.
    """

    valid_label_columns: tuple[str, ...] = ()  # the trainer asks for it

    def __init__(
        self,
        pairs: TrainingPairs,
        texts: Sequence[str],
        config: RetrieverTrainConfig,
        *,
        query_tokenizer: TowerTokenizer,
        item_tokenizer: TowerTokenizer,
    ) -> None:
        """Take what batches are made of.

        Args:
            pairs: The training pairs.
            texts: The catalogue's passages, in row order.
            config: Says how many negatives are drawn, whether logQ is wanted, and where weights act.
            query_tokenizer: For the query tower.
            item_tokenizer: For the item tower.
        """
        self._pairs = pairs
        self._texts = texts
        self._config = config
        self._query_tokenizer = query_tokenizer
        self._item_tokenizer = item_tokenizer
        self._log_q = pairs.item_log_q(weighted=config.weighting == "sample")
        self._known = np.unique(pairs.query * pairs.n_items + pairs.row)  # (query, row) of every pair, as one number

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Return the batch that ``InBatchSoftmaxLoss`` reads.

        Args:
            examples: One ``{"pair": number}`` per pair.
        """
        chosen = np.array([example["pair"] for example in examples], dtype=np.int64)
        query, row = self._pairs.query[chosen], self._pairs.row[chosen]
        rng = np.random.default_rng([self._config.seed, *chosen.tolist()])
        uniform = rng.integers(self._pairs.n_items, size=self._config.n_uniform_negatives)
        rows = np.concatenate([row, uniform])  # (n_items,): the positives first
        queries, query_place = np.unique(query, return_inverse=True)
        items, item_place = np.unique(rows, return_inverse=True)
        labels = {
            "query": torch.from_numpy(query_place),
            "item": torch.from_numpy(item_place),
            "answers": torch.from_numpy(self._answers(query, rows)),
        }
        if self._config.logq:
            log_uniform = np.full(len(uniform), -np.log(self._pairs.n_items), dtype=np.float32)
            labels["log_q"] = torch.from_numpy(np.concatenate([self._log_q[row], log_uniform]))
        if self._config.weighting == "loss":
            labels["weights"] = torch.from_numpy(self._pairs.weight[chosen])
        return {
            **self._features("query", self._query_tokenizer, [self._pairs.queries[number] for number in queries]),
            **self._features("item", self._item_tokenizer, [self._texts[number] for number in items]),
            "label": labels,
        }

    def _features(self, side: str, tokenizer: TowerTokenizer, texts: Sequence[str]) -> dict[str, Tensor]:
        return {f"{side}_{name}": tensor for name, tensor in features_of(tokenizer(texts)).items()}

    def _answers(self, query: IntArray, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Tell which items answer which query anywhere in the training data: (n_queries, n_items)."""
        answers: npt.NDArray[np.bool_]
        if self._config.mask_answers == "item":
            answers = rows[: len(query), None] == rows[None, :]
        else:
            keys = query[:, None] * self._pairs.n_items + rows[None, :]
            found = np.searchsorted(self._known, keys).clip(max=len(self._known) - 1)
            answers = self._known[found] == keys
        return answers
