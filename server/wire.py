"""Requests that are no protobuf messages: refused like any other bad request, instead of breaking the call."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.interceptors import PackageInterceptor


class Malformed:
    """Stands for a request that could not be read."""


class TolerantReading(PackageInterceptor):
    """Hands ``Malformed`` to a method whose request cannot be read: those of the package must know it.

    gRPC itself answers such a request with an internal error, which would send operators looking for a fault of the
    server.
    """

    def wrap(self, handler: Any, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> Any:  # noqa: ANN401
        """Replace the method's reader."""
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
