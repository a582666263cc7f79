"""How does the server behave under load? From a tenth of what it can do to ten times as much.

A server of its own is started on a copy of what the store serves; or one that runs already is taken. Searches are those
of the test split, with what their shoppers had done before. docs/operating.md explains the figures.
"""

import asyncio
import json
import logging
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.circumstances import Circumstances
from corpus.errors import ConfigError
from corpus.workspace import Workspace

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
SHARES = (0.1, 0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
QUICK_SHARES = (0.1, 0.5, 1.0, 2.0, 10.0)
N_SEARCHES = 1000


def load(
    store: Annotated[
        Path, typer.Option(help="A store with a published bundle; that of `tandem demo` is made if it is not there.")
    ] = Path("demo-store"),
    target: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A server that runs already; it serves this store's items.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few and short steps, less than two minutes.")] = False,
    slo_ms: Annotated[float, typer.Option(help="Within which an answer counts, and every call's deadline.")] = 300.0,
    step_s: Annotated[float | None, typer.Option(help="Seconds for which each load is offered: 20, or 4.")] = None,
    callers: Annotated[int, typer.Option(help="In the closed loop that finds the capacity.")] = 8,
    soak: Annotated[float, typer.Option(metavar="MINUTES", help="Also offer 70 % of the capacity for so long.")] = 0.0,
    swaps: Annotated[int, typer.Option(help="Also change the version so often under 70 % of the capacity.")] = 0,
    deadlines: Annotated[int, typer.Option(help="Also send so many calls with budgets of 1 to 500 ms.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the moments of arrival.")] = 7,
    results: Annotated[Path, typer.Option(help="Where load.json, load.md and load.png go.")] = RESULTS,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of the server.")
    ] = None,
) -> None:
    """Offer 10 % to 1000 % of the capacity; write benchmarks/results/load.json, .md and .png."""
    from benchmarks.load_deadlines import measure_deadlines
    from benchmarks.load_endurance import described
    from benchmarks.load_endurance import soak as soak_server
    from benchmarks.load_endurance import swap as swap_versions
    from benchmarks.load_phases import Plan, measure, searches
    from benchmarks.load_report import plot_load
    from benchmarks.load_server import copy_of_store, running_server
    from corpus.prepared import Prepared

    if target is not None and (soak or swaps):
        raise ConfigError(
            "expected --soak and --swaps without --target, whose processes nobody here can see; leave it out"
        )
    circumstances = Circumstances()
    workspace = _store(store)
    requests = searches(Prepared(workspace.data), limit=N_SEARCHES)
    plan = Plan(
        shares=QUICK_SHARES if quick else SHARES,
        step_s=step_s if step_s is not None else 4.0 if quick else 20.0,
        loop_s=3.0 if quick else 10.0,
        n_callers=callers,
        slo_ms=slo_ms,
        max_in_flight=10_000,
        seed=seed,
    )
    with ExitStack() as stack:
        server = None
        if target is None:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(dir=workspace.root))
            )  # hard links reach there
            copy = copy_of_store(workspace, folder / "store")
            server = stack.enter_context(running_server(copy, overrides or ()))
        cpu_s = None if server is None else lambda: server.usage().cpu_s
        report = asyncio.run(measure(target or server.address, requests, plan, cpu_s))  # type: ignore[union-attr]
        if deadlines:
            hurried = asyncio.run(
                measure_deadlines(
                    target or server.address,  # type: ignore[union-attr]
                    requests,
                    n_calls=deadlines,
                    n_callers=callers,
                    seed=seed,
                )
            )
            report.extras["deadlines"] = described(hurried)
        if server is not None and soak:
            soaked = asyncio.run(soak_server(server, requests, plan, capacity=report.capacity, minutes=soak))
            report.extras["soak"] = described(soaked)
        if server is not None and swaps:
            swapped = asyncio.run(swap_versions(server, copy, requests, plan, capacity=report.capacity, n_swaps=swaps))
            report.extras["swaps"] = described(swapped)
    document = {
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}",
        "overrides": overrides or [],
        "plan": asdict(plan),
        **circumstances.document(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "report": asdict(report),
    }
    title = "Answers and their times by offered load" + (" (quick: short steps)" if quick else "")
    stem = results / ("load-quick" if quick else "load")
    results.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(f"# {title}\n\n{report.markdown()}\n", encoding="utf-8")
    plot_load(report, title, stem.with_suffix(".png"))
    typer.echo(report.markdown())
    typer.echo(f"written: {stem}.json, .md and .png")


def _store(folder: Path) -> Workspace:
    """Return a store; that of the demonstration is made where there is none."""
    from indexer.publish import current_version
    from server.cli.demo import DEMO_SEED, make_demo_store

    workspace = Workspace(folder)
    if not workspace.bundles.exists() or current_version(workspace.bundles) is None:
        from rich.console import Console

        make_demo_store(Console(stderr=True), workspace, DEMO_SEED)
    return workspace
