"""The owner of a model by itself: real threads, and a model that writes down what it is asked."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from corpus.errors import DeadlineExceeded
from server.inference.model_owner import PATIENCE_S, ModelOwner
from server.stages.ranking import Run, as_present
from tests.server.gates import eventually

FAR = 1e9  # seconds from now


class Doubler:
    """A model that doubles numbers, holds until it is let go, and remembers what ran together."""

    def __init__(self, *, held: bool = False) -> None:
        self.runs: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self._go = threading.Event()
        if not held:
            self.let_go()

    def let_go(self) -> None:
        self._go.set()

    def run(self, asked: Sequence[int]) -> list[int]:
        self.runs.append(list(asked))
        self.entered.release()
        assert self._go.wait(60)
        if -1 in asked:
            raise ZeroDivisionError("the model broke")
        return [2 * number for number in asked]


@pytest.fixture
def owner():
    owner = ModelOwner("doubler", token_budget=10, n_searching=lambda: 1)
    yield owner
    owner.close()


@pytest.fixture
def callers():
    with ThreadPoolExecutor(16) as callers:
        yield callers


def run_for(seconds: float = FAR) -> Run:
    return Run(deadline=time.monotonic() + seconds)


def ask(owner: ModelOwner, work: Doubler, number: int, run: Run | None, n_tokens: int = 1) -> int:
    if run is None:
        return owner.ask(work, number, n_inputs=1, n_tokens=n_tokens)
    with as_present(run):
        return owner.ask(work, number, n_inputs=1, n_tokens=n_tokens)


def in_line(owner: ModelOwner, callers: ThreadPoolExecutor, asks: Sequence[tuple]) -> list[Future[int]]:
    """Let several ask, one after the other, while the model is held."""
    futures = []
    for number, arguments in enumerate(asks, start=1):
        futures.append(callers.submit(ask, owner, *arguments))
        eventually(lambda number=number: owner.n_waiting == number)
    return futures


def hold(owner: ModelOwner, callers: ThreadPoolExecutor) -> tuple[Doubler, Future[int]]:
    """Keep the owner busy until the model is let go."""
    held = Doubler(held=True)
    future = callers.submit(ask, owner, held, 1, run_for())
    assert held.entered.acquire(timeout=60)
    return held, future


def test_those_who_wait_run_together_and_each_gets_its_own_answer(owner, callers):
    held, first = hold(owner, callers)
    work = Doubler()
    waiting = in_line(owner, callers, [(work, number, run_for()) for number in (3, 4, 5)])
    held.let_go()
    assert [future.result(60) for future in [first, *waiting]] == [2, 6, 8, 10]
    assert work.runs == [[3, 4, 5]]
    assert owner.sizes == {1: 1, 3: 1}
    assert owner.n_waiting == 0


def test_a_run_ends_where_the_budget_does_and_who_asks_for_more_runs_alone(owner, callers):
    held, _ = hold(owner, callers)
    work = Doubler()
    sizes = [(1, 4), (2, 6), (3, 1), (4, 50), (5, 2)]
    waiting = in_line(owner, callers, [(work, number, run_for(FAR + number), n) for number, n in sizes])
    held.let_go()
    assert [future.result(60) for future in waiting] == [2, 4, 6, 8, 10]
    assert work.runs == [[1, 2], [3], [4], [5]]


def test_work_of_another_model_is_not_mixed_in(owner, callers):
    held, _ = hold(owner, callers)
    old, new = Doubler(), Doubler()  # as of two bundles, while they are swapped
    waiting = in_line(owner, callers, [(old, 1, run_for()), (old, 2, run_for()), (new, 3, run_for())])
    held.let_go()
    assert [future.result(60) for future in waiting] == [2, 4, 6]
    assert (old.runs, new.runs) == ([[1, 2]], [[3]])


def test_a_failed_run_reaches_all_who_are_in_it_and_nobody_else(owner, callers):
    held, first = hold(owner, callers)
    work, other = Doubler(), Doubler()
    waiting = in_line(owner, callers, [(work, number, run_for()) for number in (3, -1, 5)] + [(other, 7, run_for())])
    held.let_go()
    for future in waiting[:3]:
        with pytest.raises(ZeroDivisionError, match="the model broke"):
            future.result(60)
    assert waiting[3].result(60) == 14
    assert first.result(60) == 2
    assert ask(owner, work, 8, run_for()) == 16  # the thread lives


def test_the_earliest_deadline_comes_first_and_equals_in_the_order_of_their_coming(owner, callers):
    held, _ = hold(owner, callers)
    work = Doubler()
    base = time.monotonic()
    deadlines = [base + 0.7 * PATIENCE_S + 60, base + 0.5, base + 0.3, base + 0.5]
    moment = [base]  # stands still, so that nobody's time passes on a slow machine

    def stopped() -> float:
        return moment[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.inference.model_owner.time.monotonic", stopped)
        patch.setattr("server.stages.ranking.time.monotonic", stopped)
        patch.setattr("server.inference.model_owner._result", lambda future, deadline: future.result(60))
        runs = [Run(deadline=deadline) for deadline in deadlines]
        waiting = in_line(owner, callers, [(work, number, run, 6) for number, run in enumerate(runs)])
        held.let_go()
        for future in waiting:
            future.result(60)
    assert work.runs == [[2], [1], [3], [0]]


def test_whoever_has_much_time_is_not_passed_over_for_ever(owner, callers):
    held, _ = hold(owner, callers)
    work = Doubler()
    base = time.monotonic()
    moment = [base]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.inference.model_owner.time.monotonic", lambda: moment[0])
        patch.setattr("server.inference.model_owner._result", lambda future, deadline: future.result(60))
        waiting = in_line(owner, callers, [(work, 1, Run(deadline=base + FAR), 6)])
        patience = callers.submit(ask, owner, work, 2, None, 6)  # outside of any search: the same
        eventually(lambda: owner.n_waiting == 2)
        moment[0] += PATIENCE_S
        late = callers.submit(ask, owner, work, 3, Run(deadline=base + PATIENCE_S + 0.5), 6)
        eventually(lambda: owner.n_waiting == 3)
        early = callers.submit(ask, owner, work, 4, Run(deadline=base + PATIENCE_S - 0.5), 6)
        eventually(lambda: owner.n_waiting == 4)
        patch.setattr("server.stages.ranking.time.monotonic", lambda: base)
        held.let_go()
        for future in [*waiting, patience, late, early]:
            future.result(60)
    assert work.runs == [[4], [1], [2], [3]]


def test_expired_work_never_reaches_the_model_and_its_caller_does_not_wait_for_the_turn(owner, callers):
    held, first = hold(owner, callers)
    work = Doubler()
    (late,) = in_line(owner, callers, [(work, 5, run_for(0.05))])
    with pytest.raises(DeadlineExceeded, match="time was up"):
        late.result(60)  # the model is held all the while
    kept = callers.submit(ask, owner, work, 6, run_for())
    eventually(lambda: owner.n_waiting == 2)
    held.let_go()
    assert (first.result(60), kept.result(60)) == (2, 12)
    assert work.runs == [[6]]
    assert (owner.n_expired, owner.n_cancelled) == (1, 0)


def test_a_cancelled_call_frees_its_thread_at_once_and_never_reaches_the_model(owner, callers):
    held, first = hold(owner, callers)
    work, run = Doubler(), run_for()
    (gone,) = in_line(owner, callers, [(work, 5, run)])
    run.cancel()
    with pytest.raises(DeadlineExceeded):
        gone.result(60)
    assert not first.done()
    held.let_go()
    assert ask(owner, work, 6, run_for()) == 12
    assert work.runs == [[6]]
    assert (owner.n_expired, owner.n_cancelled) == (0, 1)
    with pytest.raises(DeadlineExceeded):  # whatever it asks for afterwards
        ask(owner, work, 7, run)
    assert ask(owner, work, 8, run_for()) == 16
    assert work.runs == [[6], [8]]
    assert owner.n_cancelled == 2


def test_a_model_that_hangs_keeps_nobody_past_the_deadline(owner, callers):
    held = Doubler(held=True)
    with pytest.raises(DeadlineExceeded):
        ask(owner, held, 1, run_for(0.05))
    assert held.runs == [[1]]
    assert owner.busy_s > 0
    held.let_go()
    eventually(lambda: owner.busy_s == 0)
    assert owner.n_expired == 0  # it was not spared


def test_nobody_waits_longer_than_he_wants_to(owner, callers):
    held, first = hold(owner, callers)
    work = Doubler()
    began = time.monotonic()
    with as_present(run_for()), pytest.raises(DeadlineExceeded):
        owner.ask(work, 1, n_inputs=1, n_tokens=1, until=began + 0.05)
    assert 0.05 <= time.monotonic() - began < 30
    held.let_go()
    assert first.result(60) == 2
    with as_present(run_for()):
        assert owner.ask(work, 2, n_inputs=1, n_tokens=1, until=time.monotonic() + FAR) == 4
    assert work.runs == [[2]]  # what nobody waited for any more cost nothing


def test_an_error_of_the_model_that_looks_like_ours_is_the_models(owner):
    class Late:
        def run(self, asked: Sequence[int]) -> list[int]:
            raise TimeoutError("of the model")

    with pytest.raises(TimeoutError, match="of the model"), as_present(run_for()):
        owner.ask(Late(), 1, n_inputs=1, n_tokens=1)


def test_the_backlog_is_what_comes_before(owner, callers):
    assert owner.backlog() == 0
    held = Doubler(held=True)
    callers.submit(ask, owner, held, 1, run_for(), 9)
    assert held.entered.acquire(timeout=60)
    assert owner.backlog() == 5  # half of what runs, rounded up
    near, far = run_for(30), run_for(60)
    near.deadline, far.deadline = time.monotonic() + 0.9, time.monotonic() + 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.inference.model_owner._result", lambda future, deadline: future.result(60))
        in_line(owner, callers, [(held, 2, near, 4), (held, 3, far, 3)])
        with as_present(far):
            assert owner.backlog() == 5 + 4 + 3
        with as_present(Run(deadline=near.deadline - 0.1)):
            assert owner.backlog() == 5
        held.let_go()
        eventually(lambda: owner.backlog() == 0)


def test_alone_nothing_waits_for_company(callers):
    waits: list[float | None] = []
    owner = ModelOwner("doubler", token_budget=10, n_searching=lambda: 1)
    try:
        wait_for = owner._arrived.wait_for

        def noted(predicate, timeout=None):
            waits.append(timeout)
            return wait_for(predicate, timeout)

        owner._arrived.wait_for = noted
        work = Doubler()
        assert [ask(owner, work, number, run_for()) for number in (1, 2)] == [2, 4]
        assert set(waits) == {None}
    finally:
        owner.close()


def test_while_others_search_a_run_waits_until_all_have_asked(callers, monkeypatch):
    monkeypatch.setattr("server.inference.model_owner.WINDOW_S", 60)
    owner = ModelOwner("doubler", token_budget=10, n_searching=lambda: 3)
    try:
        work = Doubler()
        waiting = [callers.submit(ask, owner, work, number, run_for()) for number in (1, 2, 3)]
        assert [future.result(30) for future in waiting] == [2, 4, 6]
        assert [sorted(run) for run in work.runs] == [[1, 2, 3]]
        assert ask(owner, work, 9, run_for(), n_tokens=10) == 18  # a full run waits for nobody
    finally:
        owner.close()


def test_the_window_is_short(callers):
    owner = ModelOwner("doubler", token_budget=10, n_searching=lambda: 2)
    try:
        assert ask(owner, Doubler(), 1, run_for()) == 2  # though the other one never asks
    finally:
        owner.close()


def test_closing_tells_those_who_wait(callers):
    owner = ModelOwner("doubler", token_budget=10, n_searching=lambda: 1)
    held, first = hold(owner, callers)
    (waiting,) = in_line(owner, callers, [(Doubler(), 5, run_for())])
    closing = callers.submit(owner.close)
    with pytest.raises(DeadlineExceeded):
        waiting.result(60)
    held.let_go()
    closing.result(60)
    assert first.result(60) == 2
    assert not owner._thread.is_alive()
    with pytest.raises(DeadlineExceeded, match="stopping"):
        ask(owner, held, 1, run_for())


def test_an_idle_owner_keeps_nothing_of_its_last_run(owner):
    import gc
    import weakref

    work = Doubler()
    assert ask(owner, work, 1, run_for()) == 2
    gone = weakref.ref(work)
    del work
    gc.collect()
    eventually(lambda: gone() is None)
