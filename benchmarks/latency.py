"""How long does an answer take, beside what people run today and beside the physical floor, and what does speed cost?

All systems run the same weights over the same texts in one run, by turns (``latency_cases.by_turns``): Tandem as
served, the plain stack (``peers/plain_stack.py``) and ONNX Runtime int8 (``peers/onnx_int8.py``) in the place of
Tandem's engine. The floor is what this machine's measured peaks allow for the model's operations
(``latency_floor.py``).
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.circumstances import Circumstances
from benchmarks.latency_report import latency_markdown, plot_latency
from corpus.errors import ConfigError

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
SEED = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    candidates: tuple[int, ...] = (20, 50, 100, 200)
    tokens: tuple[int, ...] = (24, 64, 128)
    histories: tuple[int, ...] = (0, 10, 200)
    callers: tuple[int, ...] = (1, 4, 16)
    searches: int = 12  # of each system in a round, one by one
    loop_s: float = 3.0  # of callers in a closed loop, per round
    starts: int = 5
    judged: int = 200  # test queries
    judged_depth: int = 100
    repeated: int = 20  # of them, how many fp32 scores in other batches
    depths: tuple[int, ...] = (30, 100)  # candidates that both servers rerank
    events: int = 10  # of a history, where it does not vary


QUICK = Plan(
    rounds=2,
    candidates=(20, 100),
    tokens=(64,),
    callers=(1, 4),
    searches=3,
    loop_s=1.0,
    starts=1,
    judged=12,
    judged_depth=30,
    repeated=3,
    depths=(30,),
)


def latency(
    store: Annotated[Path, typer.Option(help="A store with trained models and a published bundle.")],
    sizes: Annotated[
        str, typer.Option(help="Numbers of items to enlarge the catalogue to, with commas; empty: its own alone.")
    ] = "50000",
    rounds: Annotated[int, typer.Option(min=5, help="How often each system has its turn.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds of little: does it run?")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Where exported graphs and enlarged bundles are kept; default: in the store.")
    ] = None,
) -> None:
    """Measure latency beside peers and the floor; write benchmarks/results/latency.json, .md and .png."""
    plan = QUICK if quick else replace(Plan(), rounds=rounds)
    counts = [] if quick else sorted(int(size) for size in sizes.split(",") if size)
    circumstances = Circumstances()
    document = {
        "command": "python -m benchmarks latency"
        + f" --store {store}"
        + (" --quick" if quick else f" --sizes {','.join(map(str, counts))} --rounds {plan.rounds}"),
        "seed": SEED,
        "plan": asdict(plan),
        **measure(store, plan, counts, cache or store / "cache" / "latency"),
        **circumstances.document(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    stem = RESULTS / ("latency-quick" if quick else "latency")
    RESULTS.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = latency_markdown(document)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    plot_latency(document, stem.with_suffix(".png"))
    typer.echo(text)
    typer.echo(f"written: {stem}.json, .md and .png")


def measure(store: Path, plan: Plan, sizes: Sequence[int], cache: Path) -> dict[str, Any]:
    """Measure everything.

    Args:
        store: With trained models and a published bundle that has a reranker.
        plan: How much.
        sizes: Items to enlarge the catalogue to.
        cache: Where exported graphs and enlarged bundles are kept.
    Raises:
        ConfigError: If the store has no published bundle with a reranker.
    """
    from benchmarks.latency_cascade import measure_cascade
    from benchmarks.latency_floor import Peaks
    from benchmarks.latency_models import measure_encoding, measure_reranking, open_models
    from benchmarks.latency_quality import judged_queries, measure_determinism, measure_quality
    from corpus.prepared import Prepared
    from corpus.workspace import Workspace
    from indexer.bundle import open_bundle
    from indexer.publish import current_version

    workspace = Workspace(store)
    version = current_version(workspace.bundles)
    bundle = open_bundle(workspace.bundles / version) if version is not None else None
    if bundle is None or version is None or bundle.reranker is None:
        raise ConfigError(f"expected a published bundle with a reranker in {store}, got none; train, build and publish")
    prepared = Prepared(workspace.data)
    queries = list(dict.fromkeys(example.query for example in prepared.examples("test", limit=1000, seed=SEED)))
    peaks = Peaks.measure()
    logger.info("peaks: %s", peaks)
    models = open_models(workspace, bundle, cache)
    found: dict[str, Any] = {
        "store": {"name": store.name, "n_items": len(bundle.items), "shape": asdict(models.rerank_shape)},
        "peaks": asdict(peaks),
        "rerank": measure_reranking(
            models,
            queries,
            peaks,
            candidates=plan.candidates,
            tokens=plan.tokens,
            rounds=plan.rounds,
            seed=SEED,
        ),
        "encode": measure_encoding(models, queries, peaks, rounds=plan.rounds),
    }
    before = bundle.before("test", prepared)
    if before.reranker is None:
        raise ConfigError("expected the bundle's reranker to stay")
    judged = judged_queries(before, prepared, n=plan.judged, seed=SEED)
    found["cascade"] = measure_cascade(models, before.reranker, judged, depth=plan.judged_depth, rounds=plan.rounds)
    found["quality"] = measure_quality(models, before.reranker, judged, depth=plan.judged_depth)
    found["determinism"] = {
        "fp32": measure_determinism(models.fp32, before.reranker, judged[: plan.repeated], depth=plan.judged_depth),
        "as served": measure_determinism(bundle.reranker.scorer, before.reranker, judged, depth=plan.judged_depth),
    }
    del before, judged
    found["served"] = _serve(workspace, version, plan, sizes, cache, queries)
    return found


def _serve(
    workspace: Any,  # noqa: ANN401 - Workspace, imported late
    version: str,
    plan: Plan,
    sizes: Sequence[int],
    cache: Path,
    queries: Sequence[str],
) -> dict[str, Any]:
    from benchmarks.latency_catalogue import serving_store
    from benchmarks.latency_serving import measure_size
    from indexer.manifest import read_manifest

    own = read_manifest(workspace.bundles / version)
    detailed = max([size for size in sizes if size <= 100_000], default=own.n_items)  # where loads are measured
    served = {}
    for n_items in dict.fromkeys([own.n_items, *sizes]):
        folder = cache / f"served-{n_items}-{own.retriever.fingerprint[:8]}-{version}"
        wanted = None if n_items == own.n_items else n_items
        larger = serving_store(workspace, version, folder, wanted, queries, seed=SEED)
        logger.info("serving %d items", n_items)
        served[str(n_items)] = measure_size(
            workspace, larger, version, plan, queries, loads=n_items == detailed, seed=SEED
        )
    return served
