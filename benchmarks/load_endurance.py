"""What shows only with time: memory and handles under steady load, and bundles that change under it."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from benchmarks.load_deadlines import Deadlines
from benchmarks.load_generator import Caller, Fate, Load, open_loop
from benchmarks.load_phases import Plan
from benchmarks.load_server import ServerUnderLoad, Usage
from corpus.workspace import Workspace
from indexer.manifest import MANIFEST_FILE, read_manifest
from indexer.publish import current_version
from server.client import TandemAdmin
from server.pb.tandem.search.v1 import search_pb2

logger = logging.getLogger(__name__)

SHARE = 0.7  # of the capacity
WARM_UP = 0.2  # share of a soak whose usage counts for nothing
N_SAMPLES = 120  # of a soak
LEEWAY = 10.0  # times the objective: endurance is about failures, not about times
REST_S = 2.0  # between changes of version: opening one after the other would take a core for itself
UPDATE_S = 60.0  # deadline of a change of version
REASON = "a benchmark goes to and fro"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """Steady load for some minutes."""

    minutes: float
    n_calls: int
    n_failed: int  # neither answered nor refused nor late
    n_refused_or_late: int
    rss_slope_percent_per_min: float  # least squares after the warm-up, relative to its mean
    rss_mib: tuple[float, float]  # at the end of the warm-up, and at the end
    n_files: tuple[int, int]  # likewise
    n_threads: tuple[int, int]  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Swaps:
    """Two versions in turn under load."""

    n_swaps: int
    n_calls: int
    n_failed: int  # neither answered nor refused nor late
    n_refused_or_late: int
    n_of_other_versions: int  # answers that name neither version
    n_mixed_pages: int  # second pages that another version answered than the first
    rss_mib: tuple[float, float]  # with the first version after one swap to and fro, and at the end


async def soak(
    server: ServerUnderLoad,
    requests: Sequence[search_pb2.SearchRequest],
    plan: Plan,
    *,
    capacity: float,
    minutes: float,
) -> Soak:
    """Offer a steady load and look what the server holds.

    Args:
        server: Of this machine.
        requests: Searches, sent in turn.
        plan: How.
        capacity: Answers per second.
        minutes: For how long.
    """
    usages: list[tuple[float, Usage]] = []
    interval_s = 60 * minutes / N_SAMPLES

    async def sample() -> None:
        while True:
            await asyncio.sleep(interval_s)
            usages.append((len(usages) * interval_s / 60, server.usage()))

    load = await _beside(sample(), _steady(server.address, requests, plan, capacity, 60 * minutes))
    settled = usages[int(WARM_UP * len(usages)) :]
    times = np.array([minute for minute, _ in settled])
    rss = np.array([usage.rss_bytes for _, usage in settled], dtype=np.float64)
    slope = float(np.polyfit(times, rss, 1)[0] / rss.mean() * 100)
    first, last = settled[0][1], settled[-1][1]
    return Soak(
        minutes=minutes,
        n_calls=len(load.outcomes),
        n_failed=_count(load, Fate.FAILED),
        n_refused_or_late=_count(load, Fate.REFUSED, Fate.LATE) + load.n_unsent,
        rss_slope_percent_per_min=slope,
        rss_mib=(_mib(first), _mib(last)),
        n_files=(first.n_files, last.n_files),
        n_threads=(first.n_threads, last.n_threads),
    )


async def swap(
    server: ServerUnderLoad,
    workspace: Workspace,
    requests: Sequence[search_pb2.SearchRequest],
    plan: Plan,
    *,
    capacity: float,
    n_swaps: int,
) -> Swaps:
    """Let the server go from one version to another and back under load.

    Args:
        server: Of this machine.
        workspace: The copy of a store that it serves; gets a second version.
        requests: Searches, sent in turn.
        plan: How.
        capacity: Answers per second.
        n_swaps: How often.
    """
    names = add_twin(workspace)
    for version in reversed(names):
        await _activate(server, version)
    before = server.usage()
    ended = asyncio.Event()

    async def to_and_fro() -> None:
        for number in range(n_swaps):
            await _activate(server, names[(number + 1) % 2])
            await asyncio.sleep(REST_S)
        await _activate(server, names[0])
        ended.set()

    changing = asyncio.create_task(to_and_fro())
    loads: list[Load] = []
    n_mixed = 0
    while not ended.is_set() and not (changing.done() and changing.exception()):
        loads.append(await _steady(server.address, requests, plan, capacity, plan.step_s))
        n_mixed += await _mixed_pages(server.address, requests)
    await changing
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    answered = [outcome for outcome in outcomes if outcome.version]
    return Swaps(
        n_swaps=n_swaps,
        n_calls=len(outcomes),
        n_failed=sum(outcome.fate is Fate.FAILED for outcome in outcomes),
        n_refused_or_late=sum(_count(load, Fate.REFUSED, Fate.LATE) + load.n_unsent for load in loads),
        n_of_other_versions=sum(outcome.version not in names for outcome in answered),
        n_mixed_pages=n_mixed,
        rss_mib=(_mib(before), _mib(server.usage())),
    )


def add_twin(workspace: Workspace) -> tuple[str, str]:
    """Add a version that differs from the current one in its name alone; return both names."""
    first = current_version(workspace.bundles)
    assert first is not None  # it is served
    second = f"v{int(first[1:]) + 1}"
    folder = workspace.bundles / second
    shutil.copytree(workspace.bundles / first, folder)
    manifest = read_manifest(folder).model_copy(update={"version": second, "parent": first})
    (folder / MANIFEST_FILE).write_bytes(manifest.render())
    return first, second


def described(result: Soak | Swaps | Deadlines) -> str:
    """Write a result in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in asdict(result).items())


async def _steady(
    address: str, requests: Sequence[search_pb2.SearchRequest], plan: Plan, capacity: float, duration_s: float
) -> Load:
    caller = Caller(address, requests, timeout_s=LEEWAY * plan.slo_ms / 1000)
    try:
        return await open_loop(
            caller,
            rate=SHARE * capacity,
            duration_s=duration_s,
            max_in_flight=plan.max_in_flight,
            generator=np.random.default_rng(plan.seed),
        )
    finally:
        await caller.close()


async def _mixed_pages(address: str, requests: Sequence[search_pb2.SearchRequest]) -> int:
    """Fetch two pages of some searches; return how many second pages another version answered."""
    caller = Caller(address, requests, timeout_s=UPDATE_S)
    n_mixed = 0
    try:
        for number, request in enumerate(requests[:10]):
            first = await caller(number, caller.begin())
            if not first.page_token:
                continue
            further = search_pb2.SearchRequest(page_token=first.page_token)
            further.MergeFrom(request)
            second = await caller.send(number, caller.begin(), further.SerializeToString())
            n_mixed += second.version != first.version
    finally:
        await caller.close()
    return n_mixed


async def _activate(server: ServerUnderLoad, version: str) -> None:
    def activate() -> None:
        with TandemAdmin(server.admin_address) as admin:
            admin.activate_version(version, reason=REASON, timeout_s=UPDATE_S)

    await asyncio.to_thread(activate)


async def _beside(endless: Coroutine[Any, Any, None], work: Awaitable[T]) -> T:
    """Do some work beside other work that ends with it."""
    task = asyncio.create_task(endless)
    try:
        return await work
    finally:
        task.cancel()


def _count(load: Load, *fates: Fate) -> int:
    return sum(outcome.fate in fates for outcome in load.outcomes)


def _mib(usage: Usage) -> float:
    return round(usage.rss_bytes / 2**20, 1)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " → ".join(map(_shown, value))
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
