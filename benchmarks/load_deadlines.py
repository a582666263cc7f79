"""Calls that have little time: is each answered in it, and does an answer that is not whole say so?"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load_generator import Caller, Fate
from server.pb.tandem.search.v1 import search_pb2

LEAST_MS, MOST_MS = 1.0, 500.0  # of a budget; they are uniform between
OVERRUN_MS = 20.0
DEPTH = 20  # candidates that the cross-encoder is to read
N_FOUND = 50  # candidates, all of them on one page
LONGEST_S = 60.0
PAUSE_S = 0.1  # of a caller who was refused; at once he would be again


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """What became of calls with little time."""

    n_calls: int
    n_complete: int
    n_degraded: int
    n_late: int  # DEADLINE_EXCEEDED
    n_refused: int
    n_failed: int
    n_unflagged: int  # answers that say to be whole and are not
    overrun_share: float  # of all calls, that ended more than 20 ms after their deadline
    worst_overrun_ms: float


async def measure_deadlines(
    address: str, requests: Sequence[search_pb2.SearchRequest], *, n_calls: int, n_callers: int, seed: int
) -> Deadlines:
    """Send searches with random deadlines.

    Args:
        address: The server's.
        requests: Searches, sent in turn; with histories they read more.
        n_calls: How many calls.
        n_callers: How many at once, each again as soon as it is answered, or a little after it was refused.
        seed: Of the budgets.
    """
    budgets = np.random.default_rng(seed).uniform(LEAST_MS, MOST_MS, n_calls).tolist()
    caller = Caller(address, requests, timeout_s=LONGEST_S)
    todo = iter(enumerate(budgets))
    overruns: list[float] = []
    fates: list[Fate] = []
    read: list[tuple[int, int]] = []  # of each answer that says to be whole: its body, and how many were read for it
    bodies = [_whole(request).SerializeToString() for request in requests]

    async def work() -> None:
        for number, budget_ms in todo:
            body = bodies[number % len(bodies)]
            found = await caller.send(number, time.perf_counter(), body, timeout_s=budget_ms / 1000)
            overruns.append(found.latency_s * 1000 - budget_ms)
            fates.append(found.fate)
            if found.fate is Fate.REFUSED:
                await asyncio.sleep(PAUSE_S)
            if found.fate is Fate.COMPLETE:
                read.append((number % len(bodies), found.n_read))

    try:
        await caller.send(0, time.perf_counter(), bodies[0])  # connects
        await asyncio.gather(*(work() for _ in range(n_callers)))
        # how many are worth reading differs by search: what the same one reads without haste is the measure
        whole = {
            body: (await caller.send(body, time.perf_counter(), bodies[body])).n_read for body in {b for b, _ in read}
        }
    finally:
        await caller.close()
    return Deadlines(
        n_calls=n_calls,
        n_complete=fates.count(Fate.COMPLETE),
        n_degraded=fates.count(Fate.DEGRADED),
        n_late=fates.count(Fate.LATE),
        n_refused=fates.count(Fate.REFUSED),
        n_failed=fates.count(Fate.FAILED),
        n_unflagged=sum(n_read < whole[body] for body, n_read in read),
        overrun_share=sum(overrun > OVERRUN_MS for overrun in overruns) / n_calls,
        worst_overrun_ms=max(overruns),
    )


def _whole(request: search_pb2.SearchRequest) -> search_pb2.SearchRequest:
    """Return the search of which one page shows everything that was read."""
    asked = search_pb2.SearchRequest(page_size=N_FOUND)
    asked.MergeFrom(request)
    asked.params.retrieval_depth = N_FOUND
    asked.params.rerank_depth = DEPTH
    return asked
