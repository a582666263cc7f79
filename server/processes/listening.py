"""Where a server listens: addresses tried before anything expensive is done, and the gRPC servers behind them."""

import socket

import grpc

from corpus.errors import ConfigError
from server.config import ServerConfig


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


def probe_all(config: ServerConfig) -> None:
    """Try every address of a configuration.

    Raises:
        ConfigError: If one cannot be listened on.
    """
    probe(config.address, "server.address")
    probe(config.admin_address, "server.admin_address")
    if config.metrics_address:
        probe(config.metrics_address, "server.metrics_address")


def reserve(address: str, setting: str) -> tuple[socket.socket, str]:
    """Keep a port for serving processes to share; it was probed before.

    What is bound and does not listen gets no connections, and keeps the port while no process listens.

    Args:
        address: host:port; port 0 picks a free one.
        setting: Where it was configured, for the message.
    Returns:
        The socket, to be closed at the end, and the address with its port.
    Raises:
        ConfigError: If it was taken since it was probed.
    """
    host, port = split_address(address, setting)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        kept = socket.socket(family, kind, protocol)
        try:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.bind(target)
        except BaseException:
            kept.close()
            raise
    except OSError as exc:
        raise cannot_listen(address, exc.strerror or str(exc), setting) from exc
    return kept, f"{host}:{kept.getsockname()[1]}"


def grpc_server(max_request_bytes: int, *, shares_port: bool = False) -> grpc.aio.Server:
    """Make a server that listens nowhere yet.

    Args:
        max_request_bytes: A larger message breaks its call.
        shares_port: Whether other processes may listen where it does, each for its share of the connections.
    """
    return grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(shares_port)),  # two servers on one port by mistake would each get half the calls
            ("grpc.max_receive_message_length", max_request_bytes),
        ],
    )


def listen(
    server: grpc.aio.Server, address: str, setting: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Let a server listen, by TLS if there are credentials; return the address with the port that it got.

    Raises:
        ConfigError: If the address was taken since it was probed.
    """
    try:
        if credentials is not None:
            port = server.add_secure_port(address, credentials)
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as exc:
        raise cannot_listen(address, "taken a moment ago", setting) from exc
    return f"{split_address(address, setting)[0]}:{port}"


def cannot_listen(address: str, reason: str, setting: str) -> ConfigError:
    """Say why an address cannot be listened on, and what to do."""
    option = "--address HOST:PORT" if setting == "server.address" else f"--set {setting}=HOST:PORT"
    return ConfigError(
        f"cannot listen on {address}: {reason}; stop what listens there, "
        f"or choose another address: `tandem serve {option}`"
    )
