"""Whole searches through real sockets: servers as processes of their own, one or many callers, starts and memory."""

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.build import Spread
from benchmarks.latency_cases import by_turns, milliseconds, ratios
from corpus.errors import ConfigError, TandemError
from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable
from server.client import SearchResponse, TandemClient

logger = logging.getLogger(__name__)

PLAIN, TANDEM = "plain stack", "Tandem"
HOST = "127.0.0.1"
PATIENCE_S = 600.0  # of a call, so that no answer is cut short by a deadline, and of a start
LOOK_S = 0.01  # between looks whether a server is ready
GOOD_MS = 250.0  # throughput counts while 99 of 100 answers come within


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One search."""

    query: str
    events: tuple[HistoryEvent, ...]
    depth: int | None  # candidates to rerank; None: as the server does by itself


class Asks:
    """Searches that have not been asked before: no cache knows the answer."""

    def __init__(self, queries: Sequence[str], items: ItemTable, *, seed: int) -> None:
        """Take what searches are made of.

        Args:
            queries: Real ones.
            items: The catalogue that histories are drawn from.
            seed: Of the histories.
        """
        self._queries = itertools.cycle(queries)
        self._titles = items.column("title")
        self._ids = items.ids
        self._rng = np.random.default_rng(seed)
        self._start = datetime(2026, 1, 1, tzinfo=UTC)

    def draw(self, n: int, *, n_events: int, depth: int | None) -> list[Ask]:
        """Return n searches with so many events each; without any, the query is the beginning of a title."""
        asks = []
        for _ in range(n):
            query = next(self._queries)
            if not n_events:
                title = self._titles[int(self._rng.integers(len(self._titles)))]
                query = " ".join(title.split()[:4])
            asks.append(Ask(query=query, events=self._events(n_events), depth=depth))
        return asks

    def _events(self, n: int) -> tuple[HistoryEvent, ...]:
        rows = self._rng.integers(0, len(self._ids), n).tolist()
        kinds = (EventType.CLICK, EventType.PURCHASE)
        return tuple(
            HistoryEvent(
                timestamp=self._start - timedelta(hours=place), type=kinds[row % 2], item_id=self._ids[row], query=None
            )
            for place, row in enumerate(rows)
        )


class Server:
    """A server process that answers."""

    def __init__(self, command: Sequence[str], address: str, log: Path) -> None:
        """Start it and wait until it wants searches.

        Args:
            command: What to run.
            address: Where it is told to listen.
            log: Gets what it says.
        Raises:
            ConfigError: If it ends, or is not ready in time.
        """
        self.address = address
        began = time.perf_counter()
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, cwd=Path(__file__).parents[1])
        try:
            self._wait(began, log)
        except BaseException:
            self.stop()
            raise
        self.ready_s = time.perf_counter() - began

    def _wait(self, began: float, log: Path) -> None:
        from server.telemetry.health import SEARCH_SERVICE, check_health

        while True:
            if self._process.poll() is not None:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ConfigError(f"expected a server on {self.address}, but it ended: {tail}")
            if check_health(self.address, SEARCH_SERVICE, timeout_s=1.0) == "SERVING":
                return
            if time.perf_counter() - began > PATIENCE_S:
                raise ConfigError(f"expected a server on {self.address} within {PATIENCE_S:g} s, got none; see {log}")
            time.sleep(LOOK_S)

    @property
    def rss_mb(self) -> float:
        """Resident memory of the process and its children, megabytes; pages that they share count for each."""
        return sum(_rss_bytes(pid) for pid in _family(self._process.pid)) / 1e6

    @property
    def has_torch(self) -> bool:
        """Whether the process has torch's library in memory."""
        return "libtorch" in Path(f"/proc/{self._process.pid}/maps").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def tandem_command(store: Path, address: str) -> list[str]:
    """Return how to serve a store; the history is kept in the store's folder."""
    settings = (f'server.address="{address}"', f'server.admin_address="{HOST}:0"', 'server.metrics_address=""')
    flags = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "server.cli", "serve", str(store), *flags]


def plain_command(models: Path, bundle: Path, address: str) -> list[str]:
    """Return how to serve the plain stack."""
    module = "benchmarks.peers.plain_server"
    return [sys.executable, "-m", module, str(models), "--bundle", str(bundle), "--address", address]


