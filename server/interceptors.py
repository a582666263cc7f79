"""What all interceptors do: look at the methods of one package, and wrap them."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

Method = Callable[[Any, Any], Awaitable[Any]]


class PackageInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of one package; unknown ones, and those of others such as health, stay as they are."""

    def __init__(self, package: str) -> None:
        """Name the package, such as ``tandem.search.v1``."""
        self._prefix = f"/{package}."

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's handler types are private
        """Wrap the method, if it is of the package."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        metadata = tuple(handler_call_details.invocation_metadata or ())
        return self.wrap(handler, method.removeprefix(self._prefix), metadata)

    @abstractmethod
    def wrap(self, handler: Any, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> Any:  # noqa: ANN401
        """Return a handler in the place of another.

        Args:
            handler: Of a method with one request and one response.
            method: Such as ``SearchService/Search``.
            metadata: As the caller sent it.
        """


def with_method(handler: Any, method: Method) -> Any:  # noqa: ANN401 - grpc's handler types are private
    """Return a handler that reads and writes as another does, around a method of its own."""
    return grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
