import threading

import pytest

from server.search_threads import SearchThreads


@pytest.fixture
def now(monkeypatch):
    """The clock, to be set."""
    now = [100.0]
    monkeypatch.setattr("server.search_threads.time.monotonic", lambda: now[0])
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
