import logging
from datetime import UTC, datetime

import numpy as np
import pytest

from corpus.errors import ArtefactError, DeadlineExceeded
from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable
from corpus.prepared import Prepared
from rerank.blend import Blend
from rerank.config import RerankerConfig
from rerank.inputs import PassageTokens
from rerank.reranker import DEADLINE, FAILED, FIRST_CHUNK, SLOW, Reranker, join_reranker
from rerank.scorer import Pairs, PairScorer, open_torch_scorer
from rerank.train import train_reranker
from retrieval.passages import passages
from tests.rerank.scripted import CONFIG, N_ITEMS, SECONDS_PER_PAIR, candidates, check, check_order


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


@pytest.mark.parametrize(("pairs_of_time", "is_one_run"), [(4.1 * N_ITEMS, True), (3.9 * N_ITEMS, False)])
def test_ample_time_is_not_spent_on_chunks(build, monkeypatch, pairs_of_time: float, is_one_run: bool):
    reranker, engine = build(float)
    reranker.rerank("red shoe", (), candidates(16), deadline=engine.now + 1.0)  # learns the speed
    asked: list[int] = []
    heads = reranker.scorer.heads

    def noted(pairs: Pairs) -> np.ndarray:
        asked.append(len(pairs.passages))
        return heads(pairs)

    monkeypatch.setattr(reranker.scorer, "heads", noted)
    deadline = engine.now + pairs_of_time * SECONDS_PER_PAIR
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=deadline)
    assert answer.n_scored == sum(asked) == N_ITEMS
    assert asked[0] == (N_ITEMS if is_one_run else FIRST_CHUNK)


@pytest.mark.parametrize(("n_before", "n_scored"), [(0, 24), (18, 6), (21, 0)])
def test_what_the_model_reads_for_others_before_takes_of_the_time(build, monkeypatch, n_before: int, n_scored: int):
    reranker, engine = build(float)
    reranker.rerank("red shoe", (), candidates(16), deadline=engine.now + 1.0)
    n_tokens = len(reranker._prefix("red shoe", ())) + len(reranker.passage_tokens.of(0)) + 1
    backlog = [n_before * n_tokens]
    monkeypatch.setattr(PairScorer, "backlog", property(lambda _: backlog[0]))
    monkeypatch.setattr("rerank.reranker.FIRST_CHUNK", 32)
    deadline = engine.now + 30 * SECONDS_PER_PAIR  # eight tenths of which are 24 pairs
    run = engine.run

    def run_later(*arrays: np.ndarray) -> np.ndarray:
        engine.now += backlog[0] / n_tokens * SECONDS_PER_PAIR
        backlog[0] = 0
        return run(*arrays)

    monkeypatch.setattr(engine, "run", run_later)
    answer = reranker.rerank("red shoe", (), candidates(30), deadline=deadline)
    check(answer, 30)
    assert answer.n_scored in (n_scored, n_scored + 4)  # what is left then may do for the least chunk
    assert engine.now <= deadline
    # waiting was no slowness of the model
    assert reranker._seconds_per_token == pytest.approx(SECONDS_PER_PAIR / n_tokens)


def test_a_scorer_that_has_no_time_ends_the_reading(build, monkeypatch):
    reranker, engine = build(float)
    heads = reranker.scorer.heads

    def kept_by_others(pairs: Pairs) -> np.ndarray:
        if engine.n_run:
            engine.now += 50.0
            raise DeadlineExceeded("too late")
        return heads(pairs)

    monkeypatch.setattr(reranker.scorer, "heads", kept_by_others)
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 10.0)
    check(answer, N_ITEMS)
    assert (answer.degraded, answer.n_scored) == (DEADLINE, FIRST_CHUNK)
    known = reranker._seconds_per_token
    assert known is not None
    assert known > 0.05  # it took at least so long: 50 s for the chunk, of which three tenths count

    def cancelled(pairs: Pairs) -> np.ndarray:
        engine.now += 1e-6
        raise DeadlineExceeded("cancelled")

    monkeypatch.setattr(reranker.scorer, "heads", cancelled)
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 1e4)
    assert (answer.degraded, answer.n_scored) == (DEADLINE, 0)
    assert reranker._seconds_per_token == known  # which tells nothing


