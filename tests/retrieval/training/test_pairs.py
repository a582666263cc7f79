from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus.errors import InputError
from corpus.items import ItemTable
from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig, RetrieverTrainConfig
from retrieval.passages import passages
from retrieval.training.hard_negatives import HardNegatives
from retrieval.training.pairs import PairCollator, PairSampler, TrainingPairs
from retrieval.training.towers import TowerTokenizer, load_towers


def hand_made() -> TrainingPairs:
    """Query a is answered by items 0 (twice) and 1, query b by item 2; the catalogue has 5 items."""
    return TrainingPairs(
        queries=["red pan", "hose"],
        query=np.array([0, 0, 0, 1]),
        row=np.array([0, 1, 0, 2]),
        weight=np.array([1.0, 1.0, 1.0, 0.5], dtype=np.float32),
        n_items=5,
    )


def test_every_label_with_weight_becomes_a_pair(tiny_prepared: Prepared):
    pairs = TrainingPairs.read(tiny_prepared)
    want = [
        (example.query, label.row, label.weight)
        for example in tiny_prepared.examples("train")
        for label in example.labels
        if label.weight > 0
    ]
    got = list(zip((pairs.queries[q] for q in pairs.query), pairs.row.tolist(), pairs.weight.tolist(), strict=True))
    assert got == want
    assert len(set(pairs.queries)) == len(pairs.queries)


def test_too_little_data_is_an_input_error(tiny_items: ItemTable, tmp_path: Path, write_examples):
    prepared = write_examples(tmp_path, tiny_items, n_examples=0)
    with pytest.raises(InputError, match="at least 2"):
        TrainingPairs.read(prepared)


def test_log_q_is_the_share_of_the_pairs():
    log_q = hand_made().item_log_q(weighted=False)
    np.testing.assert_allclose(np.exp(log_q), [0.5, 0.25, 0.25, 0, 0], rtol=1e-6)


def test_weighted_log_q_follows_the_sampler():
    pairs = hand_made()
    np.testing.assert_allclose(np.exp(pairs.item_log_q(weighted=True)), [2 / 3.5, 1 / 3.5, 0.5 / 3.5, 0, 0], rtol=1e-6)
    sampler = PairSampler(pairs.weight, 2, seed=3)
    drawn = Counter(pairs.row[np.concatenate([sampler.draw(epoch) for epoch in range(2000)])].tolist())
    shares = [drawn[row] / drawn.total() for row in range(3)]
    np.testing.assert_allclose(shares, [2 / 3.5, 1 / 3.5, 0.5 / 3.5], atol=0.01)


def test_equal_weights_draw_every_pair_once():
    sampler = PairSampler(np.full(101, 0.2, dtype=np.float32), 10, seed=1)
    assert sorted(sampler.draw(0).tolist()) == list(range(101))
    assert sampler.draw(0).tolist() != list(range(101))


def test_a_pair_is_drawn_in_proportion_to_its_weight():
    weights = np.array([1.0] * 20 + [0.2] * 80, dtype=np.float32)
    counts = np.bincount(PairSampler(weights, 10, seed=1).draw(0), minlength=100)
    want = 100 * weights / weights.sum()
    assert counts.sum() == 100
    assert ((counts == np.floor(want)) | (counts == np.ceil(want))).all()


def test_batches_cover_the_epoch_and_epochs_differ():
    sampler = PairSampler(np.ones(25, dtype=np.float32), 10, seed=4)
    first = list(sampler)
    assert [len(batch) for batch in first] == [10, 10, 5]
    assert len(sampler) == 3
    assert sorted(pair for batch in first for pair in batch) == list(range(25))
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.fixture(scope="module")
def make_collator(tiny_encoder_folder: Path, tiny_items: ItemTable):
    config = RetrieverConfig(base_model=str(tiny_encoder_folder), max_item_tokens=32)
    model = load_towers(config, device="cpu")
    texts = passages(tiny_items, config.item_fields)

    def make(mined: HardNegatives | None = None, **changes: object) -> PairCollator:
        train = RetrieverTrainConfig.model_validate({"n_uniform_negatives": 3, "typo_share": 0.0, **changes})
        return PairCollator(
            hand_made(),
            texts[:5],
            train,
            query_tokenizer=TowerTokenizer(model, "query", 32),
            item_tokenizer=TowerTokenizer(model, "item", 32),
            mined=mined,
        )

    return make


def batch_of(*pairs: int) -> list[dict[str, int]]:
    return [{"pair": pair} for pair in pairs]


def rows_of(collator: PairCollator, batch: dict) -> list[int]:
    """Return the item of each place, read back from the token ids."""
    tokenizer = collator._item_tokenizer
    texts = [tuple(tokenizer([text]).input_ids[0].tolist()) for text in collator._texts]
    pad = [tuple(int(t) for t in row if t != 0) for row in batch["item_input_ids"]]
    return [texts.index(pad[place]) for place in batch["label"]["item"].tolist()]


def test_positives_come_first_and_uniform_negatives_after(make_collator):
    collator = make_collator()
    batch = collator(batch_of(0, 3, 1))
    rows = rows_of(collator, batch)
    assert rows[:3] == [0, 2, 1]
    assert len(rows) == 6
    assert batch["label"]["query"].tolist() == [0, 1, 0]
    assert len(batch["query_input_ids"]) == 2  # each distinct query once


