import asyncio
import math
import threading
import time

import pytest

from corpus.errors import DeadlineExceeded
from server.inference.search_threads import SearchThreads, in_thread
from server.stages.ranking import Run, present_run


@pytest.fixture
def now(monkeypatch):
    """The clock, to be set."""
    now = [100.0]
    monkeypatch.setattr("server.inference.search_threads.time.monotonic", lambda: now[0])
    return now


def test_a_queue_is_no_work(now):
    threads = SearchThreads(1)
    try:
        seen: list[tuple[float, int]] = []

        def work(seconds: float) -> None:
            now[0] += seconds
            seen.append((threads.busy_s, threads.n_running))

        for future in [threads.submit(work, seconds) for seconds in (3.0, 4.0)]:
            future.result(60)
        assert seen == [(3.0, 1), (4.0, 1)]
        with pytest.raises(ZeroDivisionError):
            threads.submit(lambda: 1 / 0).result(60)
        assert threads.submit(lambda: threads.busy_s).result(60) == 0
    finally:
        threads.shutdown()
    assert (threads.busy_s, threads.n_running) == (0, 0)


def test_the_longest_of_several_counts_until_it_ends(now):
    threads = SearchThreads(2)
    ends = [threading.Event(), threading.Event()]
    begun = threading.Semaphore(0)

    def work(end: threading.Event) -> None:
        begun.release()
        assert end.wait(60)

    try:
        first = threads.submit(work, ends[0])
        assert begun.acquire(timeout=60)
        now[0] += 5
        second = threads.submit(work, ends[1])
        assert begun.acquire(timeout=60)
        now[0] += 2
        assert (threads.busy_s, threads.n_running) == (7, 2)
        ends[0].set()
        first.result(60)
        assert (threads.busy_s, threads.n_running) == (2, 1)
        ends[1].set()
        second.result(60)
    finally:
        threads.shutdown()


@pytest.fixture
def one():
    """A single thread."""
    with SearchThreads(1) as threads:
        yield threads


async def test_work_is_done_on_a_thread_for_its_run_and_its_outcome_comes_back(one):
    run = Run(deadline=math.inf)
    assert await in_thread(one, run, lambda number, *, plus: number + plus, 2, plus=3) == 5
    assert await in_thread(one, run, lambda: present_run() is run)
    assert await in_thread(one, run, threading.get_ident) != threading.get_ident()
    assert set(run.timings_ms) == {"wait"}
    with pytest.raises(ZeroDivisionError):
        await in_thread(one, run, lambda: 1 / 0)


async def test_work_whose_time_is_up_when_its_turn_comes_is_never_done(one):
    with pytest.raises(DeadlineExceeded):
        await in_thread(one, Run(deadline=time.monotonic() - 1), lambda: pytest.fail("ran"))


async def test_who_hangs_up_is_let_go_at_once_and_what_waits_is_never_done(one):
    entered, end, done = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(entered.set)
        assert end.wait(60)
        done.append("first")

    runs = [Run(deadline=math.inf), Run(deadline=math.inf)]
    first = asyncio.create_task(in_thread(one, runs[0], work))
    second = asyncio.create_task(in_thread(one, runs[1], done.append, "second"))
    await entered.wait()
    for task in (first, second):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert done == []
    assert [run.is_cancelled for run in runs] == [True, True]
    end.set()
    assert await in_thread(one, Run(deadline=math.inf), list, done) == ["first"]
