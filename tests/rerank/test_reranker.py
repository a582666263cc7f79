import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError
from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.blend import Blend
from rerank.blend_info import BlendInfo
from rerank.config import BlendConfig, RerankerConfig
from rerank.features import FEATURES, RERANK_FEATURES
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.model_info import RerankerModelInfo
from rerank.probabilities import Isotonic, Platt, ProbabilityMap
from rerank.reranker import DEADLINE, FAILED, FIRST_CHUNK, Reranked, Reranker, join_reranker
from rerank.scorer import PairScorer, open_torch_scorer
from retrieval.candidates import Candidates
from retrieval.passages import passages

CONFIG = RerankerConfig(max_query_tokens=8, max_history_tokens=24, max_item_tokens=16)
N_ITEMS = 60
SECONDS_PER_PAIR = 0.001
MAPS: dict[str, ProbabilityMap] = {
    "click": Platt(slope=1.0, intercept=0.0),
    "purchase": Isotonic(logits=(-8.0, -6.0), probabilities=(0.2, 0.4)),
}


class Engine:
    """Scores each pair by its item, and takes the clock's time for it."""

    def __init__(self, score_of: Callable[[int], float]) -> None:
        self.score_of = score_of
        self.now = 100.0
        self.n_run = 0

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray, token_type_ids: np.ndarray) -> np.ndarray:
        self.now += SECONDS_PER_PAIR * len(input_ids)
        self.n_run += len(input_ids)
        items = [int(line[types == 1][0]) for line, types in zip(input_ids, token_type_ids, strict=True)]
        return np.array([[self.score_of(item), 7, -7] for item in items], dtype=np.float32)


def candidates(n: int) -> Candidates:
    scores = np.linspace(1.0, 0.1, n, dtype=np.float32)
    return Candidates(
        rows=np.arange(n, dtype=np.int64),
        scores=scores,
        dense=scores,
        lexical=np.full(n, np.nan, dtype=np.float32),
        behaviour=np.zeros(n, dtype=np.float32),
    )


@pytest.fixture
def build(pair_tokenizer: PairTokenizer):
    def build(
        score_of: Callable[[int], float],
        *,
        weight: float = 0.0,
        maps: dict[str, ProbabilityMap] = MAPS,
        blend: Blend | None = None,
    ) -> tuple[Reranker, Engine]:
        engine = Engine(score_of)
        tokens = PassageTokens(np.arange(N_ITEMS, dtype=np.int32), np.arange(N_ITEMS + 1, dtype=np.int64))
        scorer = PairScorer(engine, pair_tokenizer, {"click": 1.0, "cart": 0.0, "purchase": 0.0}, maps)
        weights = {"rerank": 1.0, "retrieval": weight}
        reranker = Reranker(scorer, tokens, lambda _: None, CONFIG, weights, blend)
        reranker.clock = lambda: engine.now
        return reranker, engine

    return build


def check_order(answer: Reranked, n: int) -> None:
    assert sorted(answer.order.tolist()) == list(range(n))
    assert (np.diff(answer.scores) <= 0).all()
    assert np.isfinite(answer.rerank_scores).sum() == answer.n_scored


def check(answer: Reranked, n: int) -> None:
    check_order(answer, n)
    assert answer.probabilities.shape == (n, 3)
    assert answer.probabilities.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(answer.probabilities[:, 0]), np.isnan(answer.rerank_scores))
    assert np.isnan(answer.probabilities[:, 1]).all()  # that head has no map


def test_candidates_are_ordered_by_the_cross_encoder(build):
    reranker, _ = build(lambda item: float(item * 7 % 10))
    answer = reranker.rerank("red shoe", (), candidates(10))
    check(answer, 10)
    assert answer.order.tolist() == sorted(range(10), key=lambda item: -(item * 7 % 10))
    assert answer.rerank_scores.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert answer.degraded is None


