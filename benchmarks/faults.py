"""What does a part that fails cost those who search? Each fault beside the same load without it.

A server of its own, on a copy of the store, is offered a steady load, then the same with the fault, then the same
again. The cross-encoder breaks inside the server (``benchmarks/faulty_server.py``); Redis is a real one, which is
stopped or killed.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.circumstances import Circumstances
from benchmarks.faulty_server import FAULTS
from benchmarks.load_generator import Caller, Fate, Outcome, closed_loop, open_loop
from benchmarks.load_phases import searches
from benchmarks.load_server import copy_of_store, running_server
from benchmarks.redis_server import is_installed, running_redis
from corpus.errors import ConfigError, TandemError
from corpus.prepared import Prepared
from corpus.workspace import Workspace
from server.histories.pseudonyms import KEY_VARIABLE
from server.pb.tandem.search.v1 import search_pb2

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
REDIS_FAULTS = {"redis stopped": signal.SIGSTOP, "redis killed": signal.SIGKILL}
N_SEARCHES = 1000
MOST_IN_FLIGHT = 1000
N_CALLERS = 2  # that find the pace: both cores
WARM_UP_S = 5.0
UNHURRIED_S = 30.0
SETTLING_S = 2.0  # after the fault begins: until then the server finds out
HISTORY_KEY = "0123456789abcdef" * 4  # of histories that nobody keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What became of a load. Milliseconds, from when a call was to be sent; of all calls."""

    n_calls: int
    n_complete: int
    n_degraded: int
    n_refused: int
    n_late: int
    n_failed: int
    p50_ms: float
    p99_ms: float
    longest_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault beside the same load without it."""

    name: str
    before: Phase
    first: Phase  # the first seconds of the fault
    during: Phase  # and what follows
    after: Phase

    @property
    def p99_ratio(self) -> float:
        """How many times as long as without the fault the slowest hundredth takes."""
        return self.during.p99_ms / self.before.p99_ms


def phase_of(outcomes: Sequence[Outcome]) -> Phase:
    """Tell what became of some calls.

    Raises:
        TandemError: If there are none.
    """
    if not outcomes:
        raise TandemError("expected calls in every phase, got one without; offer more with --share, or for longer")
    times = np.array([outcome.latency_s * 1000 for outcome in outcomes])
    fates = Counter(outcome.fate for outcome in outcomes)
    return Phase(
        n_calls=len(outcomes),
        n_complete=fates[Fate.COMPLETE],
        n_degraded=fates[Fate.DEGRADED],
        n_refused=fates[Fate.REFUSED],
        n_late=fates[Fate.LATE],
        n_failed=fates[Fate.FAILED],
        p50_ms=float(np.percentile(times, 50)),
        p99_ms=float(np.percentile(times, 99)),
        longest_ms=float(times.max()),
    )


def faults(
    store: Annotated[Path, typer.Option(help="A store with a published bundle.")] = Path("demo-store"),
    phase_s: Annotated[float, typer.Option(help="Seconds without, with and again without each fault.")] = 60.0,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Load, of what two callers get answered.")] = 0.4,
    timeout_ms: Annotated[float, typer.Option(help="Every call's deadline.")] = 1000.0,
    seed: Annotated[int, typer.Option(help="Of the moments of arrival.")] = 7,
    results: Annotated[Path, typer.Option(help="Where faults.json and faults.md go.")] = RESULTS,
) -> None:
    """Break one part after another under load; write benchmarks/results/faults.json and .md."""
    if phase_s <= SETTLING_S:
        raise ConfigError(f"expected --phase-s above {SETTLING_S:g}, of which the first are a row of their own")
    circumstances = Circumstances()
    workspace = Workspace(store)
    requests = searches(Prepared(workspace.data), limit=N_SEARCHES)
    plan = _Plan(phase_s=phase_s, share=share, timeout_s=timeout_ms / 1000, seed=seed)
    found = [_measure(name, workspace, requests, plan) for name in [*FAULTS, *_possible_redis_faults()]]
    document = {
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}",
        "plan": asdict(plan),
        **circumstances.document(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "faults": [{**asdict(fault), "p99_ratio": fault.p99_ratio} for fault in found],
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "faults.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    page = markdown(found, plan.timeout_s)
    (results / "faults.md").write_text(f"# Searches while a part fails\n\n{page}\n", encoding="utf-8")
    typer.echo(page)
    typer.echo(f"written: {results / 'faults'}.json and .md")


def markdown(found: Sequence[Fault], timeout_s: float) -> str:
    """Write a table: one row per fault and phase."""
    head = (
        "fault",
        "phase",
        "calls",
        "complete",
        "flagged",
        "refused",
        "late",
        "failed",
        "p50",
        "p99",
        "longest",
        "p99 ×",
    )
    lines = [
        f"Milliseconds from when a call was to be sent, deadline {1000 * timeout_s:g} ms; the first {SETTLING_S:g} s "
        "of a fault are a row of their own. p99 × is the ratio to the same load without the fault.",
        "",
        "| " + " | ".join(head) + " |",
        "|---|---|" + "---:|" * (len(head) - 2),
    ]
    for fault in found:
        phases = {"before": fault.before, "first": fault.first, "during": fault.during, "after": fault.after}
        for name, phase in phases.items():
            counts = (phase.n_calls, phase.n_complete, phase.n_degraded, phase.n_refused, phase.n_late, phase.n_failed)
            times = (phase.p50_ms, phase.p99_ms, phase.longest_ms)
            ratio = f"{fault.p99_ratio:.2f}" if phase is fault.during else ""
            cells = [fault.name, name, *(f"{n:,}" for n in counts), *(f"{ms:.0f}" for ms in times), ratio]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    phase_s: float
    share: float
    timeout_s: float
    seed: int


def _measure(name: str, workspace: Workspace, requests: Sequence[search_pb2.SearchRequest], plan: _Plan) -> Fault:
    """Run a server of its own for one fault."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=workspace.root)))  # hard links reach there
        copy = copy_of_store(workspace, folder / "store")
        if name in REDIS_FAULTS:
            redis = stack.enter_context(running_redis(folder))
            requests = [_of_a_shopper(request, number) for number, request in enumerate(requests)]
            settings, key = [f"server.history_url={redis.url}"], {KEY_VARIABLE: HISTORY_KEY}
            server = stack.enter_context(running_server(copy, settings, environment=key))
            begin, end = partial(redis.fail, REDIS_FAULTS[name]), redis.mend
        else:
            server = stack.enter_context(running_server(copy, (), module=("benchmarks.faulty_server", name)))
            begin = end = partial(os.kill, server.pid, signal.SIGUSR2)
        return asyncio.run(_beside(name, server.address, requests, plan, begin, end))


