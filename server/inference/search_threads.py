"""The threads on which work for calls is done: whole searches side by side, and whatever waits for a disk."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from server.stages.ranking import Run, as_present

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class SearchThreads(ThreadPoolExecutor):
    """Threads that others can see being stuck. Work waits in the order in which it came, and counts for nothing yet.

    First come, first served: where budgets are alike, whoever has waited longest is also nearest to a deadline.
    """

    def __init__(self, n_threads: int) -> None:
        """Begin idle.

        Args:
            n_threads: Searches that run at once.
        """
        super().__init__(n_threads, thread_name_prefix="search")
        self._begun: dict[int, float] = {}  # thread → time.monotonic() seconds; each thread writes its own entry alone

    @property
    def busy_s(self) -> float:
        """For how long the longest of the present work has been going on; 0 when idle."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    @property
    def n_running(self) -> int:
        """Searches under way now; those that wait for a thread are none."""
        return len(self._begun)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread do some work after what was submitted before."""

        def watched() -> T:
            mine = threading.get_ident()
            self._begun[mine] = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                del self._begun[mine]

        return super().submit(watched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """Where work is done that would hold up the event loop."""

    search: Executor  # whole searches, side by side; they ask the owners of the models
    disk: Executor  # reads and writes histories, explains further pages


async def in_thread(executor: Executor, run: Run, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work in a thread, unless its deadline passes while it waits there.

    A caller that hangs up frees its place. Work that still waits is never run; what runs has no time left from then on.
    """
    queued = time.perf_counter()
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def begin() -> None:
        try:
            run.note("wait", queued)
            run.check_time()
            with as_present(run):
                found = work(*args, **kwargs)
        except BaseException as exc:  # thread boundary
            loop.call_soon_threadsafe(_settle, answer.set_exception, answer, exc)
        else:
            loop.call_soon_threadsafe(_settle, answer.set_result, answer, found)

    executor.submit(begin)  # its own future is not waited for: asyncio.wrap_future doubles what the way there costs
    try:
        return await answer
    except asyncio.CancelledError:
        run.cancel()
        raise


def _settle(settle: Callable[[S], None], answer: "asyncio.Future[T]", outcome: S) -> None:
    if not answer.cancelled():
        settle(outcome)
