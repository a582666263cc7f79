"""A real Redis server on a free port of this machine, empty, which can be made to fail."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.load_server import free_ports
from corpus.errors import TandemError

START_S = 30.0


class RedisServer:
    """One server process, of which nothing is kept."""

    def __init__(self, folder: Path) -> None:
        """Start it.

        Args:
            folder: Where it runs.
        Raises:
            TandemError: If it does not answer in time.
        """
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.process = self._start()

    def fail(self, number: signal.Signals) -> None:
        """Stop the process, or end it."""
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def mend(self) -> None:
        """Let the process go on, or start another on the same port."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        else:
            self.process = self._start()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(5) == b"+PONG":
                    return process
            time.sleep(0.02)
        process.kill()
        process.wait()
        raise TandemError(f"expected redis-server at port {self.port} within {START_S:g} s, got none")


def is_installed() -> bool:
    """Tell whether this machine has redis-server (Debian's package is called so)."""
    return shutil.which("redis-server") is not None


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    """Run a server until the block ends.

    Args:
        folder: Where it runs.
    Raises:
        TandemError: If it does not answer in time.
    """
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.close()
