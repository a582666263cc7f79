"""All that is measured of a server at one size of the catalogue."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.build import Spread
from benchmarks.latency_cases import ratios
from benchmarks.latency_served import (
    PLAIN,
    TANDEM,
    Ask,
    Asks,
    Callers,
    Server,
    against,
    closed_loop,
    free_address,
    joined,
    plain_command,
    serving,
    tandem_command,
    throughput,
)
from corpus.items import ItemTable
from corpus.workspace import Workspace
from indexer.bundle import ITEMS_FILE

if TYPE_CHECKING:
    from benchmarks.latency import Plan

logger = logging.getLogger(__name__)

LOOP_ASKS = 2000  # searches that a closed loop may use up before one comes again


def measure_size(
    workspace: Workspace,
    store: Workspace,
    version: str,
    plan: "Plan",
    queries: Sequence[str],
    *,
    loads: bool,
    seed: int,
) -> dict[str, Any]:
    """Start both servers on one catalogue, and measure.

    Args:
        workspace: Holds the trained models, for the plain stack.
        store: Holds the bundle to serve.
        version: Of the bundle.
        plan: How much.
        queries: Real ones.
        loads: Also vary histories, depths and callers.
        seed: Of histories.
    """
    bundle = store.bundles / version
    asks = Asks(queries, ItemTable.read(bundle / ITEMS_FILE), seed=seed)
    found: dict[str, Any] = {"starts": measure_starts(store, plan, asks)}
    addresses = {TANDEM: free_address(), PLAIN: free_address()}
    logs = {name: store.root / f"{name.split()[0].lower()}.log" for name in addresses}
    with (
        serving(tandem_command(store.root, addresses[TANDEM]), addresses[TANDEM], logs[TANDEM]) as tandem,
        serving(plain_command(workspace.root, bundle, addresses[PLAIN]), addresses[PLAIN], logs[PLAIN]) as plain,
    ):
        servers = {TANDEM: tandem, PLAIN: plain}
        with Callers(servers) as callers:
            found["search"] = [_search(callers, plan, asks, depth) for depth in plan.depths]
            found["stages"] = _stages(callers, plan, asks)
            found["repeat"] = _repeat(callers, plan, asks)
            if loads:
                found["histories"] = _vary(callers, plan, asks, "events", plan.histories)
                found["depths"] = _vary(callers, plan, asks, "candidates", plan.candidates)
        found["plain_rss_mb"] = round(plain.rss_mb, 1)
        if loads:
            found["load"] = _load(servers, plan, asks)
    return found


def measure_starts(store: Workspace, plan: "Plan", asks: Asks) -> dict[str, Any]:
    """Start Tandem several times: seconds until it is ready, and its memory after some searches."""
    ready, memory, torch = [], [], False
    for _ in range(plan.starts):
        address = free_address()
        with serving(tandem_command(store.root, address), address, store.root / "start.log") as server:
            ready.append(server.ready_s)
            with Callers({TANDEM: server}) as callers:
                for ask in asks.draw(plan.searches, n_events=plan.events, depth=None):
                    callers.ask(TANDEM, ask)
            memory.append(server.rss_mb)
            torch = torch or server.has_torch
    logger.info("ready after %s s", [round(each, 2) for each in ready])
    return {"ready_s": asdict(Spread.of(ready)), "rss_mb": asdict(Spread.of(memory)), "torch": torch}


def _search(callers: Callers, plan: "Plan", asks: Asks, depth: int) -> dict[str, Any]:
    """Ask both servers the same searches."""
    rounds = [asks.draw(plan.searches, n_events=plan.events, depth=depth) for _ in range(plan.rounds + 1)]
    found = callers.one_by_one({PLAIN: rounds, TANDEM: rounds}, plan.rounds)
    logger.info("searches of %d candidates: %s", depth, {name: each["p50_ms"] for name, each in found.items()})
    faster = against(found, PLAIN, TANDEM)
    return {"candidates": depth, "events": plan.events, "times_faster": faster, **_plain(found)}


def _stages(callers: Callers, plan: "Plan", asks: Asks) -> dict[str, float]:
    """Return the median milliseconds of each stage, as the server says, and of what is left of the caller's time."""
    taken: dict[str, list[float]] = {}
    for ask in asks.draw(plan.rounds * plan.searches, n_events=plan.events, depth=None):
        began = time.perf_counter()
        stages = callers.ask(TANDEM, ask).stage_timings_ms
        rest = 1e3 * (time.perf_counter() - began) - sum(stages.values())
        for name, value in {**stages, "transport and messages": rest}.items():
            taken.setdefault(name, []).append(value)
    return {name: round(float(np.median(values)), 3) for name, values in taken.items()}


def _vary(callers: Callers, plan: "Plan", asks: Asks, what: str, values: Sequence[int]) -> dict[str, Any]:
    """Vary one thing; Tandem alone, at its own depth or history else."""
    rounds: dict[str, list[list[Ask]]] = {}
    for value in values:
        n_events, depth = (value, None) if what == "events" else (plan.events, value)
        rounds[f"{TANDEM} / {value}"] = [
            asks.draw(plan.searches, n_events=n_events, depth=depth) for _ in range(plan.rounds + 1)
        ]
    found = callers.one_by_one(rounds, plan.rounds)
    names = list(found)
    grown = {
        f"{a.partition(' / ')[2]} to {b.partition(' / ')[2]}": asdict(
            ratios(found[b]["medians_s"], found[a]["medians_s"])
        )
        for a, b in pairwise(names)
    }
    shown = {name.partition(" / ")[2]: each for name, each in _plain(found).items()}
    return {"of": shown, "times_longer": grown}


def _repeat(callers: Callers, plan: "Plan", asks: Asks) -> dict[str, Any]:
    """Ask new searches, and the very same ones again."""
    rounds = [asks.draw(plan.searches, n_events=plan.events, depth=None) for _ in range(plan.rounds + 1)]
    first, again = f"{TANDEM} / first", f"{TANDEM} / again"
    # in every round the first asking comes before the second: their order does not change
    found: dict[str, dict[str, Any]] = {}
    medians: dict[str, list[float]] = {first: [], again: []}
    for number, some in enumerate(rounds):
        for name in (first, again):
            measured = callers.one_by_one({name: [[], some]}, 1)
            if number:
                medians[name] += measured[name]["medians_s"]
    for name, values in medians.items():
        found[name.partition(" / ")[2]] = asdict(Spread.of([1e3 * value for value in values]))
    return {"p50_ms": found, "times_faster": asdict(ratios(medians[first], medians[again]))}


def _load(servers: dict[str, Server], plan: "Plan", asks: Asks) -> dict[str, Any]:
    """Let more and more callers ask without pause, each server as it answers by itself."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(plan.rounds):
        for n_callers in plan.callers:
            for name, server in servers.items():
                some = asks.draw(LOOP_ASKS, n_events=plan.events, depth=None)
                run = closed_loop(server, some, n_callers=n_callers, seconds=plan.loop_s)
                runs.setdefault((name, n_callers), []).append(run)
    levels = {name: [{"callers": n, **joined(runs[name, n])} for n in plan.callers] for name in servers}
    most = {name: throughput(each) for name, each in levels.items()}
    logger.info("throughput: %s", most)
    return {"levels": levels, "throughput": most}


def _plain(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out what only ratios need."""
    return {name: {key: value for key, value in each.items() if key != "medians_s"} for name, each in found.items()}
