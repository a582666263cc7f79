"""Requests that are no protobuf messages: refused like any other bad request, instead of breaking the call."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class Malformed:
    """Stands for a request that could not be read."""


class TolerantReading(grpc.aio.ServerInterceptor):
    """Hands ``Malformed`` to a method whose request cannot be read.

    gRPC itself answers such a request with an internal error, which would send operators looking for a fault of the
    server.
    """

    def __init__(self, package: str) -> None:
        """Guard the methods of one package: they must know ``Malformed``."""
        self._prefix = f"/{package}."

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's handler types are private
        """Replace the method's reader."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            handler.unary_unary,
            request_deserializer=_tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def _tolerant(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_mark(data: bytes) -> Any:  # noqa: ANN401 - any generated message
        try:
            return read(data)
        except (DecodeError, ValueError):
            return Malformed()

    return read_or_mark
