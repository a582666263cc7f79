"""Calls offered to a server: at moments of their own (open loop), or as fast as answers come (closed loop).

In an open loop arrivals are a Poisson process, and a call's time counts from the moment it was to be sent: a generator
that falls behind, or a server that stalls, cannot hide waiting by sending later (coordinated omission).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import grpc
import numpy as np

from server.pb.tandem.search.v1 import search_pb2

SEARCH = "/tandem.search.v1.SearchService/Search"
N_CHANNELS = 8  # connections of their own: processes that share a port each get some
WAIT = "wait"  # the stage that is no work


class Fate(StrEnum):
    """What became of a call."""

    COMPLETE = "complete"
    DEGRADED = "degraded"  # answered, with something in ``degraded[]``
    REFUSED = "refused"  # RESOURCE_EXHAUSTED
    LATE = "late"  # DEADLINE_EXCEEDED
    FAILED = "failed"  # any other code


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One call."""

    due_s: float  # when it was to be sent, since the load began
    late_s: float  # how much later it was sent
    latency_s: float  # from when it was to be sent to its end
    fate: Fate
    code: str  # gRPC's
    work_ms: float = 0.0  # sum of the server's stages but waiting
    version: str = ""  # of the bundle that answered
    page_token: str = ""  # of the next page
    n_found: int = 0  # the whole ranking
    n_read: int = 0  # results of the page that the cross-encoder read


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a server made of some load."""

    outcomes: Sequence[Outcome]  # in the order in which they were to be sent
    duration_s: float  # over which they were to be sent; of a closed loop, until the last one ended
    n_unsent: int = 0  # calls left out because too many were in flight


Call = Callable[[int, float], Awaitable[Outcome]]  # number of the call, when it was to be sent (perf_counter seconds)


class Caller:
    """Sends searches over some connections."""

    def __init__(self, address: str, requests: Sequence[search_pb2.SearchRequest], *, timeout_s: float) -> None:
        """Connect when first needed; to be made where an event loop runs.

        Args:
            address: The server's.
            requests: Sent in turn.
            timeout_s: Deadline of each call.
        """
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(N_CHANNELS)]
        read = search_pb2.SearchResponse.FromString
        self._methods: list[Any] = [
            channel.unary_unary(SEARCH, response_deserializer=read) for channel in self._channels
        ]
        self._requests = [request.SerializeToString() for request in requests]  # once, not while the clock runs
        self._timeout_s = timeout_s
        self._began = time.perf_counter()

    def begin(self) -> float:
        """Let moments count from now; return it."""
        self._began = time.perf_counter()
        return self._began

    async def __call__(self, number: int, due: float) -> Outcome:
        """Send one call, and tell what became of it."""
        return await self.send(number, due, self._requests[number % len(self._requests)])

    async def send(self, number: int, due: float, request: bytes, *, timeout_s: float | None = None) -> Outcome:
        """Send one call with a request of its own, and perhaps a deadline of its own."""
        sent = time.perf_counter()
        code, response = grpc.StatusCode.OK, None
        try:
            response = await self._methods[number % N_CHANNELS](request, timeout=timeout_s or self._timeout_s)
        except grpc.aio.AioRpcError as exc:
            code = exc.code()
        ended = time.perf_counter()
        outcome = Outcome(
            due_s=due - self._began,
            late_s=max(0.0, sent - due),
            latency_s=ended - due,
            fate=_fate_of(code),
            code=code.name,
        )
        if response is None:
            return outcome
        return replace(
            outcome,
            fate=Fate.DEGRADED if response.degraded else Fate.COMPLETE,
            work_ms=sum(timing.duration_ms for timing in response.stage_timings if timing.stage != WAIT),
            version=response.index_version,
            page_token=response.next_page_token,
            n_found=response.total_size,
            n_read=sum(result.HasField("rerank_score") for result in response.results),
        )

    async def close(self) -> None:
        """Hang up."""
        for channel in self._channels:
            await channel.close()


async def open_loop(
    caller: Caller, *, rate: float, duration_s: float, max_in_flight: int, generator: np.random.Generator
) -> Load:
    """Offer calls at random moments, whatever becomes of those before.

    Args:
        caller: Sends them.
        rate: Calls per second, on average.
        duration_s: For how long calls are to be sent; the last ones are waited for.
        max_in_flight: A call that finds so many unanswered is not sent, and counted as such.
        generator: Of the moments.
    """
    gaps = generator.exponential(1 / rate, size=int(rate * duration_s + 6 * (rate * duration_s) ** 0.5) + 10)
    moments = np.cumsum(gaps)
    began = caller.begin()
    pending: set[asyncio.Task[Outcome]] = set()
    tasks: list[asyncio.Task[Outcome]] = []
    n_unsent = 0
    for number, moment in enumerate(moments[moments < duration_s].tolist()):
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        if len(pending) >= max_in_flight:
            n_unsent += 1
            continue
        task = asyncio.create_task(caller(number, began + moment))
        tasks.append(task)
        pending.add(task)
        task.add_done_callback(pending.discard)
    return Load(outcomes=await asyncio.gather(*tasks), duration_s=duration_s, n_unsent=n_unsent)


async def closed_loop(caller: Caller, *, n_callers: int, duration_s: float) -> Load:
    """Let some callers call, each again as soon as it is answered.

    Args:
        caller: Sends their calls.
        n_callers: How many.
        duration_s: After which no call begins.
    """
    began = caller.begin()
    outcomes: list[Outcome] = []
    number = 0

    async def call_again_and_again() -> None:
        nonlocal number
        while (due := time.perf_counter()) < began + duration_s:
            number += 1
            outcomes.append(await caller(number, due))

    await asyncio.gather(*(call_again_and_again() for _ in range(n_callers)))
    duration_s = time.perf_counter() - began
    return Load(outcomes=sorted(outcomes, key=lambda outcome: outcome.due_s), duration_s=duration_s)


def _fate_of(code: grpc.StatusCode) -> Fate:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Fate.REFUSED
    return Fate.LATE if code is grpc.StatusCode.DEADLINE_EXCEEDED else Fate.FAILED
