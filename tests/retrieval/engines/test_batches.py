from itertools import combinations, pairwise

import numpy as np
import pytest

from retrieval.engines.batches import SETUP_TOKENS, batches_by_length
from retrieval.engines.engine import even_width


def cost(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(SETUP_TOKENS + len(batch) * even_width(max(lengths[p] for p in batch)) for batch in batches)


def test_batches_hold_every_position_once_within_the_budget():
    lengths = [*np.random.default_rng(0).integers(1, 40, 200).tolist(), 500]
    batches = batches_by_length(lengths, 100)
    assert sorted(position for batch in batches for position in batch) == list(range(201))
    for batch in batches:
        assert len(batch) * even_width(max(lengths[position] for position in batch)) <= 100 or len(batch) == 1
    assert [lengths[position] for batch in batches for position in batch] == sorted(lengths)
    assert len(batches) < 70  # 201 texts of 20 tokens on average


def test_texts_are_parted_where_padding_would_cost_more_than_another_batch():
    assert batches_by_length([30] + [10] * 5, 4096) == [[1, 2, 3, 4, 5], [0]]  # 6 · 32 against 5 · 16 + 32 + 64
    assert batches_by_length([30] + [10] * 4, 4096) == [[1, 2, 3, 4, 0]]
    assert batches_by_length([9, 16, 12], 4096) == [[0, 2, 1]]  # one width: nothing to be won


def test_a_batch_beyond_the_budget_is_cut_into_equal_parts():
    assert [len(batch) for batch in batches_by_length([16] * 9, 128)] == [4, 5]


@pytest.mark.parametrize("seed", range(20))
def test_no_other_way_to_cut_the_sorted_texts_is_cheaper(seed):
    lengths = np.random.default_rng(seed).integers(1, 100, 9).tolist()
    order = sorted(range(9), key=lengths.__getitem__)
    ways = [
        [order[start:stop] for start, stop in pairwise([0, *inner, 9])]
        for n in range(9)
        for inner in combinations(range(1, 9), n)
    ]
    assert cost(lengths, batches_by_length(lengths, 4096)) == min(cost(lengths, way) for way in ways)


def test_nothing_gives_no_batch():
    assert batches_by_length([], 100) == []
