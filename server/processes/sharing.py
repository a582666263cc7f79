"""One of several serving processes: its place among them, and what it and its supervisor tell each other."""

import os
import socket
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from corpus.errors import ConfigError
from server.config import ServerConfig

CORES_PER_PROCESS = 2  # where the number of processes follows the cores
ADMIN_PROCESS = 1  # takes live updates and changes versions; the others follow what it writes


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A serving process's place among its siblings."""

    number: int  # from 1; one that is started again keeps it
    n_processes: int
    folder: Path  # of private sockets and files, which the server's owner alone may enter

    @property
    def takes_updates(self) -> bool:
        """Whether ``IndexAdminService`` is this process's."""
        return self.number == ADMIN_PROCESS

    @property
    def callers_file(self) -> Path:
        """Where the processes count each caller's calls."""
        return self.folder / "callers"

    def socket_of(self, number: int) -> str:
        """Return where a process answers its siblings, as gRPC names it."""
        return f"unix:{self.folder / str(number)}"


class Command(Enum):
    """What a supervisor tells a process. To stop, SIGTERM does, which also reaches one that is still opening."""

    LISTEN = auto()
    RELOAD = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The bundle is verified and warm; the process waits to be told to listen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The process answers calls."""

    version: str
    metrics_address: str  # where its own metrics are read; empty: nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The process's event loop turns."""

    is_wedged: bool  # its models are stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The process cannot serve, and ends."""

    message: str
    is_config: bool  # it is the configuration's fault


Report = Opened | Serving | Beat | Failed


def n_processes_of(config: ServerConfig) -> int:
    """Return how many processes a configuration asks for.

    Raises:
        ConfigError: If there are several, and ports cannot be shared here.
    """
    n_processes = config.processes or max(1, n_cores() // CORES_PER_PROCESS)
    if n_processes > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError(
            f"expected server.processes = 1 on a system that lets no processes share a port, got {n_processes}; "
            "use Linux, or start a server for each of several ports"
        )
    return n_processes


def n_threads_of(config: ServerConfig, n_processes: int) -> int:
    """Return how many threads the models of each process have."""
    return config.n_threads or max(1, n_cores() // n_processes)


def n_cores() -> int:
    """Return how many cores this process may use; a container's quota of processor time does not show in it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
