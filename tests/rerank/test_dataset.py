import numpy as np
import pytest
import torch

from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.candidates import add_candidates, collect_lists
from rerank.config import RerankerConfig
from rerank.dataset import GroupedByLength, ListCollator, ListDataset
from rerank.history import item_names
from rerank.inputs import PairTokenizer, PassageTokens
from retrieval.passages import passages


@pytest.fixture(scope="module")
def dataset(
    tasteful: Prepared,
    tiny_items: ItemTable,
    tiny_config: RerankerConfig,
    pair_tokenizer: PairTokenizer,
    word_retriever,
) -> ListDataset:
    lists = add_candidates(collect_lists(tasteful.examples("train")), word_retriever, depth=20)
    tokens = PassageTokens.build(pair_tokenizer, passages(tiny_items, tiny_config.item_fields), 16)
    return ListDataset(lists, pair_tokenizer, tokens, item_names(tiny_items), tiny_config)


def drawn(dataset: ListDataset, epoch: int) -> list[list[list[int]]]:
    dataset.set_epoch(epoch)
    return [[passage.tolist() for passage in dataset[n]["passages"]] for n in range(len(dataset))]


def test_every_epoch_draws_other_negatives_and_the_same_epoch_the_same(dataset: ListDataset):
    first = drawn(dataset, 0)
    assert drawn(dataset, 1) != first
    assert drawn(dataset, 0) == first


def test_histories_are_dropped_at_the_configured_rate_and_only_then(dataset: ListDataset):
    dataset.set_epoch(3)
    personal = [n for n in range(len(dataset)) if dataset.lists[dataset._entries[n]].history]
    with_history = [n for n in personal if (dataset.prefix(n) == dataset.prefix(n)[-1]).sum() == 2]  # two separators
    assert 0.6 < len(with_history) / len(personal) < 0.8
    dataset.set_epoch(4)
    assert with_history != [n for n in personal if (dataset.prefix(n) == dataset.prefix(n)[-1]).sum() == 2]


def test_a_dropped_history_makes_the_rates_those_of_all_shoppers(dataset: ListDataset):
    dataset.set_epoch(0)
    shared = [n for n in range(len(dataset)) if (dataset[n]["rates"][:, 0] > 0).sum() > 1]
    assert shared
    assert all(len(dataset.prefix(n)) == len(dataset._anonymous[dataset._entries[n]]) for n in shared)


def test_batches_are_of_like_length_and_hold_every_entry_once(dataset: ListDataset):
    sampler = GroupedByLength(dataset, batch_size=8, seed=1)
    sampler.set_epoch(2)
    order = list(sampler)
    assert sorted(order) == list(range(len(dataset)))

    def padding(order: list[int]) -> int:
        lengths = [len(dataset.prefix(n)) for n in order]
        batches = [lengths[i : i + 8] for i in range(0, len(lengths), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    shuffled = np.random.default_rng(0).permutation(len(dataset)).tolist()
    assert padding(order) < 0.3 * padding(shuffled)
    assert list(sampler) == order
    sampler.set_epoch(3)
    assert list(sampler) != order


def test_a_collated_batch_puts_each_target_beside_its_pair(dataset: ListDataset, pair_tokenizer: PairTokenizer):
    entries = [
        {
            "prefix": np.array([1, 2, 3], dtype=np.int32),
            "passages": [np.array([n], dtype=np.int32) for n in range(10, 10 + size)],
            "rates": np.eye(size, 3, dtype=np.float32),
        }
        for size in (3, 2)
    ]
    batch = ListCollator(pair_tokenizer)(entries)
    assert batch["input_ids"].shape == (5, 5)
    assert batch["input_ids"][:, 3].tolist() == [10, 11, 12, 10, 11]
    np.testing.assert_array_equal(batch["rates"], [np.eye(3), np.eye(3) * [[1], [1], [0]]])
    assert batch["places"].tolist() == [0, 1, 2, 3, 4]
    assert batch["input_ids"].dtype == torch.int64
