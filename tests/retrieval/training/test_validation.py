from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from corpus.items import ItemTable
from corpus.prepared import Example, Label, Prepared
from retrieval.config import RetrieverConfig
from retrieval.passages import passages
from retrieval.training.validation import HIT, MRR, Validation, first_positive_ranks


def config_of(folder: Path, **train: object) -> RetrieverConfig:
    return RetrieverConfig.model_validate({"base_model": str(folder), "train": train})


def example(query: str, *rows: int) -> Example:
    labels = tuple(Label(row=row, weight=1.0, grade=3.0) for row in rows)
    return Example(query_id=query, query=query, user_id=None, timestamp=None, labels=labels, history=())


def test_the_best_placed_positive_counts_and_ties_follow_the_order_of_the_items():
    scores = np.array([[0.1, 0.9, 0.5, 0.7], [0.5, 0.5, 0.5, 0.1]], dtype=np.float32)
    assert first_positive_ranks(scores, [np.array([0, 2]), np.array([2, 1])]).tolist() == [3, 2]
    assert first_positive_ranks(scores, [np.array([1]), np.array([3])]).tolist() == [1, 4]


def test_figures_are_those_worked_by_hand(
    tiny_encoder_folder: Path, tiny_items: ItemTable, monkeypatch: pytest.MonkeyPatch
):
    """Three queries, 60 items: the positives are put on ranks 1, 4 and 20."""
    config = config_of(tiny_encoder_folder)
    texts = passages(tiny_items, config.item_fields)
    examples = [example("a", 0), example("b", 3), example("c", 19)]
    items = np.linspace(1, 0.1, 60, dtype=np.float32)[:, None]

    def encode(model: object, given: list[str], *, role: str, max_tokens: int) -> np.ndarray:
        return np.ones((len(given), 1), dtype=np.float32) if role == "query" else items

    monkeypatch.setattr("retrieval.training.validation.encode_texts", encode)
    validation = Validation(examples, np.arange(60), texts, config)
    figures = validation(SentenceTransformer(str(tiny_encoder_folder), device="cpu"))
    assert figures == {MRR: pytest.approx((1 + 1 / 4) / 3), HIT: 1.0}


def test_an_item_finds_itself_by_its_own_text(tiny_encoder_folder: Path, tiny_items: ItemTable):
    config = config_of(tiny_encoder_folder)
    texts = passages(tiny_items, config.item_fields)
    rows = np.arange(10, 40)
    validation = Validation([example(texts[row], row) for row in (10, 25, 39)], rows, texts, config)
    assert validation(SentenceTransformer(str(tiny_encoder_folder), device="cpu"))[MRR] == 1.0


def test_the_sample_holds_every_positive_and_depends_on_the_seed_alone(
    tiny_encoder_folder: Path, tiny_prepared: Prepared
):
    config = config_of(tiny_encoder_folder, valid_items=10, valid_examples=20)
    texts = passages(tiny_prepared.items, config.item_fields)
    first, second = (Validation.sample(tiny_prepared, texts, config) for _ in range(2))
    other = Validation.sample(
        tiny_prepared, texts, config_of(tiny_encoder_folder, valid_items=10, valid_examples=20, seed=14)
    )
    assert first is not None and second is not None and other is not None
    assert first.rows.tolist() == second.rows.tolist()
    assert first.queries == second.queries
    assert len(first.queries) == 20
    assert (first.rows.tolist(), first.queries) != (other.rows.tolist(), other.queries)
    by_query = {e.query: e for e in tiny_prepared.examples("valid")}
    assert {label.row for query in first.queries for label in by_query[query].labels} & set(first.rows.tolist())
    for positives, query in zip(first._positives, first.queries, strict=True):
        wanted = {e.query: [label.row for label in e.labels] for e in tiny_prepared.examples("valid")}
        assert len(positives) >= 1
        assert query in wanted
        assert (positives < len(first.rows)).all()


def test_without_positives_there_is_no_validation(
    tiny_encoder_folder: Path, tiny_items: ItemTable, tmp_path: Path, write_examples
):
    prepared = write_examples(tmp_path, tiny_items, n_examples=1)
    config = config_of(tiny_encoder_folder)
    assert Validation.sample(prepared, passages(tiny_items, config.item_fields), config) is None
