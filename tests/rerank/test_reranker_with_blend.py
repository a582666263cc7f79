from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from corpus.events import EventType, HistoryEvent
from rerank.blend import Blend
from rerank.blend_info import BlendInfo
from rerank.config import BlendConfig
from rerank.features import FEATURES, RERANK_FEATURES
from rerank.reranker import DEADLINE, FAILED, FIRST_CHUNK
from retrieval.candidates import Candidates
from tests.rerank.scripted import N_ITEMS, SECONDS_PER_PAIR, candidates, check


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


def upside_down(reach: float | None = None) -> Blend:
    """Its first model turns retrieval's order round; its second adds the cross-encoder's score, and -2.5 if unread."""
    first = Trees(FEATURES, lambda of: of["retrieval_rank"])
    second = Trees(FEATURES + RERANK_FEATURES, lambda of: np.where(np.isnan(of["rerank"]), -2.5, of["rerank"]))
    info = BlendInfo(
        fingerprint="b",
        feature_version=1,
        features=FEATURES,
        rerank_features=RERANK_FEATURES,
        retriever_fingerprint="r",
        channels="channels",
        reranker_fingerprint="c",
        data_fingerprint="d",
        config=BlendConfig(),
        n_searches=1,
        n_reranked=1,
        reach=reach,
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


def test_who_is_out_of_reach_of_the_first_page_is_not_read_unless_all_are_asked_for(build):
    reranker, engine = build(float, blend=upside_down(reach=2.5))
    answer = reranker.rerank("red shoe", (), candidates(30), depth=20)
    check(answer, 30)
    # the first model scores 29 … 0, the page's last 20: 19 and 18 are at most 2.5 below, 17 is not
    assert engine.n_run == answer.n_scored == answer.n_wanted == 12
    assert answer.degraded is None
    assert answer.order.tolist() == list(range(29, -1, -1))
    np.testing.assert_allclose(answer.scores, np.r_[2 * np.arange(29, 17, -1), np.arange(17, -1, -1) - 2.5])
    np.testing.assert_array_equal(answer.rerank_scores, [*range(29, 17, -1), *[np.nan] * 18])
    assert reranker.rerank("red shoe", (), candidates(30), depth=20, whole=True).n_scored == 20
    assert reranker.rerank("red shoe", (), candidates(30), depth=11).n_scored == 11
    assert reranker.rerank("red shoe", (), candidates(30), depth=7).n_scored == 7
    assert reranker.with_blend(None).rerank("red shoe", (), candidates(30), depth=20).n_scored == 20


def test_a_deadline_tells_how_many_were_within_reach(build):
    reranker, engine = build(float, blend=upside_down(reach=25.0))
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 20 * SECONDS_PER_PAIR)
    check(answer, N_ITEMS)
    assert answer.degraded == DEADLINE
    assert FIRST_CHUNK <= answer.n_scored < answer.n_wanted == 35


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