def test_probabilities_stand_beside_the_items_they_belong_to(build):
    reranker, _ = build(lambda item: float(item - 4), weight=100.0)
    answer = reranker.rerank("red shoe", (), candidates(10))
    check(answer, 10)
    assert answer.order.tolist() == list(range(10))
    np.testing.assert_allclose(answer.probabilities[:, 0], 1 / (1 + np.exp(4.0 - np.arange(10))), rtol=1e-5)
    # the third head always answers -7, which its map takes for .3; the funnel lowers it where a click is less likely
    np.testing.assert_allclose(answer.probabilities[:, 2], np.minimum(answer.probabilities[:, 0], 0.3))
    reordered = build(lambda item: float(item - 4))[0].rerank("red shoe", (), candidates(10))
    assert reordered.order.tolist() == list(reversed(range(10)))
    np.testing.assert_array_equal(reordered.probabilities, answer.probabilities[::-1])


def test_the_retrieval_score_joins_with_its_weight(build):
    reranker, _ = build(lambda item: 0.5 * item, weight=10.0)
    answer = reranker.rerank("red shoe", (), candidates(10))
    check(answer, 10)
    assert answer.order.tolist() == list(range(10))
    assert answer.scores[0] == pytest.approx(0.0 + 10.0 * 1.0)
    assert answer.scores[9] == pytest.approx(4.5 + 10.0 * 0.1)


def test_equal_scores_keep_the_order_of_retrieval(build):
    reranker, _ = build(lambda item: 1.0)
    assert reranker.rerank("red shoe", (), candidates(40)).order.tolist() == list(range(40))


def test_no_candidates_give_an_empty_answer(build):
    reranker, _ = build(float)
    for deadline in (None, 200.0, 0.0):
        answer = reranker.rerank("red shoe", (), candidates(0), deadline=deadline)
        check(answer, 0)
        assert answer.degraded is None


def test_a_generous_deadline_changes_nothing(build):
    reranker, _ = build(float, weight=0.3)
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=200.0)
    want = build(float, weight=0.3)[0].rerank("red shoe", (), candidates(N_ITEMS))
    check(answer, N_ITEMS)
    assert answer.degraded is None
    np.testing.assert_array_equal(answer.order, want.order)
    np.testing.assert_array_equal(answer.scores, want.scores)


def test_a_tight_deadline_scores_the_best_and_leaves_the_rest_in_order_behind(build):
    reranker, engine = build(float)
    deadline = engine.now + 30 * SECONDS_PER_PAIR
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=deadline)
    check(answer, N_ITEMS)
    assert answer.degraded == DEADLINE
    assert FIRST_CHUNK < answer.n_scored < N_ITEMS
    n = answer.n_scored
    assert answer.order.tolist() == [*reversed(range(n)), *range(n, N_ITEMS)]
    assert engine.now <= deadline


def test_a_known_speed_makes_even_the_first_chunk_fit(build):
    reranker, engine = build(float)
    reranker.rerank("red shoe", (), candidates(16), deadline=engine.now + 1.0)  # learns the speed
    deadline = engine.now + 8 * SECONDS_PER_PAIR
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=deadline)
    check(answer, N_ITEMS)
    assert 4 <= answer.n_scored <= 8
    assert engine.now <= deadline


@pytest.mark.parametrize("left", [-1.0, 0.0, 2 * SECONDS_PER_PAIR])
def test_without_time_nothing_is_scored_and_retrieval_answers(build, left: float):
    reranker, engine = build(float)
    reranker.rerank("red shoe", (), candidates(16), deadline=engine.now + 1.0)
    before = engine.n_run
    found = candidates(20)
    answer = reranker.rerank("red shoe", (), found, deadline=engine.now + left)
    check(answer, 20)
    assert engine.n_run == before
    assert answer.degraded == DEADLINE
    assert answer.n_scored == 0
    np.testing.assert_array_equal(answer.order, np.arange(20))
    np.testing.assert_array_equal(answer.scores, found.scores)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), RuntimeError("engine gone")])
@pytest.mark.parametrize("deadline", [None, 200.0])
def test_a_broken_model_leaves_the_order_of_retrieval(build, caplog, broken: object, deadline: float | None):
    def score_of(item: int) -> float:
        if item != 33:
            return float(item)
        if isinstance(broken, Exception):
            raise broken
        return float(str(broken))

    reranker, _ = build(score_of)
    with caplog.at_level(logging.ERROR):
        answer = reranker.rerank("secret words", (), candidates(N_ITEMS), deadline=deadline)
    check(answer, N_ITEMS)
    assert answer.degraded == FAILED
    assert answer.n_scored == 0
    np.testing.assert_array_equal(answer.order, np.arange(N_ITEMS))
    assert caplog.records
    assert "secret" not in caplog.text


