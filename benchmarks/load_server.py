"""The server under load: a process of its own, on a copy of the store, and what the kernel knows of it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corpus.errors import TandemError
from corpus.workspace import Workspace
from indexer.publish import current_version, publish
from server.telemetry.health import SEARCH_SERVICE, check_health

START_S = 120.0  # a large bundle takes its time
STOP_S = 60.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process and its children hold."""

    rss_bytes: int
    n_files: int  # open file handles
    n_threads: int
    cpu_s: float  # user and system time so far


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUnderLoad:
    """Where it listens, and which process it is."""

    address: str
    admin_address: str
    pid: int

    def usage(self) -> Usage:
        """Return what it holds now, worker processes included; pages that they share count for each."""
        pids = _family(self.pid)
        return Usage(
            rss_bytes=sum(int(_read(pid, "statm").split()[1]) for pid in pids) * PAGE_BYTES,
            n_files=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            n_threads=sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
            cpu_s=sum(sum(map(int, _read(pid, "stat").rpartition(")")[2].split()[11:13])) for pid in pids)
            / TICKS_PER_S,
        )


@contextmanager
def running_server(
    workspace: Workspace,
    overrides: Sequence[str],
    *,
    module: Sequence[str] = ("server.cli",),
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerUnderLoad]:
    """Run ``tandem serve`` on free ports until the block ends.

    Args:
        workspace: The store; see ``copy_of_store``.
        overrides: Settings, as ``section.key=value``.
        module: What takes the command's arguments, with arguments of its own.
        environment: Further variables.
    Raises:
        TandemError: If it is not ready in time.
    """
    ports = free_ports(3)
    address, admin, metrics = (f"127.0.0.1:{port}" for port in ports)
    settings = [f"server.admin_address={admin}", f"server.metrics_address={metrics}"]
    # the same searches come again and again, and stand for new ones
    settings += ["server.repeat_ttl_s=0", "server.query_cache_mib=0", "server.score_cache_mib=0", *overrides]
    command = [sys.executable, "-m", *module, "serve", str(workspace.root), "--address", address]
    for setting in settings:
        command += ["--set", setting]
    log = workspace.root / "serve.log"
    with log.open("w", encoding="utf-8") as output:
        variables = {**os.environ, **(environment or {})}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=variables)
    try:
        deadline = time.monotonic() + START_S
        while check_health(address, SEARCH_SERVICE, timeout_s=1.0) != "SERVING":
            if process.poll() is not None or time.monotonic() > deadline:
                raise TandemError(f"expected a server within {START_S:g} s, got none; its log ends:\n{_end_of(log)}")
            time.sleep(0.1)
        yield ServerUnderLoad(address=address, admin_address=admin, pid=process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def copy_of_store(workspace: Workspace, folder: Path) -> Workspace:
    """Copy what is served, so that a benchmark's histories and publications leave the store as it is.

    Args:
        workspace: The store.
        folder: Where the copy is to be; hard links where the file system has them.
    Raises:
        TandemError: If no bundle was published.
    """
    version = current_version(workspace.bundles)
    if version is None:
        raise TandemError(f"expected a published bundle in {workspace.bundles}, found none; run `tandem publish` first")
    copy = Workspace(folder)
    shutil.copytree(workspace.bundles / version, copy.bundles / version, copy_function=_link)
    if workspace.config_path.exists():
        shutil.copy(workspace.config_path, copy.config_path)
    publish(copy.bundles, version, reason="a benchmark serves it")
    return copy


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def free_ports(n: int) -> list[int]:
    """Return ports of this machine on which nobody listens now."""
    probes = [socket.socket() for _ in range(n)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in os.listdir(f"/proc/{parent}/task"):
            found += map(int, _read(parent, f"task/{task}/children").split())
    return found


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(encoding="ascii")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-10:])
