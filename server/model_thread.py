"""The one thread that the models belong to, and for how long it has been busy with one piece of work."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ModelThread(ThreadPoolExecutor):
    """A thread that others can see being stuck. Work that waits counts for nothing: a long queue is not a stuck one."""

    def __init__(self) -> None:
        """Begin idle."""
        super().__init__(1, thread_name_prefix="model")
        self._busy_since: float | None = None  # time.monotonic() seconds; written by the thread alone

    @property
    def busy_s(self) -> float:
        """For how long the present work has been going on; 0 when idle."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let the thread do some work after what was submitted before."""

        def watched() -> T:
            self._busy_since = time.monotonic()
            try:
                return fn(*args, **kwargs)
            finally:
                self._busy_since = None

        return super().submit(watched)
