from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.items import ItemTable
from corpus.prepared import EXAMPLE_SCHEMA, Prepared
from retrieval.config import RetrieverConfig, RetrieverTrainConfig
from retrieval.engines.encoder import open_torch_encoder
from retrieval.passages import passages
from retrieval.training import mining
from retrieval.training.hard_negatives import HardNegatives
from retrieval.training.mining import choose_negatives, irrelevant_keys, mine_hard_negatives
from retrieval.training.pairs import TrainingPairs

NOBODY = np.empty(0, dtype=np.int64)


def at(*cosines: float) -> np.ndarray:
    """Vectors of the plane whose first coordinate, their cosine with (1, 0), is as given."""
    cosine = np.array(cosines, dtype=np.float32)
    return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)


def pairs_of(query: list[int], row: list[int], *, n_items: int) -> TrainingPairs:
    return TrainingPairs(
        queries=[f"q{number}" for number in range(max(query) + 1)],
        query=np.array(query),
        row=np.array(row),
        weight=np.ones(len(row), dtype=np.float32),
        n_items=n_items,
    )


def pools(found: HardNegatives, pairs: TrainingPairs) -> list[list[int]]:
    everything = 1000
    draw = np.random.default_rng(0)
    return [
        sorted(found.draw(pair, query, everything, draw).tolist()) for pair, query in enumerate(pairs.query.tolist())
    ]


def train(**changes: object) -> RetrieverTrainConfig:
    return RetrieverTrainConfig.model_validate({"hard_negatives": 2, **changes})


ITEMS = at(0.99, 0.90, 0.84, 0.80, 0.70, 0.60, 0.20)
QUERY = at(1.0)


def test_a_negative_scores_below_the_margin_of_the_pairs_own_positive():
    pairs = pairs_of([0, 0, 0], [1, 4, 1], n_items=7)
    found = choose_negatives(QUERY, ITEMS, pairs, NOBODY, train(mining_margin=0.9))
    # 0.9 x 0.90 = 0.81 and 0.9 x 0.70 = 0.63; rows 1 and 4 are answers
    assert pools(found, pairs) == [[3, 5, 6], [5, 6], [3, 5, 6]]


def test_a_wider_margin_lets_closer_items_in():
    pairs = pairs_of([0], [1], n_items=7)
    found = choose_negatives(QUERY, ITEMS, pairs, NOBODY, train(mining_margin=0.95))  # 0.95 x 0.90 = 0.855
    assert pools(found, pairs) == [[2, 3, 4, 5, 6]]


def test_the_margin_of_a_positive_below_zero_lies_below_it():
    pairs = pairs_of([0], [0], n_items=3)
    found = choose_negatives(QUERY, at(-0.5, -0.52, -0.6), pairs, NOBODY, train(mining_margin=0.9))
    assert pools(found, pairs) == [[2]]  # -0.55, not -0.45


def test_no_item_that_ever_answered_the_query_is_mined():
    """Whatever is masked in a batch: other shoppers' choices are answers here."""
    pairs = pairs_of([0, 0, 0], [0, 5, 3], n_items=7)
    for mask_answers in ("query", "item"):
        found = choose_negatives(QUERY, ITEMS, pairs, np.array([3]), train(mask_answers=mask_answers))
        assert pools(found, pairs)[0] == [1, 2, 4, 6]  # 3 was judged irrelevant once, and chosen once


def test_items_judged_irrelevant_need_no_margin_and_no_rank():
    pairs = pairs_of([0, 0], [1, 4], n_items=7)
    found = choose_negatives(QUERY, ITEMS, pairs, np.array([0, 2]), train(mining_margin=0.9, mining_skip=4))
    assert pools(found, pairs) == [[0, 2, 5, 6], [0, 2, 5, 6]]


def test_only_the_nearest_are_looked_at_and_the_best_ranks_are_passed_over():
    pairs = pairs_of([0], [0], n_items=7)
    found = choose_negatives(QUERY, ITEMS, pairs, NOBODY, train(mining_depth=5, mining_skip=2))
    assert pools(found, pairs) == [[2, 3, 4]]


def test_chunks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(70, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, items = vectors[:20], vectors[20:]
    query, row = rng.integers(20, size=90), rng.integers(50, size=90)
    pairs = TrainingPairs(
        queries=[str(number) for number in range(20)],
        query=query,
        row=row,
        weight=np.ones(90, dtype=np.float32),
        n_items=50,
    )
    irrelevant = np.unique(rng.integers(1000, size=100))
    options = train(mining_depth=20, mining_margin=0.8)
    whole = choose_negatives(queries, items, pairs, irrelevant, options)
    monkeypatch.setattr(mining, "QUERIES_PER_SEARCH", 3)
    cut = choose_negatives(queries, items, pairs, irrelevant, options)
    np.testing.assert_array_equal(cut.rows, whole.rows)
    np.testing.assert_array_equal(cut.first, whole.first)
    assert len({len(pool) for pool in pools(whole, pairs)}) > 3


def test_the_towers_own_mistakes_are_mined(tiny_prepared: Prepared, tiny_encoder_folder: Path, tmp_path: Path):
    config = RetrieverConfig.model_validate(
        {"base_model": str(tiny_encoder_folder), "max_item_tokens": 32, "train": {"mining_depth": 8, "device": "cpu"}}
    )
    pairs = TrainingPairs.read(tiny_prepared)
    found = mine_hard_negatives(tiny_prepared, pairs, tiny_encoder_folder, config, tmp_path)
    queries = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=32).encode(pairs.queries)
    texts = passages(tiny_prepared.items, config.item_fields)
    scores = queries @ open_torch_encoder(tiny_encoder_folder, role="item", max_tokens=32).encode(texts).T
    answers = {(q, r) for q, r in zip(pairs.query.tolist(), pairs.row.tolist(), strict=True)}
    for pair, pool in enumerate(pools(found, pairs)):
        query, row = int(pairs.query[pair]), int(pairs.row[pair])
        nearest = np.argsort(-scores[query], kind="stable")[:8].tolist()
        bound = 0.95 * scores[query, row]
        assert pool == sorted(r for r in nearest if scores[query, r] < bound and (query, r) not in answers)
    assert list(tmp_path.iterdir())  # the cache of embeddings


def test_judged_items_are_found_by_the_text_of_the_query(tiny_items: ItemTable, tmp_path: Path, write_examples):
    prepared = write_examples(tmp_path, tiny_items, n_examples=1)
    row = pl.read_parquet(tmp_path / "examples.parquet").to_dicts()[0]
    chosen, refused = ({"row": number, "weight": weight, "grade": 0.0} for number, weight in ((7, 1.0), (9, 0.0)))
    rows = [
        row | {"query": "pan", "split": "train", "labels": [chosen, refused]},
        row | {"query": "mug", "split": "train", "labels": [chosen, refused | {"row": 11}]},
        row | {"query": "unanswered", "split": "train", "labels": [refused]},
        row | {"query": "mug", "split": "valid", "labels": [refused | {"row": 12}]},
    ]
    pl.DataFrame(rows, schema=EXAMPLE_SCHEMA).write_parquet(tmp_path / "examples.parquet")
    pairs = TrainingPairs.read(prepared)
    assert pairs.queries == ["pan", "mug"]
    assert irrelevant_keys(prepared, pairs).tolist() == [9, 60 + 11]
