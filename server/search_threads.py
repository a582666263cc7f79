"""The threads on which whole searches run side by side, and for how long each has been at its present work."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
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
