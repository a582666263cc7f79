"""How often one caller may call: a bucket of tokens each, which fills at a steady rate."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from server.access.guard import key_name_of
from server.api.status import details_trailer
from server.calls.layers import Context, Method

MAX_CALLERS = 10_000  # remembered; the one that has not called for longest is forgotten, and may call anew


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float  # seconds, when it held them


class CallerLimits:
    """A bucket for each caller. For one thread only: the event loop's."""

    def __init__(
        self,
        calls_per_second: float,
        *,
        max_callers: int = MAX_CALLERS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without callers.

        Args:
            calls_per_second: Of each; a second's worth, and at least one call, may come at once.
            max_callers: Remembered at most.
            now: The clock, in seconds.
        """
        self._rate = calls_per_second
        self._capacity = max(1.0, calls_per_second)
        self._max_callers = max_callers
        self._now = now
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the latest caller last

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str) -> float:
        """Take a token for a call.

        Args:
            caller: Who calls.
        Returns:
            0 if there was one; else the seconds until there will be, and nothing is taken.
        """
        now = self._now()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(self._capacity, now)
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
        bucket.tokens = refilled(bucket.tokens, now - bucket.at, rate=self._rate, capacity=self._capacity)
        bucket.at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._rate
        bucket.tokens -= 1
        return 0.0


class Limits(Protocol):
    """Tells who calls too often."""

    def take(self, caller: str) -> float:
        """Take a token for a call; return 0 if there was one, else the seconds until there will be."""
        ...


class RateLimit:
    """Refuses the calls of those who call too often. A caller is an API key or, where none is needed, an address."""

    def __init__(self, limits: Limits) -> None:
        """Limit nothing yet.

        Args:
            limits: Shared by all ports.
        """
        self._limits = limits

    def wrap(self, method: Method, rpc: str) -> Method:
        """Ask before each call."""

        async def limited(data: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            name = key_name_of()
            wait_s = self._limits.take(f"key {name}" if name is not None else f"peer {peer_host(context.peer())}")
            if wait_s > 0:
                code, message = grpc.StatusCode.RESOURCE_EXHAUSTED, "this caller calls too often; call again later"
                await context.abort(code, message, details_trailer(code, message, retry_after_ms=wait_s * 1000))
            return await method(data, context)

        return limited


def refilled(tokens: float, passed_s: float, *, rate: float, capacity: float) -> float:
    """Return what a bucket holds some seconds later, at a rate of tokens per second."""
    return min(capacity, tokens + passed_s * rate)


def peer_host(peer: str) -> str:
    """Return a peer without its port, which changes with every connection.

    Args:
        peer: As gRPC names it: ``ipv4:10.0.0.1:40000``, ``ipv6:[::1]:40000``, ``unix:``.
    """
    kind, _, rest = peer.partition(":")
    return f"{kind}:{rest.rpartition(':')[0] or rest}"