@contextmanager
def serving(command: Sequence[str], address: str, log: Path) -> Iterator[Server]:
    """Run a server for a while."""
    server = Server(command, address, log)
    try:
        yield server
    finally:
        server.stop()


def free_address() -> str:
    """Return an address on this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return f"{HOST}:{probe.getsockname()[1]}"


class Callers:
    """One connection to each server."""

    def __init__(self, servers: dict[str, Server]) -> None:
        """Connect."""
        self._clients = {name: TandemClient(server.address, timeout_s=PATIENCE_S) for name, server in servers.items()}

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()

    def ask(self, name: str, ask: Ask) -> SearchResponse:
        """Search once."""
        return _call(self._clients[name], ask)

    def one_by_one(self, asks: dict[str, list[list[Ask]]], rounds: int) -> dict[str, dict[str, Any]]:
        """Ask servers by turns, a round's searches each, and time every single one.

        Args:
            asks: The searches of each round, and of one before that does not count, by "server" or "server / anything".
            rounds: How many.
        Returns:
            By name: ``p50_ms`` and its quartiles over rounds, ``p99_ms`` over all searches, and the rounds' medians in
            seconds.
        """
        taken: dict[str, list[list[float]]] = {name: [] for name in asks}

        def action(name: str) -> Any:  # noqa: ANN401 - a closure
            server = name.partition(" / ")[0]
            numbers = itertools.count()

            def run(_: int) -> None:
                seconds = []
                for ask in asks[name][next(numbers)]:
                    began = time.perf_counter()
                    self.ask(server, ask)
                    seconds.append(time.perf_counter() - began)
                taken[name].append(seconds)

            return run

        by_turns({name: action(name) for name in asks}, rounds)
        return {name: _summary(each[1:]) for name, each in taken.items()}


def against(found: dict[str, dict[str, Any]], slow: str, fast: str) -> dict[str, Any]:
    """Return how many times as fast one name of ``one_by_one`` is as another: p50 by rounds, and p99."""
    p50 = ratios(found[slow]["medians_s"], found[fast]["medians_s"])
    return {"p50": asdict(p50), "p99": round(found[slow]["p99_ms"] / found[fast]["p99_ms"], 3)}


def closed_loop(server: Server, asks: Sequence[Ask], *, n_callers: int, seconds: float) -> dict[str, Any]:
    """Let callers ask one search after the other for a while.

    Returns:
        ``qps`` of answers that came in that time or a little later, ``p50_ms``, ``p99_ms`` and ``refused``.
    """
    place = itertools.count()
    taken: list[float] = []
    refused = itertools.count()
    end = time.perf_counter() + seconds

    def caller() -> None:
        with TandemClient(server.address, timeout_s=PATIENCE_S) as client:
            while time.perf_counter() < end:
                began = time.perf_counter()
                try:
                    _call(client, asks[next(place) % len(asks)])
                except TandemError:
                    next(refused)
                    continue
                taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    threads = [threading.Thread(target=caller) for _ in range(n_callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    return {
        "qps": len(taken) / wall,
        "p50_ms": 1e3 * float(np.percentile(taken, 50)) if taken else None,
        "p99_ms": 1e3 * float(np.percentile(taken, 99)) if taken else None,
        "refused": next(refused),
    }


def joined(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the runs of one load: quartiles of each figure, and all refusals."""
    figures = {
        name: asdict(Spread.of([run[name] for run in runs if run[name] is not None] or [float("nan")]))
        for name in ("qps", "p50_ms", "p99_ms")
    }
    return {**figures, "refused": sum(run["refused"] for run in runs)}


def throughput(levels: Sequence[dict[str, Any]]) -> float | None:
    """Return the most answers per second of those levels at which p99 stays good; None: of none."""
    return max((level["qps"]["median"] for level in levels if level["p99_ms"]["median"] <= GOOD_MS), default=None)


def _summary(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    medians = [float(np.median(each)) for each in rounds]
    every = [each for some in rounds for each in some]
    return {
        "p50_ms": asdict(milliseconds(medians)),
        "p99_ms": round(1e3 * float(np.percentile(every, 99)), 3),
        "n": len(every),
        "medians_s": medians,
    }


def _call(client: TandemClient, ask: Ask) -> SearchResponse:
    return client.search(ask.query, events=ask.events, rerank_depth=ask.depth)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="utf-8").split():
            yield from _family(int(child))


def _rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
