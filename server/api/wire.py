"""Requests that are no protobuf messages: refused like any other bad request, instead of breaking the call."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError


class Malformed:
    """Stands for a request that could not be read."""


def reading(
    method: Callable[[Any, Any], Awaitable[Any]], read: Callable[[bytes], Any]
) -> Callable[[bytes, Any], Awaitable[Any]]:
    """Return a method of bytes that hands another the message, or ``Malformed``, which that must know.

    gRPC itself answers a request that cannot be read with an internal error, which would send operators looking for a
    fault of the server.

    Args:
        method: Takes a message.
        read: Makes it of bytes.
    """

    async def read_and_answer(data: bytes, context: Any) -> Any:  # noqa: ANN401 - a type private to grpc, any message
        try:
            request = read(data)
        except (DecodeError, ValueError):
            request = Malformed()
        return await method(request, context)

    return read_and_answer
