"""Rich errors: what a gRPC status says beyond its code, in Google's standard details."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"  # the trailer in which gRPC clients look for a google.rpc.Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One fault of a request."""

    field: str  # as in the proto: "events[3].item_id"
    description: str  # what was expected, what was got; never the value itself


def details_trailer(
    code: grpc.StatusCode, message: str, *, violations: Sequence[Violation] = (), retry_after_ms: float | None = None
) -> tuple[tuple[str, bytes], ...]:
    """Write the trailer of a failed call.

    Args:
        code: The call's status code.
        message: The call's status message.
        violations: Faults of the request; a ``google.rpc.BadRequest``.
        retry_after_ms: When to try again; a ``google.rpc.RetryInfo``.
    Returns:
        Metadata to abort the call with; empty if there is nothing to add to code and message.
    """
    details: list[Message] = []
    if violations:
        field_violation = error_details_pb2.BadRequest.FieldViolation
        faults = [field_violation(field=v.field, description=v.description) for v in violations]
        details.append(error_details_pb2.BadRequest(field_violations=faults))
    if retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(round(retry_after_ms))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if not details:
        return ()
    status = status_pb2.Status(code=code.value[0], message=message, details=[_packed(d) for d in details])
    return ((DETAILS_KEY, status.SerializeToString()),)


@lru_cache(maxsize=32)
def retry_trailer(code: grpc.StatusCode, message: str, retry_after_ms: float) -> tuple[tuple[str, bytes], ...]:
    """Return the trailer of a call that is to be tried again; of the same few refusals, the same ones.

    Args:
        code: The call's status code.
        message: The call's status message, of which there should be few.
        retry_after_ms: When to try again.
    """
    return details_trailer(code, message, retry_after_ms=retry_after_ms)


def violations_of(error: grpc.RpcError) -> tuple[Violation, ...]:
    """Read the faults that a failed call names; none if its trailers hold none."""
    trailers: Sequence[tuple[str, bytes]] = cast("Any", error).trailing_metadata() or ()
    for key, value in trailers:
        if key == DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return ()
            request = error_details_pb2.BadRequest()
            for detail in status.details:
                if detail.Unpack(request):
                    return tuple(Violation(field=v.field, description=v.description) for v in request.field_violations)
    return ()


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
