"""Training lists as the Trainer reads them: drawn anew in every epoch, ordered by length, padded together."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from rerank.candidates import TrainingList, draw, n_draws
from rerank.config import RerankerConfig
from rerank.heads import N_HEADS
from rerank.inputs import PairTokenizer, PassageTokens, TokenArray, assemble

_GROUP = 50  # batches that are sorted by length together: enough for little padding, few enough to stay random


class ListDataset(Dataset[dict[str, Any]]):
    """Entry ``i`` in epoch ``e`` is a function of seed, ``e`` and ``i`` alone, so that a resumed run sees the same."""

    def __init__(
        self,
        lists: Sequence[TrainingList],
        tokenizer: PairTokenizer,
        passage_tokens: PassageTokens,
        name_of: Callable[[str], str | None],
        config: RerankerConfig,
    ) -> None:
        """Tokenise the lists' queries and histories.

        Args:
            lists: With their candidates filled in.
            tokenizer: The model's tokenizer.
            passage_tokens: Pre-tokenised items, by row.
            name_of: An item's name by its id.
            config: How inputs are written and lists are drawn.
        """
        self.lists = lists
        self.passage_tokens = passage_tokens
        self._train = config.train
        self._entries = np.repeat(np.arange(len(lists)), [n_draws(entry) for entry in lists])
        self._anonymous = [tokenizer.prefix(entry.pool.query, (), name_of, config) for entry in lists]
        self._personal = [
            tokenizer.prefix(entry.pool.query, entry.history, name_of, config) if entry.history else prefix
            for entry, prefix in zip(lists, self._anonymous, strict=True)
        ]
        self._dropped = np.zeros(len(self._entries), dtype=bool)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose which lists lose their history in this epoch."""
        self._epoch = epoch
        generator = np.random.default_rng((self._train.seed, epoch))
        self._dropped = generator.random(len(self._entries)) < self._train.history_dropout

    def __len__(self) -> int:
        return len(self._entries)

    def prefix(self, index: int) -> TokenArray:
        """Return the query and history tokens of an entry in this epoch."""
        prefixes = self._anonymous if self._dropped[index] else self._personal
        return prefixes[int(self._entries[index])]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw an entry: its prefix, the passages and the rates of their choice."""
        drawn = draw(
            self.lists[int(self._entries[index])],
            list_size=self._train.list_size,
            anonymous=bool(self._dropped[index]),
            generator=np.random.default_rng((self._train.seed, self._epoch, index)),
        )
        passages = [self.passage_tokens.of(row) for row in drawn.rows.tolist()]
        return {"prefix": self.prefix(index), "passages": passages, "rates": drawn.rates}


class GroupedByLength(Sampler[int]):
    """Shuffles, then sorts within groups of batches, so that a batch holds lists of like length."""

    def __init__(self, dataset: ListDataset, *, batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, together with the data set; the Trainer calls this."""
        self._epoch = epoch
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        """Yield indices; batches of consecutive ones are of like length and in random order."""
        generator = np.random.default_rng((self._seed, self._epoch, 1))
        order = generator.permutation(len(self.dataset))
        width = self._batch_size * _GROUP
        batches: list[list[int]] = []
        rest: list[int] = []  # the incomplete batch goes last, or all later ones would straddle two lengths
        for start in range(0, len(order), width):
            group = sorted(order[start : start + width].tolist(), key=lambda index: len(self.dataset.prefix(index)))
            cut = [group[i : i + self._batch_size] for i in range(0, len(group), self._batch_size)]
            rest = cut.pop() if len(cut[-1]) < self._batch_size else []
            batches += cut
        for number in generator.permutation(len(batches)):
            yield from batches[number]
        yield from rest


class ListCollator:
    """Pads drawn lists into one batch of pairs."""

    def __init__(self, tokenizer: PairTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, entries: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return tensors.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids`` int64 (n_pairs, length); ``rates`` float32
            (n_lists, longest list, 3); ``places`` int64 (n_pairs,), each pair's place among the n_lists · longest.
        """
        batch = assemble(
            [entry["prefix"] for entry in entries for _ in entry["passages"]],
            [passage for entry in entries for passage in entry["passages"]],
            separator_id=self._tokenizer.separator_id,
            padding_id=self._tokenizer.padding_id,
        )
        longest = max(len(entry["rates"]) for entry in entries)
        rates = np.zeros((len(entries), longest, N_HEADS), dtype=np.float32)
        for number, entry in enumerate(entries):
            rates[number, : len(entry["rates"])] = entry["rates"]
        places = np.concatenate([n * longest + np.arange(len(entry["rates"])) for n, entry in enumerate(entries)])
        return {
            "input_ids": torch.from_numpy(batch.input_ids),
            "attention_mask": torch.from_numpy(batch.attention_mask),
            "token_type_ids": torch.from_numpy(batch.token_type_ids),
            "rates": torch.from_numpy(rates),
            "places": torch.from_numpy(places),
        }
