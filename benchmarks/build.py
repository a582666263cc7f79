"""How fast is a catalogue embedded, and what does speed cost? Beside plain ``SentenceTransformer.encode``.

The packaged MiniLM, untuned, embeds the passages of real catalogues, a shard at a time, with three systems by turns:

peer   ``SentenceTransformer.encode``, fp32, as it comes: batches of 32, sorted by length
fp32   torch, batches of like length filled to a token budget: how training embeds
int8   the exported item tower, calibrated on the catalogue's passages, a stream per core: how a build embeds

Every system embeds every shard, in an order that changes from round to round; a round's ratio is that of its own times.
The embeddings of all rounds together make a catalogue that real test queries are then asked of: recall@100 of each
system's items, queries embedded in fp32.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.circumstances import Circumstances
from benchmarks.datasets import DATA_SETS
from corpus.errors import ConfigError
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import RetrieverConfig

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
NAMES = ("bestbuy", "homedepot")
PEER, FP32, INT8 = "SentenceTransformer.encode", "torch fp32 by length", "OpenVINO int8"
SYSTEMS = (PEER, FP32, INT8)
SEED = 13
N_QUERIES = 1000  # at most, distinct
N_CALIBRATION = 300  # passages
DEPTH = 100

Encode = Callable[[Sequence[str]], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Figures of several rounds."""

    median: float
    low: float  # first quartile
    high: float  # third quartile

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Take the quartiles."""
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(median=round(float(median), 3), low=round(float(low), 3), high=round(float(high), 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemResult:
    """One system on one data set."""

    name: str
    items_per_s: Spread
    speedup: Spread  # over the peer, round by round
    recall: float  # recall@100
    recall_lost: float  # the peer's, less this system's: mean over queries
    recall_lost_error: float  # 1.96 standard errors of it, paired by query
    cosine: float  # mean, with the peer's embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one data set gives to embed and to ask."""

    texts: list[str]
    queries: list[str]
    wanted: list[IntArray]  # rows of ``texts`` that answer each query


