"""What every gRPC service does around its methods: deadlines, and errors as callers may see them."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar, cast

import grpc

from corpus.errors import (
    ActivationRefused,
    DeadlineExceeded,
    DeviceUnavailable,
    InputError,
    NotImplementedField,
    Overloaded,
    TandemError,
    UnknownItem,
    UpdatesRefused,
    VersionNotFound,
)
from server.api.requests import InvalidRequest
from server.api.status import Violation, details_trailer
from server.api.wire import Malformed
from server.calls.layers import Context
from server.calls.observing import observe
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2
from server.stages.ranking import Run

logger = logging.getLogger(__name__)

# the first row that fits decides
CODES: tuple[tuple[type[TandemError], grpc.StatusCode], ...] = (
    (NotImplementedField, grpc.StatusCode.UNIMPLEMENTED),
    (UnknownItem, grpc.StatusCode.NOT_FOUND),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (VersionNotFound, grpc.StatusCode.NOT_FOUND),
    (UpdatesRefused, grpc.StatusCode.FAILED_PRECONDITION),
    (ActivationRefused, grpc.StatusCode.FAILED_PRECONDITION),
    (DeviceUnavailable, grpc.StatusCode.UNAVAILABLE),
    (TandemError, grpc.StatusCode.UNAVAILABLE),
)
# what these say is meant for callers; what the others say names paths and devices, and goes to the log
PUBLIC = (InputError, DeadlineExceeded, Overloaded, UpdatesRefused, ActivationRefused)
UNAVAILABLE = "a part of the server cannot be used at present, and its log says which; try again later"
INTERNAL = "unexpected error; the server's log says what happened"

T = TypeVar("T")
S = TypeVar("S")


def refusing_the_rest(servicer: type[S]) -> type[S]:
    """Let every method of a service's contract that its class does not define say so, and its own name."""

    def refusal(name: str) -> Callable[[object, object, Context], Awaitable[NoReturn]]:
        async def refuse(_self: object, _request: object, context: Context) -> NoReturn:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not served by this version")

        return refuse

    for method in search_pb2.DESCRIPTOR.services_by_name[servicer.__name__].methods:
        if method.name not in vars(servicer):
            setattr(servicer, method.name, refusal(f"{servicer.__name__}.{method.name}"))
    return servicer


class Answering:
    """What all services do around their methods: deadlines, errors, and counting the calls in flight."""

    def __init__(self, config: ServerConfig, *, default_timeout_ms: float) -> None:
        """Begin without calls.

        Args:
            config: Limits.
            default_timeout_ms: Budget of a call that brings no deadline, in milliseconds.
        """
        self._config = config
        self._default_timeout_ms = default_timeout_ms
        self._n_calls = 0

    @property
    def is_idle(self) -> bool:
        """Whether no call is being answered."""
        return self._n_calls == 0

    def deadline_of(self, context: Context) -> float:
        """Return when a call's answer must be ready to be sent, in ``time.monotonic()`` seconds."""
        budget_s = cast("float | None", context.time_remaining())  # None without a deadline, whatever the stubs say
        if budget_s is None:
            budget_s = self._default_timeout_ms / 1000
        return time.monotonic() + budget_s - self._config.reserve_ms / 1000

    async def _answer(self, method: Callable[[Any, Run], Awaitable[T]], request: object, context: Context) -> T:
        """Run a method within the caller's deadline; turn what it raises into a gRPC status."""
        run = Run(deadline=self.deadline_of(context))
        observe(run)
        self._n_calls += 1
        try:
            if isinstance(request, Malformed):
                raise InputError("expected a message of tandem.search.v1 with its text in UTF-8, got other bytes")
            run.check_time()
            return await method(request, run)
        except TandemError as exc:
            failure = exc
        except Exception as exc:
            logger.error("unexpected error", exc_info=exc)
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL)
        finally:
            self._n_calls -= 1
        await self._fail(failure, context)

    async def _fail(self, failure: TandemError, context: Context) -> NoReturn:
        code, message = status_of(failure)
        trailer = details_trailer(
            code,
            message,
            violations=violations_in(failure),
            retry_after_ms=self._config.retry_after_ms if isinstance(failure, Overloaded) else None,
        )
        await context.abort(code, message, trailer)


def status_of(failure: TandemError) -> tuple[grpc.StatusCode, str]:
    """Return code and message for the caller; what is not meant for callers goes to the log."""
    code = next(code for kind, code in CODES if isinstance(failure, kind))
    if isinstance(failure, PUBLIC):
        return code, str(failure)
    logger.error("call failed: %s", failure)
    return code, UNAVAILABLE


def violations_in(failure: TandemError) -> list[Violation]:
    """Return the faults of its request that a failure names; none if it names no field."""
    if isinstance(failure, InvalidRequest):
        return failure.violations
    if isinstance(failure, InputError) and failure.field is not None:
        return [Violation(field=failure.field, description=str(failure))]
    return []
