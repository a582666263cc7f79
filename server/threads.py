"""Where the work for calls is done that would hold up the event loop, and how a call waits for it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from server.ranking import Run, as_present

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """Where work is done that would hold up the event loop."""

    search: Executor  # whole searches, side by side; they ask the owners of the models
    disk: Executor  # reads and writes histories, fetches the items of pages whose ranking is there


async def in_thread(executor: Executor, run: Run, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work in a thread, unless its deadline passes while it waits there.

    A caller that hangs up frees its place. Work that still waits is never run; what runs has no time left from then on.
    """
    queued = time.perf_counter()

    def begin() -> T:
        run.note("wait", queued)
        run.check_time()
        with as_present(run):
            return work(*args, **kwargs)

    try:
        return await asyncio.wrap_future(executor.submit(begin))
    except asyncio.CancelledError:
        run.cancel()
        raise
