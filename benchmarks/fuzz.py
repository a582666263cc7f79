"""Does any request break the server? Structure-aware messages to every RPC, and raw bytes at its socket.

The server runs in a process of its own, on a copy of the store, and is reached over real connections.
"""

import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from benchmarks.circumstances import commit, processor
from benchmarks.fuzz_messages import Method, methods, requests
from benchmarks.fuzz_wire import attack, strike
from corpus.errors import TandemError
from corpus.workspace import Workspace
from server.telemetry.health import SEARCH_SERVICE, check_health

logger = logging.getLogger(__name__)

# what a request may be told; late ones are counted, for a machine may be busy
ALLOWED = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
    }
)
TIMEOUT_S = 30.0
HANG_S = 5.0  # beyond the deadline
READY_S = 60.0
POLL_S = 0.1
N_CALLERS = 8
SETTINGS = ("server.log_level=error", "server.retrieval_depth=20", "server.rerank_depth=1")  # models are no part of it
N_KEPT = 20  # requests that broke something
N_LOGGED = 20_000
MIB = 2**20


@dataclass(slots=True, kw_only=True)
class Fuzzed:
    """What became of the requests."""

    codes: dict[str, int] = field(default_factory=dict)  # "Search OK" → calls
    n_calls: int = 0
    broken: list[str] = field(default_factory=list)  # RPC, code, and the request in hexadecimal; the first few
    n_broken: int = 0
    n_hung: int = 0  # ended long after their deadline
    slowest_s: float = 0.0

    def note(self, method: Method, request: bytes, code: str, seconds: float) -> None:
        """Take in one call."""
        told = f"{method.name} {code}"
        self.codes[told] = self.codes.get(told, 0) + 1
        self.n_calls += 1
        if self.n_calls % N_LOGGED == 0:
            logger.info("%d calls, %d of which broke something", self.n_calls, self.n_broken)
        self.slowest_s = max(self.slowest_s, seconds)
        self.n_hung += seconds > TIMEOUT_S + HANG_S
        if code not in ALLOWED:
            self.n_broken += 1
            if len(self.broken) < N_KEPT:
                self.broken.append(f"{method.name} {code} {request[:4096].hex()}")


async def fuzz_calls(address: str, admin_address: str, todo: Iterator[tuple[Method, bytes]]) -> Fuzzed:
    """Send requests, some at once.

    Args:
        address: The server's.
        admin_address: Of its IndexAdminService.
        todo: What to send; ends.
    """
    found = Fuzzed()
    with_any_size = [("grpc.max_send_message_length", -1)]
    async with (
        grpc.aio.insecure_channel(address, options=with_any_size) as channel,
        grpc.aio.insecure_channel(admin_address, options=with_any_size) as admin,
    ):
        stubs: dict[str, Any] = {
            method.path: (admin if method.is_admin else channel).unary_unary(method.path) for method in methods()
        }

        async def work() -> None:
            for method, request in todo:
                began, code = time.monotonic(), "OK"
                try:
                    await stubs[method.path](request, timeout=TIMEOUT_S)
                except grpc.aio.AioRpcError as exc:
                    code = exc.code().name
                found.note(method, request, code, time.monotonic() - began)

        await asyncio.gather(*(work() for _ in range(N_CALLERS)))
    return found


def fuzz_connections(address: str, n: int, seed: int) -> float | None:
    """Make connections that no client makes, and see that the server goes on.

    Some begin and reset calls by the hundred; while the server has not seen the last of those, gRPC turns others away.

    Args:
        address: The server's.
        n: How many.
        seed: Of what they send.
    Returns:
        Seconds afterwards until a call was answered; None: none was.
    Raises:
        TandemError: If the server takes no more connections.
    """
    generator = random.Random(seed)
    paths = [method.path for method in methods() if not method.is_admin]
    for number in range(n):
        try:
            strike(address, attack(generator, generator.choice(paths)), reset=generator.random() < 0.3)
        except OSError as exc:
            raise TandemError(f"expected a server after {number} connections of seed {seed}, got {exc}") from exc
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < READY_S:
        if check_health(address, SEARCH_SERVICE, timeout_s=READY_S) == "SERVING":
            return waited_s
        time.sleep(POLL_S)
    return None


def fuzz(
    store: Annotated[Path, typer.Option(help="A store with a published bundle.")] = Path("demo-store"),
    n_requests: Annotated[int, typer.Option("--requests", help="To all RPCs in turn.")] = 1_000_000,
    n_connections: Annotated[int, typer.Option("--connections", help="With raw bytes.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of everything that is sent.")] = 7,
    results: Annotated[Path, typer.Option(help="Where fuzz.json goes.")] = Path(__file__).parent / "results",
) -> None:
    """Send what nobody should send; write benchmarks/results/fuzz.json, and fail if anything broke."""
    from benchmarks.load_server import copy_of_store, running_server

    began = time.monotonic()
    workspace = Workspace(store)
    with tempfile.TemporaryDirectory(dir=store) as folder:
        copy = copy_of_store(workspace, Path(folder) / "store")
        with running_server(copy, SETTINGS) as server:
            todo = requests(seed)
            asyncio.run(fuzz_calls(server.address, server.admin_address, islice(todo, n_requests // 10)))
            before = server.usage()  # once caches and histories are as they will be
            found = asyncio.run(fuzz_calls(server.address, server.admin_address, islice(todo, n_requests)))
            ready_after_s = fuzz_connections(server.address, n_connections, seed)
            after = server.usage()
        log = (copy.root / "serve.log").read_bytes().splitlines()
    document = {
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}",
        "seed": seed,
        "n_connections": n_connections,
        **asdict(found),
        "ready_after_s": ready_after_s,
        "n_unexpected_errors_logged": sum(b"unexpected error" in line for line in log),
        "n_lines_that_are_no_json": (n_foreign := sum(not _is_json(line) for line in log)),
        "rss_mib": [round(usage.rss_bytes / MIB, 1) for usage in (before, after)],
        "n_files": [before.n_files, after.n_files],
        "n_threads": [before.n_threads, after.n_threads],
        "processor": processor(),
        "tandem": commit(),
        "wall_s": round(time.monotonic() - began, 1),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "fuzz.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps({name: value for name, value in document.items() if name != "broken"}, indent=1))
    if found.n_broken or found.n_hung or n_foreign or ready_after_s is None:
        ready = "was never ready again" if ready_after_s is None else f"was ready after {ready_after_s:.1f} s"
        raise TandemError(
            f"{found.n_broken} requests broke something, {found.n_hung} hung, {n_foreign} lines of the log are no JSON "
            f"and the server {ready}; see {results / 'fuzz.json'}"
        )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