def test_only_the_first_so_many_are_read_and_the_rest_follow_as_retrieved(build):
    reranker, engine = build(lambda item: float(item * 7 % 10), weight=1.0)
    found = candidates(10)
    answer = reranker.rerank("red shoe", (), found, depth=4)
    check(answer, 10)
    assert engine.n_run == answer.n_scored == 4
    assert answer.degraded is None
    assert answer.order.tolist() == [1, 2, 3, 0, *range(4, 10)]  # 7 + .9, 4 + .8, 1 + .7, 0 + 1
    assert np.isnan(answer.rerank_scores).tolist() == [False] * 4 + [True] * 6
    # those behind begin at the lowest of those read, and fall as retrieval does
    np.testing.assert_allclose(answer.scores[4:], answer.scores[3] + found.scores[4:] - found.scores[4], atol=1e-6)


@pytest.mark.parametrize("depth", [10, 11, 99, None])
def test_a_depth_beyond_the_candidates_reads_all(build, depth: int | None):
    reranker, _ = build(float)
    answer = reranker.rerank("red shoe", (), candidates(10), depth=depth)
    check(answer, 10)
    assert (answer.n_scored, answer.degraded) == (10, None)
    assert answer.order.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("deadline", [None, 200.0])
def test_a_depth_of_zero_reads_nothing_and_lacks_nothing(build, deadline: float | None):
    reranker, engine = build(float)
    found = candidates(10)
    answer = reranker.rerank("red shoe", (), found, depth=0, deadline=deadline)
    check(answer, 10)
    assert (engine.n_run, answer.degraded) == (0, None)
    np.testing.assert_array_equal(answer.order, np.arange(10))
    np.testing.assert_array_equal(answer.scores, found.scores)


class Trees:
    """Stands for a model: any function of the features, by name."""

    def __init__(self, names: tuple[str, ...], score: Callable[[dict[str, np.ndarray]], np.ndarray]) -> None:
        self.names = names
        self.score = score

    def predict(self, features: np.ndarray, *, num_iteration: int | None, num_threads: int) -> np.ndarray:
        assert num_iteration is None
        assert features.shape[1] == len(self.names)
        return self.score(dict(zip(self.names, features.T, strict=True)))


