import time

import pytest

from corpus.errors import DeadlineExceeded
from rerank.scorer import PairScorer
from server.inference.breaker import N_FAILURES, Breaker
from server.pipeline import Pipeline
from server.stages.ranking import DegradationReason, Run, SearchTask
from tests.server.gates import QUERY, eventually
from tests.server.scraping import scrape, value


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    clock = [time.monotonic()]  # beside which the reranker looks at the real one
    monkeypatch.setattr("server.inference.breaker.time.monotonic", lambda: clock[0])
    return clock


def test_a_breaker_lets_one_call_try_after_its_pause(clock):
    breaker = Breaker(2.0)
    assert breaker.admits()
    breaker.note(failed=True)
    clock[0] += 1.9
    assert not breaker.admits()
    clock[0] += 0.1
    assert [breaker.admits(), breaker.admits()] == [True, False]
    breaker.note(failed=False)
    assert breaker.admits()


def test_nobody_tries_what_is_still_stuck(clock):
    breaker = Breaker(2.0)
    assert breaker.admits(is_stuck=True)  # others may only wait for their turn
    breaker.note(failed=True)
    clock[0] += 2.0
    assert [breaker.admits(is_stuck=True), breaker.admits(), breaker.admits()] == [False, True, False]


def test_only_failures_in_a_row_open_a_breaker(clock):
    breaker = Breaker(2.0, n_failures=3)
    for failed in (True, True, False, True, True):
        breaker.note(failed=failed)
        assert not breaker.is_open
    breaker.note(failed=True)
    assert (breaker.is_open, breaker.admits()) == (True, False)
    clock[0] += 2.0
    assert breaker.admits()
    breaker.note(failed=True)  # the one that tried
    clock[0] += 1.9
    assert not breaker.admits()


class Histories:
    def __init__(self) -> None:
        self.n_asked = 0
        self.works = False

    def history(self, shopper: str) -> tuple[()]:
        self.n_asked += 1
        if not self.works:
            raise OSError("the disk is gone")
        return ()


def reasons(pipeline: Pipeline) -> list[DegradationReason]:
    run = Run(deadline=time.monotonic() + 600)
    task = SearchTask(query=QUERY, shopper="user:ada", retrieval_depth=40, rerank_depth=10)
    pipeline.search(task, run)
    return [degradation.reason for degradation in run.degraded]


def test_a_history_store_that_fails_thrice_is_asked_no_more_until_the_pause_is_over(bundle, clock):
    histories = Histories()
    pipeline = Pipeline(bundle, histories)
    for n_asked in (1, 2, 3, 3, 3):
        assert reasons(pipeline) == [DegradationReason.HISTORY_UNAVAILABLE]
        assert histories.n_asked == n_asked
    under = pipeline.under(bundle)
    assert under.breakers is pipeline.breakers  # live updates make no new start
    histories.works = True
    clock[0] += 1.0
    assert reasons(pipeline) == []
    assert not pipeline.breakers.history.is_open


def test_a_reranker_that_fails_thrice_is_asked_no_more_until_the_pause_is_over(bundle, monkeypatch, clock):
    pipeline = Pipeline(bundle, Histories())
    pipeline.breakers.history.note(failed=False)
    heads, n_asked = PairScorer.heads, 0

    def fail(*_: object) -> None:
        nonlocal n_asked
        n_asked += 1
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PairScorer, "heads", fail)
    for expected in (1, 2, 3, 3, 3):
        assert DegradationReason.RERANKER_FAILED in reasons(pipeline)
        assert n_asked == expected
    monkeypatch.setattr(PairScorer, "heads", heads)
    clock[0] += 1.0
    assert DegradationReason.RERANKER_FAILED not in reasons(pipeline)
    assert not pipeline.breakers.reranker.is_open


@pytest.mark.parametrize("busy_s", [0.0, 0.2])  # 0.2: with the searches before
def test_too_little_time_is_no_failure_of_the_reranker(bundle, monkeypatch, busy_s):
    monkeypatch.setattr(PairScorer, "busy_s", busy_s)
    pipeline = Pipeline(bundle, Histories())
    retrieve = bundle.retriever.retrieve
    for _ in range(4):
        run = Run(deadline=time.monotonic() + 600)

        def late(*arguments: object, _run: Run = run, **options: object):
            _run.deadline = time.monotonic()
            return retrieve(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(bundle.retriever, "retrieve", late)
            pipeline.search(SearchTask(query=QUERY, retrieval_depth=40, rerank_depth=10), run)
        assert [degradation.reason for degradation in run.degraded] == [DegradationReason.DEADLINE]
    assert not pipeline.breakers.reranker.is_open


def test_a_slow_reranker_that_read_nothing_is_neither_broken_nor_mended(bundle, monkeypatch):
    monkeypatch.setattr(PairScorer, "patience_s", lambda *_: 0.0)
    pipeline = Pipeline(bundle, Histories())
    pipeline.breakers.history.note(failed=False)
    breaker = pipeline.breakers.reranker
    for _ in range(N_FAILURES - 1):
        breaker.note(failed=True)
    for _ in range(4):
        assert DegradationReason.RERANKER_SLOW in reasons(pipeline)
        assert not breaker.is_open
    breaker.note(failed=True)
    assert breaker.is_open  # those before count


def test_a_reranker_that_does_not_come_back_is_left_alone(bundle, monkeypatch):
    monkeypatch.setattr(PairScorer, "busy_s", 0.3)
    reranker = bundle.reranker
    monkeypatch.setattr(reranker, "clock", lambda: float("inf"))  # no time is left when it looks first
    pipeline = Pipeline(bundle, Histories())
    pipeline.breakers.history.note(failed=False)
    for _ in range(3):
        assert DegradationReason.DEADLINE in reasons(pipeline)
    assert pipeline.breakers.reranker.is_open
    assert DegradationReason.RERANKER_FAILED in reasons(pipeline)


def test_a_turn_that_does_not_come_in_time_is_no_failure_of_the_reranker(bundle, monkeypatch):
    def wait_in_vain(*_: object) -> None:
        time.sleep(0.15)
        raise DeadlineExceeded("others came first")

    monkeypatch.setattr(PairScorer, "heads", wait_in_vain)
    monkeypatch.setattr(PairScorer, "busy_s", 0.05)  # with the one who is served now
    pipeline = Pipeline(bundle, Histories())
    pipeline.breakers.history.note(failed=False)
    for _ in range(4):
        assert DegradationReason.DEADLINE in reasons(pipeline)
    assert not pipeline.breakers.reranker.is_open


def test_metrics_tell_what_is_left_alone(own_store, serving, monkeypatch):
    with serving(own_store) as (server, client):
        assert value(scrape(server), "tandem_breaker_open", part="reranker") == 0

        def fail(*_: object) -> None:
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(PairScorer, "heads", fail)
            for _ in range(4):
                assert client.search(QUERY).degraded
            assert value(scrape(server), "tandem_breaker_open", part="reranker") == 1
            assert value(scrape(server), "tandem_breaker_open", part="history") == 0
        eventually(lambda: not client.search(QUERY).degraded)
        assert value(scrape(server), "tandem_breaker_open", part="reranker") == 0
