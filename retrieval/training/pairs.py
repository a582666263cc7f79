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
from retrieval.training.augmentation import augment
from retrieval.training.hard_negatives import HardNegatives
from retrieval.training.processes import share_of
from retrieval.training.towers import TowerTokenizer, features_of


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

    def keys(self, query: IntArray, row: IntArray) -> IntArray:
        """Return (query, row) pairs as one number each; the arrays broadcast."""
        return query * self.n_items + row

    def draw_weights(self, *, weighted: bool) -> FloatArray:
        """Return (n,) numbers in proportion to which pairs are drawn: their weights, or all alike."""
        return self.weight if weighted else np.ones_like(self.weight)

    def item_log_q(self, *, weighted: bool) -> FloatArray:
        """Return the log-probability that a drawn pair brings each item; -inf for items without a pair.

        Args:
            weighted: Whether pairs are drawn in proportion to their weights, or all alike.
        Returns:
            float32 (n_items,), natural logarithm.
        """
        counts = np.bincount(self.row, weights=self.draw_weights(weighted=weighted), minlength=self.n_items)
        with np.errstate(divide="ignore"):
            log_q: FloatArray = np.log(counts / counts.sum()).astype(np.float32)
        return log_q


def holds(known: IntArray, keys: IntArray) -> npt.NDArray[np.bool_]:
    """Tell which keys, of any shape, are among the known ones, which are ascending."""
    if len(known) == 0:
        return np.zeros(keys.shape, dtype=np.bool_)
    found: npt.NDArray[np.bool_] = known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys
    return found


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
    """Makes a batch of pairs: texts to token ids, uniform and mined negatives, and who answers whom.

    Every distinct text is encoded once, however often the batch holds it; of several processes that train together,
    each encodes its share. The negatives and the typing errors depend on the seed and the batch's pairs alone, so
    that a resumed training sees the batches that it would have seen.
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
        mined: HardNegatives | None = None,
    ) -> None:
        """Take what batches are made of.

        Args:
            pairs: The training pairs.
            texts: The catalogue's passages, in row order.
            config: Says how many negatives are drawn, whether logQ is wanted, and where weights act.
            query_tokenizer: For the query tower.
            item_tokenizer: For the item tower.
            mined: Where hard negatives are drawn from; None: there are none.
        """
        self._pairs = pairs
        self._texts = texts
        self._config = config
        self._query_tokenizer = query_tokenizer
        self._item_tokenizer = item_tokenizer
        self._mined = mined
        weighted = config.weighting == "sample"
        self._log_q = pairs.item_log_q(weighted=weighted)
        if mined is not None:
            self._mined_log_q = mined.log_q(
                pairs.query, pairs.draw_weights(weighted=weighted), config.hard_negatives, n_items=pairs.n_items
            )
        self._known = np.unique(pairs.keys(pairs.query, pairs.row))

    def __call__(self, examples: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Return the batch that ``InBatchSoftmaxLoss`` reads.

        Args:
            examples: One ``{"pair": number}`` per pair.
        """
        chosen = np.array([example["pair"] for example in examples], dtype=np.int64)
        query, row = self._pairs.query[chosen], self._pairs.row[chosen]
        rng = np.random.default_rng([self._config.seed, *chosen.tolist()])
        uniform = rng.integers(self._pairs.n_items, size=self._config.n_uniform_negatives)
        mined = self._draw_mined(chosen, query, rng)
        rows = np.concatenate([row, uniform, mined])  # (n_items,): the positives first
        texts = self._query_texts(query, rng)
        place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        items, item_place = np.unique(rows, return_inverse=True)
        labels = {
            "query": torch.tensor([place_of[text] for text in texts]),
            "item": torch.from_numpy(item_place),
            "answers": torch.from_numpy(self._answers(query, rows, n_mined=len(mined))),
        }
        if self._config.logq:
            log_uniform = np.full(len(uniform), -np.log(self._pairs.n_items), dtype=np.float32)
            log_mined = self._mined_log_q[mined] if self._mined is not None else log_uniform[:0]
            labels["log_q"] = torch.from_numpy(np.concatenate([self._log_q[row], log_uniform, log_mined]))
        if self._config.weighting == "loss":
            labels["weights"] = torch.from_numpy(self._pairs.weight[chosen])
        return {
            **self._features("query", self._query_tokenizer, list(place_of)),
            **self._features("item", self._item_tokenizer, [self._texts[number] for number in items]),
            "label": labels,
        }

    def _query_texts(self, query: IntArray, rng: np.random.Generator) -> list[str]:
        """Return each pair's query, some as shoppers mistype them; who answers them stays the same."""
        texts = [self._pairs.queries[number] for number in query]
        mistyped = rng.random(len(texts)) < self._config.typo_share
        return [augment(text, rng) if typo else text for text, typo in zip(texts, mistyped, strict=True)]

    def _features(self, side: str, tokenizer: TowerTokenizer, texts: Sequence[str]) -> dict[str, Tensor]:
        share = texts[share_of(len(texts))] or texts[:1]  # a tower cannot run on nothing
        return {f"{side}_{name}": tensor for name, tensor in features_of(tokenizer(share)).items()}

    def _draw_mined(self, chosen: IntArray, query: IntArray, rng: np.random.Generator) -> IntArray:
        if self._mined is None:
            return np.empty(0, dtype=np.int64)
        n = self._config.hard_negatives
        drawn = [self._mined.draw(pair, number, n, rng) for pair, number in zip(chosen, query, strict=True)]
        return np.concatenate(drawn)

    def _answers(self, query: IntArray, rows: IntArray, *, n_mined: int) -> npt.NDArray[np.bool_]:
        """Tell which items take no part as negatives of which query: (n_queries, n_items).

        Mined items, the last ones, never oppose a query that they answer, whatever ``mask_answers`` says: they are
        drawn for being near, and how often shoppers of the query choose them has no part in that.
        """
        answers: npt.NDArray[np.bool_] = holds(self._known, self._pairs.keys(query[:, None], rows[None, :]))
        if self._config.mask_answers == "item":
            drawn = len(rows) - n_mined
            answers[:, :drawn] = rows[: len(query), None] == rows[None, :drawn]
        return answers
