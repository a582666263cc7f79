"""Layers before the methods of a service: every call passes the same ones in the same order. They are laid only once.

The order is part of what is promised. First what a stranger costs, then what a caller costs: somebody without a valid
key learns nothing else, not even that the house is full; who calls too often learns that before anything of the house;
whom there is no room for is refused before a byte of his message is read.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc

from server.api.wire import reading
from server.pb.tandem.search.v1 import search_pb2

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]  # of a message, or of its bytes


class Layer(Protocol):
    """Something that stands before the methods of a service."""

    def wrap(self, method: Method, rpc: str) -> Method:
        """Return a method of bytes in the place of another.

        Args:
            method: Takes the bytes of a message.
            rpc: Such as ``SearchService.Search``.
        """
        ...


def add_service(server: grpc.aio.Server, service: object, layers: Sequence[Layer]) -> None:
    """Let a server answer by the methods of a service, behind some layers.

    gRPC's own interceptors would make handlers anew for every call, and health and reflection pass through them too.

    Args:
        server: Not started yet.
        service: Named as in the contract, all of whose methods it has.
        layers: The first sees a call first.
    """
    contract = search_pb2.DESCRIPTOR.services_by_name[type(service).__name__]
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in contract.methods:
        read = getattr(search_pb2, method.input_type.name).FromString
        write = getattr(search_pb2, method.output_type.name).SerializeToString
        answer = reading(getattr(service, method.name), read)
        for layer in reversed(layers):
            answer = layer.wrap(answer, f"{contract.name}.{method.name}")
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(answer, response_serializer=write)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(contract.full_name, handlers),))
