"""Where a server listens: addresses tried before anything expensive is done, and the gRPC servers behind them."""

import socket
from collections.abc import Sequence

import grpc

from corpus.errors import ConfigError


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Return host and port of an address; an IPv6 host keeps its brackets.

    Args:
        address: host:port.
        setting: Where it was configured, for the message.
    Raises:
        ConfigError: If it is none.
    """
    host, separator, port_text = address.rpartition(":")
    if not separator or not host or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise ConfigError(f"expected {setting} as host:port, such as 127.0.0.1:50051, got {address!r}")
    return host, int(port_text)


def probe(address: str, setting: str) -> str:
    """Return the host of an address that can be listened on.

    gRPC would say only that it failed. Asking the operating system first tells why.

    Args:
        address: host:port.
        setting: Where it was configured, for the message.
    Raises:
        ConfigError: If it cannot be listened on.
    """
    host, port = split_address(address, setting)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(target)
            trial.listen(1)
    except OSError as exc:
        raise cannot_listen(address, exc.strerror or str(exc), setting) from exc
    return host


def grpc_server(max_request_bytes: int, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    """Make a server that listens nowhere yet.

    Args:
        max_request_bytes: A larger message breaks its call.
        interceptors: The first sees a call first.
    """
    return grpc.aio.server(
        interceptors=list(interceptors),
        options=[
            ("grpc.so_reuseport", 0),  # two servers on one port would each get half of the calls
            ("grpc.max_receive_message_length", max_request_bytes),
        ],
    )


def listen(
    server: grpc.aio.Server, address: str, setting: str, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Let a server listen, by TLS if there are credentials; return the port.

    Raises:
        ConfigError: If the address was taken since it was probed.
    """
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError as exc:
        raise cannot_listen(address, "taken a moment ago", setting) from exc


def cannot_listen(address: str, reason: str, setting: str) -> ConfigError:
    """Say why an address cannot be listened on, and what to do."""
    option = "--address HOST:PORT" if setting == "server.address" else f"--set {setting}=HOST:PORT"
    return ConfigError(
        f"cannot listen on {address}: {reason}; stop what listens there, "
        f"or choose another address: `tandem serve {option}`"
    )
