from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.config import RerankerConfig
from rerank.history import item_names
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.scorer import PairScorer
from rerank.validation import ValidationSet, build_validation, calibrate, history_effect, mean_reciprocal_rank, validate
from retrieval.passages import passages


class LookUp:
    """An engine that scores a pair by the one token of its item."""

    def __init__(self, score_of: dict[int, float]) -> None:
        self._score_of = score_of

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
        return np.array([[self._score_of[line[2]], 7, 7] for line in input_ids.tolist()], dtype=np.float32)


def validation_set(retrieval: npt.ArrayLike, relevant: npt.ArrayLike) -> ValidationSet:
    scores = np.array(retrieval, dtype=np.float32)
    rows = [np.arange(np.isfinite(line).sum(), dtype=np.int64) for line in scores]
    tokens = np.arange(100, 100 + scores.shape[1], dtype=np.int32)  # row n is the one token 100 + n
    return ValidationSet(
        prefixes=[np.array([1, 2], dtype=np.int32)] * len(rows),
        anonymous=[np.array([1], dtype=np.int32)] * len(rows),
        n_events=np.zeros(len(rows), dtype=np.int64),
        rows=rows,
        retrieval=scores,
        relevant=np.array(relevant, dtype=bool),
        chosen=np.array(relevant, dtype=bool)[..., None] & [True, False, False],
        passage_tokens=PassageTokens(tokens, np.arange(len(tokens) + 1, dtype=np.int64)),
    )


def outcome(validation: ValidationSet, scores: dict[int, float], tokenizer: PairTokenizer):
    engine = LookUp({100 + row: score for row, score in scores.items()})
    return validate(validation, PairScorer(engine, tokenizer, {"click": 1.0, "cart": 0.0, "purchase": 0.0}))


def test_mean_reciprocal_rank_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], dtype=np.float32)
    relevant = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool)
    assert mean_reciprocal_rank(scores, relevant) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_rank_eleven_does_not_count_and_ties_keep_their_order():
    relevant = np.zeros((2, 11), dtype=bool)
    relevant[0, 10] = relevant[1, 9] = True
    assert mean_reciprocal_rank(np.zeros((2, 11), dtype=np.float32), relevant) == pytest.approx(0.1 / 2)


def test_a_useless_reranker_does_not_beat_retrieval_down(pair_tokenizer: PairTokenizer):
    validation = validation_set([[0.9, 0.8, 0.1]] * 3, [[1, 0, 0]] * 3)
    found = outcome(validation, {0: -1.0, 1: 0.5, 2: 1.0}, pair_tokenizer)
    assert found.metrics["mrr_at_10_rerank_only"] == pytest.approx(1 / 3)
    assert found.metrics["mrr_at_10"] == found.metrics["mrr_at_10_retrieval"] == 1.0
    assert found.score_weights["rerank"] == 1.0
    weight = found.score_weights["retrieval"]
    assert -1.0 + weight * 0.9 > 0.5 + weight * 0.8  # the weight holds for unscaled scores


def test_a_gain_within_chance_leaves_the_order_to_retrieval(pair_tokenizer: PairTokenizer):
    # the reranker turns the first two round: right for six queries, wrong for five
    validation = validation_set([[0.9, 0.8]] * 11, [[0, 1]] * 6 + [[1, 0]] * 5)
    found = outcome(validation, {0: 0.0, 1: 1.0}, pair_tokenizer)
    assert found.metrics["mrr_at_10_rerank_only"] > found.metrics["mrr_at_10_retrieval"]
    assert found.metrics["mrr_at_10"] == found.metrics["mrr_at_10_retrieval"]
    weight = found.score_weights["retrieval"]
    assert weight * 0.9 > 1.0 + weight * 0.8


def test_a_gain_beyond_chance_is_taken(pair_tokenizer: PairTokenizer):
    validation = validation_set([[0.9, 0.8]] * 11, [[0, 1]] * 9 + [[1, 0]] * 2)
    found = outcome(validation, {0: 0.0, 1: 1.0}, pair_tokenizer)
    assert found.metrics["mrr_at_10"] == found.metrics["mrr_at_10_rerank_only"]


def test_a_perfect_reranker_outweighs_the_retrieval_score(pair_tokenizer: PairTokenizer):
    validation = validation_set([[0.9, 0.8, 0.1]] * 3, [[0, 0, 1]] * 3)
    found = outcome(validation, {0: -1.0, 1: 0.5, 2: 1.0}, pair_tokenizer)
    assert found.metrics == {
        "mrr_at_10": 1.0,
        "mrr_at_10_rerank_only": 1.0,
        "mrr_at_10_retrieval": pytest.approx(1 / 3),
    }
    weight = found.score_weights["retrieval"]
    assert 1.0 + weight * 0.1 > max(0.5 + weight * 0.8, -1.0 + weight * 0.9)


def test_short_lists_are_not_confused_by_their_padding(pair_tokenizer: PairTokenizer):
    validation = validation_set([[0.9, 0.8, -np.inf], [0.5, -np.inf, -np.inf]], [[0, 1, 0], [1, 0, 0]])
    found = outcome(validation, {0: -100.0, 1: -50.0}, pair_tokenizer)
    assert found.metrics["mrr_at_10_rerank_only"] == 1.0


def test_nan_scores_count_as_the_worst_model(pair_tokenizer: PairTokenizer):
    validation = validation_set([[0.9, 0.8]], [[1, 0]])
    assert outcome(validation, {0: np.nan, 1: 0.0}, pair_tokenizer).metrics["mrr_at_10"] == 0.0


