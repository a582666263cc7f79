"""The thread that a model belongs to. Searches ask it; what several ask for at once it runs at once.

Who asks waits with the search's deadline: when that passes, or the call is cancelled, it waits no longer, and what was
asked for is dropped before it costs anything. Only a run that has begun is finished, for the others in it.

The line is in the order of deadlines. Where budgets are alike the search that came first is done first, so that a
house that is too full answers some in whole rather than all in part; and whoever has little time goes before those who
have more. Nobody is passed over for longer than ``PATIENCE_S`` by those who come later.

The line needs no bound of its own: a search asks for one thing at a time, so that it is never longer than there are
threads for searches, before which calls are refused (``server.calls.admission``).
"""

import heapq
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from corpus.errors import DeadlineExceeded
from server.inference.priority import give_way
from server.stages.ranking import Run, present_run

logger = logging.getLogger(__name__)

WINDOW_S = 0.0003  # that a run waits for company, while other searches are under way
PATIENCE_S = 1.0  # the default budget of a call: whoever asks without a deadline is treated as if that were it
DONE_SHARE = 0.5  # of the run under way, at a moment of which nothing is known
CLOSING_S = 5.0  # for the run under way, which nobody waits for any more

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)


class Work(Protocol[I_contra, O_co]):
    """What a model does for one or several who ask."""

    def run(self, asked: Sequence[I_contra]) -> Sequence[O_co]:
        """Answer each of those who ask; runs on the owner's thread alone."""
        ...


@dataclass(order=True, slots=True, kw_only=True)
class _Ask:
    """What somebody waits for."""

    due: float  # time.monotonic() seconds; the order of the line
    number: int  # and among equals, of their coming
    work: Work[Any, Any] = field(compare=False)  # asks for the same work may run together
    inputs: Any = field(compare=False)
    n_inputs: int = field(compare=False)
    n_tokens: int = field(compare=False)
    run: Run | None = field(compare=False)
    future: Future[Any] = field(compare=False, default_factory=Future)


