"""Connections that no client makes: bytes that are no HTTP/2, frames that lie about their length, floods, cuts."""

import random
import socket
import struct
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_HEADERS = 4
TIMEOUT_S = 10.0
READ_S = 0.02  # for what the server says before the connection ends
N_KINDS_OF_FRAME = 12  # two more than there are


def frame(kind: int, payload: bytes, *, stream: int = 0, flags: int = 0, length: int | None = None) -> bytes:
    """Write an HTTP/2 frame.

    Args:
        kind: Type of the frame.
        payload: What it holds.
        stream: Number of the stream.
        flags: Bits.
        length: What it says its length was; None: the truth.
    """
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call_headers(path: str) -> bytes:
    """Write the headers of a gRPC call, as literals that are not indexed."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
    )


def attack(generator: random.Random, path: str) -> bytes:
    """Make what one connection sends.

    Args:
        generator: Of random numbers.
        path: Of an RPC.
    """
    begin = PREFACE + frame(SETTINGS, b"")
    call = frame(HEADERS, call_headers(path), stream=1, flags=END_HEADERS)
    noise = generator.randbytes(generator.randint(1, 2000))
    message = b"\x00" + struct.pack(">I", generator.choice((0, 5, 2**20 + 1, 2**32 - 1)))
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: noise,
        lambda: PREFACE[: generator.randint(0, len(PREFACE))],
        lambda: PREFACE + noise,
        lambda: b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,  # TLS where plain text is spoken
        lambda: begin + b"".join(_any_frame(generator) for _ in range(generator.randint(1, 20))),
        lambda: begin + frame(HEADERS, noise, stream=1, flags=END_HEADERS),  # no HPACK
        lambda: begin + frame(HEADERS, b"\x00\x7f" + b"\xff" * 20, stream=1, flags=END_HEADERS),  # endless length
        lambda: begin + call + frame(DATA, message + noise, stream=1),  # a message that lies about its length
        lambda: begin + call + frame(DATA, message, stream=1)[: generator.randint(1, 14)],  # cut off
        lambda: begin + frame(DATA, b"", stream=1, length=2**24 - 1),
        lambda: begin + frame(PING, bytes(8)) * 500,
        lambda: begin + frame(SETTINGS, b"\x00\x04\xff\xff\xff\xff") * 100,  # a window beyond what is allowed
        lambda: begin + frame(HEADERS, call_headers(path), stream=1) + frame(CONTINUATION, b"", stream=1) * 500,
        lambda: begin + b"".join(_begun_and_reset(path, 2 * number + 1) for number in range(200)),
    )
    return generator.choice(makers)()


def strike(address: str, data: bytes, *, reset: bool) -> None:
    """Make one connection and send something.

    Args:
        address: host:port.
        data: What is sent.
        reset: Whether to end it as a crashed client does.
    Raises:
        OSError: If the server takes no connection.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            connection.sendall(data)
            connection.settimeout(READ_S)
            connection.recv(65_536)
        except OSError:  # the server may hang up, or say nothing: it only has to live
            pass


def _any_frame(generator: random.Random) -> bytes:
    payload = generator.randbytes(generator.randint(0, 200))
    lies = generator.random() < 0.2
    return frame(
        generator.randrange(N_KINDS_OF_FRAME),
        payload,
        stream=generator.choice((0, 1, 2, 3, 2**31 - 1)),
        flags=generator.randrange(256),
        length=generator.randrange(2**24) if lies else None,
    )


def _begun_and_reset(path: str, stream: int) -> bytes:
    begun = frame(HEADERS, call_headers(path), stream=stream, flags=END_HEADERS)
    return begun + frame(RST_STREAM, bytes(4), stream=stream)