def test_calibration_reads_each_candidate_beside_its_choice(pair_tokenizer: PairTokenizer):
    # row 1 is clicked in 9 of 11 searches, row 0 in 3 of 12; the last list ends early
    validation = validation_set([[0.9, 0.8]] * 11 + [[0.9, -np.inf]], [[0, 1]] * 9 + [[1, 0]] * 3)
    scorer = PairScorer(LookUp({100: -1.0, 101: 1.0}), pair_tokenizer, {"click": 1.0, "cart": 0.0, "purchase": 0.0})
    found = calibrate(validation, validation.heads(scorer), ("click", "purchase"))
    assert set(found.maps) == {"click"}  # nothing was bought
    np.testing.assert_allclose(found.maps["click"].apply([-1.0, 1.0]), [3 / 12, 9 / 11], atol=0.1)
    assert set(found.metrics) == {"ece_click", "ece_click_uncalibrated"}


def test_without_validation_queries_no_probability_is_known(pair_tokenizer: PairTokenizer):
    validation = validation_set(np.empty((0, 2)), np.empty((0, 2)))
    scorer = PairScorer(LookUp({}), pair_tokenizer, {"click": 1.0, "cart": 0.0, "purchase": 0.0})
    logits = validation.heads(scorer)
    assert calibrate(validation, logits, ("click",)).maps == {}
    assert history_effect(validation, scorer, logits, 0.0) == {}


class HistoryReader:
    """An engine to which a history of its two-token prefix turns the order round."""

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
        values = [
            line[2] if (types == 1).argmax() == 2 else -line[1]
            for line, types in zip(input_ids, token_type_ids, strict=True)
        ]
        return np.array([[value, 7, 7] for value in values], dtype=np.float32)


def test_the_worth_of_histories_by_hand(pair_tokenizer: PairTokenizer):
    # with its history a query puts row 1 first, without it row 0; the last query has none and does not count
    validation = replace(
        validation_set([[0.9, 0.8]] * 5, [[0, 1], [0, 1], [1, 0], [0, 1], [1, 0]]),
        n_events=np.array([1, 2, 3, 9, 0]),
    )
    scorer = PairScorer(HistoryReader(), pair_tokenizer, {"click": 1.0, "cart": 0.0, "purchase": 0.0})
    logits = validation.heads(scorer)
    assert history_effect(validation, scorer, logits, 0.0) == pytest.approx(
        {
            "mrr_at_10_with_history": (1 + 1 + 1 / 2 + 1) / 4,
            "mrr_at_10_without_history": (1 / 2 + 1 / 2 + 1 + 1 / 2) / 4,
            "mrr_at_10_with_history_of_1_to_2": 1.0,
            "mrr_at_10_without_history_of_1_to_2": 0.5,
            "mrr_at_10_with_history_of_3_to_8": 0.5,
            "mrr_at_10_without_history_of_3_to_8": 1.0,
            "mrr_at_10_with_history_of_9_up": 1.0,
            "mrr_at_10_without_history_of_9_up": 0.5,
        }
    )
    # where retrieval decides, histories are worth nothing
    found = history_effect(validation, scorer, logits, 1000.0)
    assert found["mrr_at_10_with_history"] == found["mrr_at_10_without_history"] == pytest.approx((3 / 2 + 1) / 4)


def test_choices_are_told_apart_by_their_kind(
    tiny_prepared: Prepared,
    tiny_items: ItemTable,
    tiny_config: RerankerConfig,
    pair_tokenizer: PairTokenizer,
    word_retriever,
):
    tokens = PassageTokens.build(pair_tokenizer, passages(tiny_items, tiny_config.item_fields), 16)
    names = item_names(tiny_items)
    validation = build_validation(tiny_prepared, word_retriever, pair_tokenizer, tokens, names, tiny_config)
    examples = tiny_prepared.examples("valid", limit=300, seed=tiny_config.train.seed)
    for line, example in enumerate(examples):
        rows = validation.rows[line]
        for head, least in enumerate((1.0, 2.0, 3.0)):
            want = {label.row for label in example.labels if label.grade >= least} & set(rows.tolist())
            assert set(rows[validation.chosen[line, : len(rows), head]].tolist()) == want
        assert not validation.chosen[line, len(rows) :].any()
    assert validation.chosen[..., 0].sum() > validation.chosen[..., 2].sum() > 0


def test_validation_queries_carry_history_candidates_and_answers(
    tasteful: Prepared,
    tiny_items: ItemTable,
    tiny_config: RerankerConfig,
    pair_tokenizer: PairTokenizer,
    word_retriever,
):
    tokens = PassageTokens.build(pair_tokenizer, passages(tiny_items, tiny_config.item_fields), 16)
    names = item_names(tiny_items)
    validation = build_validation(tasteful, word_retriever, pair_tokenizer, tokens, names, tiny_config)
    examples = tasteful.examples("valid", limit=300, seed=tiny_config.train.seed)
    assert len(validation) == len(examples) == 120
    for line, example in enumerate(examples):
        answers = {label.row for label in example.labels}
        assert set(validation.rows[line][validation.relevant[line]].tolist()) == answers
        expected = pair_tokenizer.prefix(example.query, example.history, names, tiny_config)
        np.testing.assert_array_equal(validation.prefixes[line], expected)
        expected = pair_tokenizer.prefix(example.query, (), names, tiny_config)
        np.testing.assert_array_equal(validation.anonymous[line], expected)
        assert validation.n_events[line] == len(example.history)