def test_uniform_negatives_are_uniform(make_collator):
    collator = make_collator(n_uniform_negatives=5000)
    rows = rows_of(collator, collator(batch_of(0, 3)))[2:]
    np.testing.assert_allclose(np.bincount(rows, minlength=5) / 5000, 0.2, atol=0.02)


def test_the_same_pairs_bring_the_same_negatives_and_others_bring_others(make_collator):
    collator = make_collator(n_uniform_negatives=50)
    first = rows_of(collator, collator(batch_of(0, 1)))
    assert rows_of(collator, collator(batch_of(0, 1))) == first
    assert rows_of(collator, collator(batch_of(1, 0)))[2:] != first[2:]


def test_all_known_answers_of_a_query_are_marked(make_collator):
    collator = make_collator(n_uniform_negatives=40)
    batch = collator(batch_of(0, 3))
    rows = rows_of(collator, batch)
    known = {0: {0, 1}, 1: {2}}
    want = [[row in known[query] for row in rows] for query in (0, 1)]
    assert batch["label"]["answers"].tolist() == want
    assert 1 in rows[2:]  # an answer of the first query that only a uniform draw brought


def test_on_demand_only_copies_of_the_positive_are_marked(make_collator):
    collator = make_collator(mask_answers="item", n_uniform_negatives=40)
    batch = collator(batch_of(0, 3))
    rows = rows_of(collator, batch)
    assert batch["label"]["answers"].tolist() == [[row == own for row in rows] for own in (0, 2)]


def test_each_item_carries_the_log_q_of_its_own_sampler(make_collator):
    labels = make_collator(weighting="loss")(batch_of(0, 3, 1))["label"]
    want = np.log([0.5, 0.25, 0.25, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(labels["log_q"].numpy(), want, rtol=1e-6)
    assert labels["weights"].tolist() == [1.0, 0.5, 1.0]


def test_without_logq_nothing_is_subtracted(make_collator):
    labels = make_collator(logq=False)(batch_of(0, 3))["label"]
    assert set(labels) == {"query", "item", "answers"}
    assert labels["answers"].dtype == torch.bool


def mined() -> HardNegatives:
    """Query a may have 3, 4 and for its last two pairs 2; query b may have 1, which answers query a."""
    return HardNegatives(
        rows=np.array([[2, 3, 4], [1, -1, -1]], dtype=np.int32), first=np.array([1, 0, 0, 0], dtype=np.int32)
    )


def test_mined_negatives_come_last_and_from_the_pools_of_the_pairs(make_collator):
    collator = make_collator(mined(), hard_negatives=2, n_uniform_negatives=1)
    rows = rows_of(collator, collator(batch_of(0, 3)))
    assert rows[:2] == [0, 2]
    assert sorted(rows[3:5]) == [3, 4]
    assert rows[5:] == [1]  # no more than the pool has


@pytest.mark.parametrize("mask_answers", ["query", "item"])
def test_a_mined_item_never_opposes_a_query_that_it_answers(make_collator, mask_answers: str):
    collator = make_collator(mined(), hard_negatives=1, n_uniform_negatives=0, mask_answers=mask_answers)
    batch = collator(batch_of(0, 3))
    assert rows_of(collator, batch)[3] == 1  # mined for query b, a known answer of query a
    assert batch["label"]["answers"][:, 3].tolist() == [True, False]


def test_mined_items_carry_the_log_q_of_the_mining(make_collator):
    collator = make_collator(mined(), hard_negatives=1, n_uniform_negatives=1, weighting="loss")
    batch = collator(batch_of(0, 3))
    # of 4 equal pairs the first draws 3 or 4, two draw 2, 3 or 4, the last draws 1
    drawn = {2: 2 / 12, 3: 1 / 8 + 2 / 12, 4: 1 / 8 + 2 / 12, 1: 1 / 4}
    rows = rows_of(collator, batch)
    want = np.log([0.5, 0.25, 0.2, drawn[rows[3]], drawn[1]])
    np.testing.assert_allclose(batch["label"]["log_q"].numpy(), want, rtol=1e-5)


def queries_of(collator: PairCollator, batch: dict) -> list[tuple[int, ...]]:
    """Return the token ids of the query at each place."""
    rows = [tuple(int(token) for token in row if token != 0) for row in batch["query_input_ids"]]
    return [rows[place] for place in batch["label"]["query"].tolist()]


def test_a_share_of_the_queries_is_mistyped_and_keeps_its_answers(make_collator):
    """Whatever is typed, a query's answers stay its own, and the batch's items are those without errors."""
    chosen = batch_of(*[1, 3] * 200)
    clean, mistyped = make_collator(), make_collator(typo_share=0.3)
    want, got = clean(chosen), mistyped(chosen)
    changed = [a != b for a, b in zip(queries_of(clean, want), queries_of(mistyped, got), strict=True)]
    assert 0.2 < np.mean(changed) < 0.4
    assert len(got["query_input_ids"]) > 2
    assert torch.equal(got["label"]["answers"], want["label"]["answers"])
    assert rows_of(mistyped, got) == rows_of(clean, want)


def test_the_same_pairs_are_mistyped_alike(make_collator):
    collator = make_collator(typo_share=0.5)
    first, again = collator(batch_of(0, 1, 2, 3)), collator(batch_of(0, 1, 2, 3))
    assert torch.equal(first["query_input_ids"], again["query_input_ids"])
    others = [queries_of(collator, collator(batch_of(*order))) for order in ((1, 0, 2, 3), (2, 1, 0, 3), (0, 2, 1, 3))]
    assert any(other != queries_of(collator, first) for other in others)
