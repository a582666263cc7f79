"""How good are the answers? From a data set's files to a table of systems, each beside its floors.

Every stage is the product's own: import, prepare, train both models, build, publish, evaluate on the test split. The
do-it-yourself stack (``benchmarks/peers``) is trained on the same data and measured in the same report. Finished
stages are kept in the store's folder, so that a second call only evaluates.
"""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.circumstances import Circumstances
from benchmarks.datasets import DATA_SETS, QUICK, QUICK_SIZES, DataSet
from benchmarks.plots import plot_quality
from benchmarks.thinning import thin
from corpus.config import load_config
from corpus.errors import ConfigError, TooLittleData
from corpus.workspace import Workspace, find_version, versions
from server.cli import bundles, data
from server.cli.models import train_first_stage, train_second_stage, train_trees
from server.config import TandemConfig

logger = logging.getLogger(__name__)

QUICK_SEED = 0
RESULTS = Path(__file__).parent / "results"


def quality(
    name: Annotated[str, typer.Argument(metavar="DATA", help=f"One of: {', '.join(DATA_SETS)}, all.")],
    shared: Annotated[Path, typer.Option(help="The folder that holds the data sets.")] = Path("../shared/data"),
    stores: Annotated[Path, typer.Option(help="Where the stores are kept.")] = Path("stores"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few steps on a cut-down store: does it run, not how good is it.")
    ] = False,
    peer: Annotated[
        bool, typer.Option(help="Train and measure the do-it-yourself stack as well, which doubles the time.")
    ] = True,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")
    ] = None,
) -> None:
    """Train and measure Tandem on real data; write benchmarks/results/quality-<DATA>.json, .md and .png."""
    chosen = list(DATA_SETS) if name == "all" else [name]
    for each in chosen:
        if each not in DATA_SETS:
            raise ConfigError(f"expected one of {', '.join(DATA_SETS)} or all, got {each!r}")
        store = stores / (f"{each}-quick" if quick else each)
        measure(each, DATA_SETS[each], shared, store, quick=quick, peer=peer, overrides=overrides or [])


def measure(
    name: str, dataset: DataSet, shared: Path, store: Path, *, quick: bool, peer: bool, overrides: list[str]
) -> None:
    """Run the whole chain on one data set and write its results."""
    from benchmarks.peers import sentence_transformers_stack as peers
    from corpus.prepared import Prepared
    from indexer.evaluate import evaluate_bundle
    from retrieval.model_info import load_retriever_info

    circumstances = Circumstances()
    workspace = Workspace(store)
    settings = {**dataset.settings, **(QUICK if quick else {})}
    assignments = [f"{key}={json.dumps(value)}" for key, value in settings.items()] + overrides
    seconds: dict[str, float] = {}
    if not workspace.config_path.exists():
        source = shared / dataset.folder if dataset.folder else None
        data.init(store, kind=dataset.kind, source=source, searches=dataset.n_searches, overrides=assignments)
    config = load_config(TandemConfig, workspace.config_path, overrides=assignments)
    if not (workspace.data / "manifest.json").exists():
        seconds["prepare"] = _timed(lambda: data.prepare(store, assignments))
        if quick:
            thin(workspace.data, QUICK_SIZES, seed=QUICK_SEED)
    if not versions(workspace.retrievers, marker="model.json"):
        seconds["train retriever"] = _timed(lambda: train_first_stage(workspace, config))
    if not versions(workspace.rerankers, marker="model.json"):
        seconds["train reranker"] = _timed(lambda: train_second_stage(workspace, config))
    if not versions(workspace.blends, marker="model.json"):
        try:
            seconds["train blend"] = _timed(lambda: train_trees(workspace, config))
        except TooLittleData as exc:
            typer.echo(f"without a blend: {exc}")
    if not versions(workspace.bundles, marker="manifest.json"):
        seconds["build"] = _timed(lambda: bundles.build(store, assignments))
        bundles.publish(store, force=True, reason="a benchmark measures whatever was built")
    stack = None
    if peer:
        started = time.monotonic()
        retriever = load_retriever_info(find_version(workspace.retrievers, None, marker="model.json"))
        stack = peers.open_stack(
            Prepared(workspace.data),
            peers.folder_of(workspace),
            base_model=config.retriever.base_model,
            max_steps=retriever.n_steps,
        )
        seconds["do-it-yourself stack"] = time.monotonic() - started
    started = time.monotonic()
    report = evaluate_bundle(
        workspace,
        config.retriever,
        peer=stack,
        split="test",
        limit=dataset.n_test_queries,
        relevant_grade=dataset.relevant_grade,
    )
    seconds["evaluate"] = time.monotonic() - started
    suffix = "-quick" if quick else ""
    document = {
        "command": f"python -m benchmarks quality {name}"
        + (" --quick" if quick else "")
        + ("" if peer else " --no-peer"),
        "settings": settings,
        "overrides": overrides,
        "seeds": {
            "evaluation": report.seed,
            "retriever": config.retriever.train.seed,
            "reranker": config.reranker.train.seed,
            "do-it-yourself stack": peers.SEED,
        },
        "data_fingerprint": report.data_fingerprint,
        **circumstances.document(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "report": report.model_dump(mode="json"),
    }
    title = f"Quality on {name}" + (" (quick: few steps on a cut-down store)" if quick else "")
    stem = RESULTS / f"quality-{name}{suffix}"
    RESULTS.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(f"# {title}\n\n{report.markdown()}\n", encoding="utf-8")
    plot_quality(report, title, stem.with_suffix(".png"))
    typer.echo(report.table())
    typer.echo(f"written: {stem}.json, .md and .png")


def _timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started
