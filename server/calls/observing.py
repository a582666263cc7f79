"""What every call leaves behind for those who watch the server: its name, its code, its stages. Never what it said."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc

from server.calls.layers import Context, Method
from server.stages.ranking import Run

_RUNS: ContextVar[list[Run] | None] = ContextVar("runs", default=None)  # of the call that is being answered
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCall:
    """A call that was answered, refused, or given up."""

    rpc: str  # "SearchService.Search"
    code: grpc.StatusCode
    started_ns: int  # since 1970
    duration_s: float
    runs: Sequence[Run]  # clocks of the work done for it; none where it was refused before
    metadata: Callable[[], Iterable[tuple[str, str | bytes]] | None]  # as the caller sent it, if anybody asks


class Observer(Protocol):
    """Someone who watches."""

    def finished(self, call: FinishedCall) -> None:
        """Take note of a call. Runs on the event loop, so it must be quick, and must not raise."""
        ...


def observe(run: Run) -> None:
    """Let a run count as work of the call that is being answered."""
    runs = _RUNS.get()
    if runs is not None:
        runs.append(run)


class Observing:
    """Tells observers of every call to a service, also of those that layers behind this one refuse."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Watch nothing yet.

        Args:
            observers: Whom to tell.
        """
        self._observers = tuple(observers)

    def wrap(self, method: Method, rpc: str) -> Method:
        """Take the time of each call, and its code."""

        async def observed(data: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            runs: list[Run] = []
            _RUNS.set(runs)  # each call has a task of its own, and with it a context
            started_ns, began = time.time_ns(), time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                return await method(data, context)
            except asyncio.CancelledError:
                remaining_s = cast("float | None", context.time_remaining())
                is_late = remaining_s is not None and remaining_s <= 0
                code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
                raise
            except BaseException:
                code = _code_of(context)
                raise
            finally:
                call = FinishedCall(
                    rpc=rpc,
                    code=code,
                    started_ns=started_ns,
                    duration_s=time.perf_counter() - began,
                    runs=runs,
                    metadata=context.invocation_metadata,
                )
                for observer in self._observers:
                    observer.finished(call)

        return observed


def _code_of(context: Context) -> grpc.StatusCode:
    """Return the code that a method failed with; without one it failed by an exception of its own."""
    code = context.code()
    found = code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.UNKNOWN if found is grpc.StatusCode.OK else found