def build(
    shared: Annotated[Path, typer.Option(help="The folder that holds the data sets.")] = Path("../shared/data"),
    rounds: Annotated[int, typer.Option(min=5, help="How often each system embeds a shard.")] = 7,
    shard: Annotated[int, typer.Option(min=32, help="Passages per round; no more are embedded twice.")] = 2048,
    quick: Annotated[bool, typer.Option("--quick", help="Five rounds of 128 passages: does it run?")] = False,
) -> None:
    """Measure bulk embedding on real catalogues; write benchmarks/results/build.json and .md."""
    if quick:
        rounds, shard = 5, 128
    circumstances = Circumstances()
    found = {name: measure(read_sample(name, shared, rounds * shard), rounds) for name in NAMES}
    document = {
        "command": f"python -m benchmarks build --rounds {rounds} --shard {shard}",
        "seed": SEED,
        **circumstances.document(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": {name: [asdict(result) for result in results] for name, results in found.items()},
    }
    text = markdown(found, document, rounds, shard)
    stem = RESULTS / ("build-quick" if quick else "build")
    RESULTS.mkdir(exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    typer.echo(text)
    typer.echo(f"written: {stem}.json and .md")


def read_sample(name: str, shared: Path, n_items: int) -> Sample:
    """Import and prepare a data set, and draw the items that test queries led to, and others by chance."""
    from corpus.prepared import Prepared
    from corpus.workspace import Workspace
    from retrieval.passages import passages
    from server.cli import data

    dataset = DATA_SETS[name]
    if dataset.folder is None:
        raise ConfigError(f"expected a data set of files, got {name}, which is made up")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / name
        data.init(store, kind=dataset.kind, source=shared / dataset.folder)
        data.prepare(store)
        prepared = Prepared(Workspace(store).data)
        items = prepared.items
        examples = prepared.examples("test", limit=N_QUERIES, seed=SEED, with_history=False)
    least = dataset.relevant_grade if dataset.relevant_grade is not None else 1e-6
    wanted: dict[str, set[int]] = {}
    for example in examples:
        if answers := {label.row for label in example.labels if label.grade >= least}:
            wanted.setdefault(example.query, set()).update(answers)
    rng = np.random.default_rng(SEED)
    labelled = rng.permutation(sorted(set().union(*wanted.values())))[: n_items // 2]
    others = np.setdiff1d(np.arange(len(items)), labelled)
    rows = np.concatenate([labelled, rng.choice(others, n_items - len(labelled), replace=False)]).astype(np.int64)
    rows = rng.permutation(rows)
    place = {int(row): number for number, row in enumerate(rows)}
    kept = {query: [place[row] for row in sorted(some) if row in place] for query, some in wanted.items()}
    queries = [query for query, some in kept.items() if some]
    return Sample(
        texts=passages(items.take(rows), RetrieverConfig().item_fields),
        queries=queries,
        wanted=[np.array(kept[query], dtype=np.int64) for query in queries],
    )


def measure(sample: Sample, rounds: int) -> list[SystemResult]:
    """Let all systems embed the sample, round by round, and ask the queries of what each made."""
    from indexer.checks import recalls

    with tempfile.TemporaryDirectory() as folder:
        systems, encode_queries = open_systems(Path(folder), sample.texts)
        for encode in systems.values():
            encode(sample.texts[:64])  # the first call loads and compiles
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        made: dict[str, list[FloatArray]] = {name: [] for name in systems}
        shards = np.array_split(np.arange(len(sample.texts)), rounds)
        for number, rows in enumerate(shards):
            texts = [sample.texts[row] for row in rows]
            for turn in range(len(SYSTEMS)):
                name = SYSTEMS[(turn + number) % len(SYSTEMS)]
                began = time.perf_counter()
                made[name].append(systems[name](texts))
                seconds[name].append(time.perf_counter() - began)
            logger.info("round %d of %d: %s", number + 1, rounds, {n: round(s[-1], 2) for n, s in seconds.items()})
        queries = encode_queries(sample.queries)
    vectors = {name: np.concatenate(parts) for name, parts in made.items()}
    found = {name: recalls(queries, items, sample.wanted, DEPTH) for name, items in vectors.items()}
    results = []
    for name in SYSTEMS:
        lost = found[PEER] - found[name]
        results.append(
            SystemResult(
                name=name,
                items_per_s=Spread.of([len(rows) / s for rows, s in zip(shards, seconds[name], strict=True)]),
                speedup=Spread.of([p / s for p, s in zip(seconds[PEER], seconds[name], strict=True)]),
                recall=round(float(found[name].mean()), 4),
                recall_lost=round(float(lost.mean()), 4),
                recall_lost_error=round(float(1.96 * lost.std() / np.sqrt(len(lost))), 4),
                cosine=round(float((vectors[PEER] * vectors[name]).sum(axis=1).mean()), 4),
            )
        )
    return results


def open_systems(folder: Path, texts: Sequence[str]) -> tuple[dict[str, Encode], Encode]:
    """Open all systems on the packaged model, and the fp32 query encoder."""
    from sentence_transformers import SentenceTransformer

    from retrieval.engines.encoder import export_encoder, open_encoder, open_torch_encoder
    from retrieval.quiet import quiet_libraries
    from retrieval.texts import Texts
    from retrieval.training.base_models import resolve_base_model

    config = RetrieverConfig()
    model = Path(resolve_base_model(config.base_model))
    with quiet_libraries():
        peer: Any = SentenceTransformer(str(model), device="cpu")
    drawn = Texts.of(texts)
    export_encoder(
        model,
        folder,
        role="item",
        precision="int8",
        calibration_texts=drawn.take(drawn.sample(N_CALIBRATION)),
        max_tokens=config.max_item_tokens,
    )
    systems: dict[str, Encode] = {
        PEER: lambda some: np.asarray(peer.encode(list(some), show_progress_bar=False), dtype=np.float32),
        FP32: open_torch_encoder(model, role="item", max_tokens=config.max_item_tokens, device="cpu").encode,
        INT8: open_encoder(folder, bulk=True).encode,
    }
    queries = open_torch_encoder(model, role="query", max_tokens=config.max_query_tokens, device="cpu")
    return systems, queries.encode


def markdown(found: dict[str, list[SystemResult]], document: dict[str, Any], rounds: int, shard: int) -> str:
    """Lay the results out."""
    machine = document["machine"]
    lines = [
        "# Bulk embedding",
        "",
        f"`{document['command']}`, seed {SEED}, {machine['n_cores']} cores of {machine['processor']}, load "
        f"{machine['load_average_before'][0]} before and {machine['load_average_after'][0]} after. "
        f"{rounds} rounds of {shard:,} passages each, systems by turns: median (quartiles).",
        "",
        "| data | system | items/s | × the peer | recall@100 | lost | cosine |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, results in found.items():
        for r in results:
            rate, ratio = r.items_per_s, r.speedup
            lines.append(
                f"| {name} | {r.name} | {rate.median:.0f} ({rate.low:.0f}–{rate.high:.0f}) | "
                f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}) | {r.recall:.4f} | "
                f"{r.recall_lost:+.4f} ±{r.recall_lost_error:.4f} | {r.cosine:.4f} |"
            )
    lines += ["", "Lost: recall@100 of the peer less the system's, paired by query, ± 1.96 standard errors.", ""]
    return "\n".join(lines)