@pytest.mark.parametrize("known", [[], [0, 1, 2], [5, 40, 59], list(range(N_ITEMS))])
def test_what_is_known_is_not_read_and_takes_no_time(build, monkeypatch, known: list[int]):
    reranker, engine = build(float)

    def recall(pairs: Pairs, logits: np.ndarray) -> list[int]:
        for item in known:
            logits[item] = [item, 7, -7]
        return [position for position in range(len(pairs.passages)) if position not in known]

    want = build(float)[0].rerank("red shoe", (), candidates(N_ITEMS))
    monkeypatch.setattr(reranker.scorer, "recall", recall)
    for deadline in (None, engine.now + 10.0):
        engine.n_run = 0
        answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=deadline)
        check(answer, N_ITEMS)
        np.testing.assert_array_equal(answer.order, want.order)
        np.testing.assert_array_equal(answer.rerank_scores, want.rerank_scores)
        assert engine.n_run == N_ITEMS - len(known)
        assert (answer.degraded, answer.n_scored) == (None, N_ITEMS)


def test_what_is_known_behind_the_first_that_there_is_no_time_for_does_not_count(build, monkeypatch):
    reranker, engine = build(float)
    reranker.rerank("red shoe", (), candidates(16), deadline=engine.now + 1.0)  # learns the speed
    known = [0, 1, 2, 5, 40, 59]

    def recall(pairs: Pairs, logits: np.ndarray) -> list[int]:
        for item in known:
            logits[item] = [item, 7, -7]
        return [position for position in range(len(pairs.passages)) if position not in known]

    monkeypatch.setattr(reranker.scorer, "recall", recall)
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 10 * SECONDS_PER_PAIR)
    check(answer, N_ITEMS)
    assert (answer.degraded, answer.n_scored) == (DEADLINE, 12)  # 8 were read: 3, 4, and 6 to 11
    assert answer.order.tolist() == [*reversed(range(12)), *range(12, N_ITEMS)]


def test_slowness_that_is_over_is_found_out(build):
    reranker, engine = build(float)
    reranker._seconds_per_token = 1.0
    n_calls = 0
    while not engine.n_run:
        answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 0.1)
        check(answer, N_ITEMS)
        n_calls += 1
        assert n_calls < 100
    assert n_calls > 10  # and not tried all the time
    for _ in range(5):
        answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 0.1)
    assert answer.n_scored == N_ITEMS


def test_what_is_far_slower_than_it_was_is_given_the_time_it_took(build, monkeypatch):
    reranker, engine = build(float)
    for _ in range(10):
        reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 1e6)  # learns the speed
    asked = []

    def usual_s(_scorer: PairScorer, n_tokens: int) -> float:
        asked.append(n_tokens)
        return n_tokens * reranker._seconds_per_token / 5  # as if it were five times as slow now

    monkeypatch.setattr(PairScorer, "patience_s", usual_s)
    began = engine.now
    answer = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=began + 1e6)
    check(answer, N_ITEMS)
    assert asked == [reranker.pairs(reranker._prefix("red shoe", ()), np.arange(N_ITEMS)).n_tokens]
    assert answer.degraded == SLOW
    assert N_ITEMS * 0.8 / 5 - 4 <= answer.n_scored <= N_ITEMS / 5
    assert engine.now - began <= N_ITEMS * SECONDS_PER_PAIR / 5
    hurried = reranker.rerank("red shoe", (), candidates(N_ITEMS), deadline=engine.now + 8 * SECONDS_PER_PAIR)
    assert hurried.degraded == DEADLINE  # which came first
    unhurried = reranker.rerank("red shoe", (), candidates(N_ITEMS))
    assert (unhurried.degraded, unhurried.n_scored) == (None, N_ITEMS)


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
def tuned(tasteful: Prepared, word_retriever, tiny_config: RerankerConfig, tiny_items: ItemTable, tmp_path_factory):
    """Trained longer than ``trained``, whose taste hangs on the processor's arithmetic."""
    train = tiny_config.train.model_copy(update={"epochs": 20, "patience": 20})
    config = tiny_config.model_copy(update={"train": train})
    folder = tmp_path_factory.mktemp("tuned") / "v1"
    info = train_reranker(tasteful, word_retriever, config, folder, retriever_fingerprint="retriever")
    scorer = open_torch_scorer(folder, device="cpu")
    tokens = PassageTokens.build(scorer.tokenizer, passages(tiny_items, config.item_fields), config.max_item_tokens)
    return join_reranker(scorer, tokens, tiny_items, config, info.score_weights)


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