async def _beside(
    name: str,
    address: str,
    requests: Sequence[search_pb2.SearchRequest],
    plan: _Plan,
    begin: Callable[[], None],
    end: Callable[[], None],
) -> Fault:
    unhurried = Caller(address, requests, timeout_s=UNHURRIED_S)
    await closed_loop(unhurried, n_callers=N_CALLERS, duration_s=WARM_UP_S)
    pace = await closed_loop(unhurried, n_callers=N_CALLERS, duration_s=WARM_UP_S)
    await unhurried.close()
    rate = plan.share * len(pace.outcomes) / pace.duration_s
    logger.info("%s: offering %.1f searches/s", name, rate)
    caller = Caller(address, requests, timeout_s=plan.timeout_s)

    async def offer() -> Sequence[Outcome]:
        generator = np.random.default_rng(plan.seed)  # the same moments, and so the same searches
        load = await open_loop(
            caller, rate=rate, duration_s=plan.phase_s, max_in_flight=MOST_IN_FLIGHT, generator=generator
        )
        if load.n_unsent:
            raise TandemError(
                f"expected every call to be sent, got {load.n_unsent} that found {MOST_IN_FLIGHT} waiting"
            )
        return load.outcomes

    try:
        await closed_loop(caller, n_callers=1, duration_s=WARM_UP_S / 5)  # connects
        before = await offer()
        begin()
        during = await offer()
        end()
        after = await offer()
    finally:
        await caller.close()
    return Fault(
        name=name,
        before=phase_of(before),
        first=phase_of([outcome for outcome in during if outcome.due_s < SETTLING_S]),
        during=phase_of([outcome for outcome in during if outcome.due_s >= SETTLING_S]),
        after=phase_of(after),
    )


def _of_a_shopper(request: search_pb2.SearchRequest, number: int) -> search_pb2.SearchRequest:
    """Return the same search by somebody whose history the server looks up."""
    return search_pb2.SearchRequest(query=request.query, user_id=f"shopper-{number}")


def _possible_redis_faults() -> Sequence[str]:
    if is_installed():
        return list(REDIS_FAULTS)
    logger.warning("without the faults of Redis: redis-server is not installed")
    return []