class Ranks:
    """Features of nothing but the rank; notes whom it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []

    def features(self, query: str, history: object, candidates: Candidates) -> np.ndarray:
        self.asked.append((query, history))
        features = np.zeros((len(candidates), len(FEATURES)), dtype=np.float32)
        features[:, FEATURES.index("retrieval_rank")] = np.arange(len(candidates))
        return features


def upside_down() -> Blend:
    """Its first model turns retrieval's order round; its second adds the cross-encoder's score, and -2.5 if unread."""
    first = Trees(FEATURES, lambda of: of["retrieval_rank"])
    second = Trees(FEATURES + RERANK_FEATURES, lambda of: np.where(np.isnan(of["rerank"]), -2.5, of["rerank"]))
    info = BlendInfo(
        fingerprint="b",
        feature_version=1,
        features=FEATURES,
        rerank_features=RERANK_FEATURES,
        retriever_fingerprint="r",
        reranker_fingerprint="c",
        data_fingerprint="d",
        config=BlendConfig(),
        n_searches=1,
        n_reranked=1,
        n_trees=(1, 1),
        metrics={},
        importance={},
        seed=1,
        packages={},
    )
    return Blend(first, second, Ranks(), info)  # type: ignore[arg-type]


def test_the_first_model_chooses_whom_the_cross_encoder_reads_and_the_second_orders_all(build):
    scores = {9: -7.0, 8: 0.0, 7: 2.0}  # fails on any other
    reranker, engine = build(scores.__getitem__, blend=upside_down())
    answer = reranker.rerank("red shoe", (), candidates(10), depth=3)
    check(answer, 10)
    assert engine.n_run == answer.n_scored == 3
    assert answer.degraded is None
    # 7: 7 + 2; 8: 8 + 0; 9: 9 - 7 = 2 behind 6: 6 - 2.5 = 3.5 and 5: 2.5, before 4: 1.5 though those were not read
    assert answer.order.tolist() == [7, 8, 6, 5, 9, 4, 3, 2, 1, 0]
    np.testing.assert_allclose(answer.scores, [9, 8, 3.5, 2.5, 2, 1.5, 0.5, -0.5, -1.5, -2.5])
    np.testing.assert_array_equal(answer.rerank_scores, [2, 0, np.nan, np.nan, -7, *[np.nan] * 5])


def test_query_and_history_reach_the_features(build):
    blend = upside_down()
    past = (HistoryEvent(timestamp=datetime(2026, 1, 1, tzinfo=UTC), type=EventType.PURCHASE, item_id="i-07"),)
    build(float, blend=blend)[0].rerank("red shoe", past, candidates(3))
    assert blend._extractor.asked == [("red shoe", past)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("broken", [float("nan"), RuntimeError("engine gone")])
@pytest.mark.parametrize("deadline", [None, 200.0])
def test_a_broken_cross_encoder_leaves_the_order_of_the_first_model(build, broken: object, deadline: float | None):
    def score_of(item: int) -> float:
        if isinstance(broken, Exception):
            raise broken
        return float(str(broken))

    reranker, _ = build(score_of, blend=upside_down())
    answer = reranker.rerank("red shoe", (), candidates(10), depth=4, deadline=deadline)
    check(answer, 10)
    assert (answer.degraded, answer.n_scored) == (FAILED, 0)
    assert answer.order.tolist() == list(range(9, -1, -1))
    assert answer.scores.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert np.isnan(answer.rerank_scores).all()


def test_a_deadline_that_has_passed_leaves_the_order_of_the_first_model(build):
    reranker, engine = build(float, blend=upside_down())
    answer = reranker.rerank("red shoe", (), candidates(10), depth=4, deadline=engine.now - 1)
    check(answer, 10)
    assert (answer.degraded, answer.n_scored, engine.n_run) == (DEADLINE, 0, 0)
    assert answer.order.tolist() == list(range(9, -1, -1))
    assert answer.scores.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_broken_trees_leave_the_order_of_the_cross_encoder_and_say_so(build, caplog):
    def broken(_features: dict[str, np.ndarray]) -> np.ndarray:
        raise RuntimeError("no such tree")

    blend = upside_down()
    blend._first = Trees(FEATURES, broken)
    answer = build(float, weight=0.3, blend=blend)[0].rerank("red shoe", (), candidates(10))
    check(answer, 10)
    want = build(float, weight=0.3)[0].rerank("red shoe", (), candidates(10))
    np.testing.assert_array_equal(answer.order, want.order)
    assert (answer.n_scored, answer.degraded) == (10, FAILED)
    assert "the blend failed" in caplog.text


def test_a_depth_of_zero_leaves_the_order_of_the_first_model(build):
    reranker, engine = build(float, blend=upside_down())
    answer = reranker.rerank("red shoe", (), candidates(10), depth=0)
    check(answer, 10)
    assert (answer.degraded, answer.n_scored, engine.n_run) == (None, 0, 0)
    assert answer.order.tolist() == list(range(9, -1, -1))


def test_with_little_time_the_first_models_best_are_read_and_the_second_orders_all(build):
    reranker, engine = build(float, blend=upside_down())
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 30 * SECONDS_PER_PAIR)
    check(answer, N_ITEMS)
    n = answer.n_scored
    assert answer.degraded == DEADLINE
    assert FIRST_CHUNK <= n < N_ITEMS
    assert answer.order.tolist() == list(range(N_ITEMS - 1, -1, -1))
    # rank and score are both the row: twice it where read, 2.5 less than it where not
    rows = np.arange(N_ITEMS - 1, -1, -1)
    np.testing.assert_allclose(answer.scores, np.where(rows >= N_ITEMS - n, 2 * rows, rows - 2.5))
    np.testing.assert_array_equal(np.isnan(answer.rerank_scores), rows < N_ITEMS - n)


@pytest.mark.parametrize("deadline", [None, 200.0, 0.0])
def test_no_candidates_give_an_empty_answer_under_a_blend(build, deadline: float | None):
    answer = build(float, blend=upside_down())[0].rerank("red shoe", (), candidates(0), deadline=deadline)
    check(answer, 0)
    assert answer.degraded is None


def test_equal_final_scores_keep_the_order_of_retrieval(build):
    flat = upside_down()
    for trees in (flat._first, flat._second):
        trees.score = lambda of: np.zeros(len(of["retrieval_rank"]))
    answer = build(float, blend=flat)[0].rerank("red shoe", (), candidates(40), depth=5)
    assert answer.order.tolist() == list(range(40))


def test_a_blend_can_be_taken_off_again(build):
    reranker, _ = build(float, weight=0.3)
    want = reranker.rerank("red shoe", (), candidates(10), depth=4)
    got = reranker.with_blend(upside_down()).with_blend(None).rerank("red shoe", (), candidates(10), depth=4)
    np.testing.assert_array_equal(got.order, want.order)
    np.testing.assert_array_equal(got.scores, want.scores)


def test_scoring_alone_reads_the_rows_asked_for(build):
    reranker, engine = build(float)
    assert reranker.score("red shoe", (), np.array([5, 2, 9])).tolist() == [5, 2, 9]
    assert reranker.score("red shoe", (), np.empty(0, dtype=np.int64)).tolist() == []
    assert engine.n_run == 3


def test_passages_of_another_catalogue_are_refused(build, tiny_items: ItemTable):
    reranker, _ = build(float)
    tokens = PassageTokens(np.arange(3, dtype=np.int32), np.arange(4, dtype=np.int64))
    with pytest.raises(ArtefactError, match="60 items, got 3"):
        join_reranker(reranker.scorer, tokens, tiny_items, CONFIG, reranker.score_weights)


@pytest.fixture(scope="module")
def tuned(trained: Path, trained_info: RerankerModelInfo, tiny_items: ItemTable) -> Reranker:
    scorer = open_torch_scorer(trained, device="cpu")
    config = trained_info.config
    tokens = PassageTokens.build(scorer.tokenizer, passages(tiny_items, config.item_fields), config.max_item_tokens)
    return join_reranker(scorer, tokens, tiny_items, config, trained_info.score_weights)


def test_history_moves_the_shoppers_brand_up(
    tuned: Reranker, tasteful: Prepared, tiny_items: ItemTable, word_retriever
):
    brand_of = tiny_items.column("brand")
    first_with: list[bool] = []
    first_without: list[bool] = []
    for example in tasteful.examples("valid"):
        if not example.history:
            continue
        found = word_retriever.retrieve(example.query, 20)
        brand = brand_of[example.labels[0].row]
        for history, firsts in ((example.history, first_with), ((), first_without)):
            answer = tuned.rerank(example.query, history, found)
            firsts.append(brand_of[found.rows[answer.order[0]]] == brand)
    assert np.mean(first_without) < 0.4  # five brands: what a guess gets
    assert np.mean(first_with) > 0.5


def test_an_answer_is_the_same_in_chunks_and_at_once(tuned: Reranker, word_retriever):
    past = HistoryEvent(timestamp=datetime(2026, 1, 1, tzinfo=UTC), type=EventType.PURCHASE, item_id="i-07")
    found = word_retriever.retrieve("running shoe", N_ITEMS)
    at_once = tuned.rerank("running shoe", [past], found)
    tuned.clock = lambda: 0.0  # no time passes
    chunked = tuned.rerank("running shoe", [past], found, deadline=1.0)
    assert chunked.degraded is None
    np.testing.assert_allclose(chunked.scores, at_once.scores, atol=1e-5)


def test_a_trained_blend_orders_what_a_tuned_cross_encoder_read(
    tuned: Reranker, tiny_blend: Blend, tasteful: Prepared, word_retriever
):
    blended = tuned.with_blend(tiny_blend)
    first = {False: 0, True: 0}
    examples = [example for example in tasteful.examples("valid") if example.history]
    for example in examples:
        found = word_retriever.retrieve(example.query, 20)
        for reranker in (tuned, blended):
            answer = reranker.rerank(example.query, example.history, found, depth=8)
            check_order(answer, 20)
            assert answer.n_scored == 8
            first[reranker is blended] += found.rows[answer.order[0]] == example.labels[0].row
    assert first[True] / len(examples) > 0.8  # trees see the brand as such
    assert first[True] >= first[False]