class ModelOwner:
    """A thread that runs one model for all searches."""

    def __init__(self, name: str, *, token_budget: int, n_searching: Callable[[], int]) -> None:
        """Start the thread.

        Args:
            name: Of the model, for metrics.
            token_budget: Most tokens of what runs together; who asks for more has a run alone.
            n_searching: Tells how many searches are under way, which may be about to ask as well.
        """
        self.name = name
        self.sizes: Counter[int] = Counter()  # texts or pairs in a run → how many runs had so many
        self.n_expired = 0  # asks dropped because their deadline had passed
        self.n_cancelled = 0  # and because their caller was gone
        self._token_budget = token_budget
        self._n_searching = n_searching
        self._line: list[_Ask] = []  # a heap
        self._n_asked = 0
        self._running_tokens = 0
        self._busy_since: float | None = None  # time.monotonic() seconds; written by the thread alone
        self._closed = False
        self._arrived = threading.Condition()  # guards the line, and is told of every change to it
        # a daemon: a model that never comes back must not keep the process from ending
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def busy_s(self) -> float:
        """For how long the present run has been going on; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def n_waiting(self) -> int:
        """Asks in the line."""
        return len(self._line)

    def backlog(self) -> int:
        """Return about how many tokens come before what the present search would ask for now."""
        run = present_run()
        with self._arrived:
            due = self._due(run)
            ahead = sum(ask.n_tokens for ask in self._line if ask.due <= due)
            return ahead + math.ceil(self._running_tokens * (1 - DONE_SHARE))

    def ask(
        self,
        work: Work[I_contra, O_co],
        inputs: I_contra,
        *,
        n_inputs: int,
        n_tokens: int,
        until: float = math.inf,
    ) -> O_co:
        """Let the model do something, and wait for it as long as the present search has time.

        Args:
            work: What is to be done.
            inputs: With what.
            n_inputs: How many texts or pairs these are.
            n_tokens: About how many tokens.
            until: When the search waits no longer, whatever time it has, in ``time.monotonic()`` seconds.
        Raises:
            DeadlineExceeded: If the search's time is up first, or its call is cancelled.
            Exception: Whatever the run raised that this was in.
        """
        run = present_run()
        with self._arrived:
            if self._closed:
                raise DeadlineExceeded("the server is stopping; call another one")
            self._n_asked += 1
            ask = _Ask(
                due=self._due(run),
                number=self._n_asked,
                work=work,
                inputs=inputs,
                n_inputs=n_inputs,
                n_tokens=n_tokens,
                run=run,
            )
            heapq.heappush(self._line, ask)
            self._arrived.notify_all()
        future: Future[O_co] = ask.future
        if run is None:
            return future.result()
        with run.waiting_for(future):
            return _result(future, min(run.deadline, until))

    def close(self) -> None:
        """End the thread; whoever waits is told."""
        with self._arrived:
            self._closed = True
            for ask in self._line:
                ask.future.cancel()
            self._line.clear()
            self._arrived.notify_all()
        self._thread.join(CLOSING_S)

    def _due(self, run: Run | None) -> float:
        latest = time.monotonic() + PATIENCE_S
        return latest if run is None else min(run.deadline, latest)

    def _work(self) -> None:
        give_way()
        while self._run(self._next()):  # holds nothing while it waits: bundles are to go when they are swapped
            pass

    def _run(self, batch: list[_Ask]) -> bool:
        """Answer those in a run; False if there are none."""
        self._busy_since = time.monotonic()
        try:
            answers = batch[0].work.run([ask.inputs for ask in batch]) if batch else ()
            for ask, answer in zip(batch, answers, strict=True):
                ask.future.set_result(answer)
        except Exception as exc:  # a failed run must not leave its callers waiting
            for ask in batch:
                if not ask.future.done():
                    ask.future.set_exception(exc)
        finally:
            self._busy_since = None
        return bool(batch)

    def _next(self) -> list[_Ask]:
        """Wait for the next run, and take it out of the line; empty at the end."""
        with self._arrived:
            self._running_tokens = 0
            while True:
                self._arrived.wait_for(lambda: self._line or self._closed)
                if self._closed:
                    return []
                if not self._has_company():
                    self._arrived.wait_for(lambda: self._has_company() or self._closed, WINDOW_S)
                batch = self._take()
                if batch:
                    self._running_tokens = sum(ask.n_tokens for ask in batch)
                    self.sizes[sum(ask.n_inputs for ask in batch)] += 1
                    return batch

    def _has_company(self) -> bool:
        """Tell whether to wait no longer: all searches under way have asked, or for as much as fits into a run."""
        return len(self._line) >= self._n_searching() or sum(a.n_tokens for a in self._line) >= self._token_budget

    def _take(self) -> list[_Ask]:
        """Take the first of the line, and behind it those that fit into its run."""
        batch: list[_Ask] = []
        n_tokens = 0
        while self._line:
            ask = self._line[0]
            if ask.run is not None and not ask.run.has_time():
                ask.future.cancel()
            fits = n_tokens + ask.n_tokens <= self._token_budget
            if batch and not ask.future.cancelled() and (ask.work is not batch[0].work or not fits):
                break
            heapq.heappop(self._line)
            if ask.future.set_running_or_notify_cancel():
                batch.append(ask)
                n_tokens += ask.n_tokens
            elif ask.run is not None and ask.run.is_cancelled:
                self.n_cancelled += 1
            else:
                self.n_expired += 1
        return batch


def _result(future: Future[O_co], deadline: float) -> O_co:
    timeout_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
    try:
        return future.result(timeout_s)
    except (TimeoutError, CancelledError):
        if future.done() and not future.cancelled():
            raise  # the run's own
        future.cancel()  # unless it runs, for others
        raise DeadlineExceeded("the call's time was up before the model had its turn; allow it more time") from None
