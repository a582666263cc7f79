"""How fast do the kinds of vector index answer, and what do they cost? By size of the catalogue, beside a peer.

Every kind is tuned as a build tunes it (``retrieval/vectors/index_tuning.py``) on half of the queries and measured on
the other half. What is measured of a size is kept in the stores' folder, so that a call that was stopped goes on there.
"""

import gc
import json
import logging
import math
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.circumstances import Circumstances
from benchmarks.index_report import index_markdown, plot_index
from benchmarks.index_timing import bandwidth, filtered, n_cores, timings
from benchmarks.index_vectors import Real, extend, load_real, similarity
from benchmarks.peers.usearch_graph import UsearchGraph
from corpus.errors import ConfigError
from retrieval.arrays import FloatArray
from retrieval.config import IndexKind, VectorIndexConfig
from retrieval.vectors.faiss_runtime import faiss
from retrieval.vectors.index_choice import GIB, GRAPHS, MOST_LINKED, bytes_per_item, choose_kind
from retrieval.vectors.index_tuning import (
    BREADTHS,
    RECALL_DEPTH,
    TIE_TOLERANCE,
    cheapest,
    exact_hits,
    measure_recall,
    narrow,
    sweep,
    with_point,
)
from retrieval.vectors.vector_index import VectorIndex

logger = logging.getLogger(__name__)

KINDS: tuple[IndexKind, ...] = ("flat_fp16", "sq8", "hnsw", "hnsw_sq8", "ivf_flat", "ivf_pq", "ivf_rabitq")
PEER = "usearch"
TARGETS = (0.95, 0.99)  # ann_recall@100
MOST_GIB = 12.0  # that a structure may take beside the mapped embeddings
RESULTS = Path(__file__).parent / "results"


def index(
    sizes: Annotated[str, typer.Option(help="Numbers of items, with commas.")] = "10000,100000,1000000,10000000",
    kinds: Annotated[str, typer.Option(help="Kinds of index, with commas.")] = ",".join((*KINDS, PEER)),
    shared: Annotated[Path, typer.Option(help="The folder that holds the data sets.")] = Path("../shared/data"),
    stores: Annotated[Path, typer.Option(help="Where embeddings and finished measurements are kept.")] = Path("stores"),
    real: Annotated[int | None, typer.Option(help="Most real titles to embed; all by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order, the noise and the filters.")] = 0,
) -> None:
    """Measure every kind of vector index by size; write benchmarks/results/index.json, .md and .png."""
    chosen = kinds.split(",")
    if unknown := [kind for kind in chosen if kind not in (*KINDS, PEER)]:
        raise ConfigError(f"expected kinds among {', '.join((*KINDS, PEER))}, got {', '.join(unknown)}")
    counts = sorted(int(size) for size in sizes.split(","))
    circumstances = Circumstances()
    store = stores / "index"
    store.mkdir(parents=True, exist_ok=True)
    embedded = load_real(shared, store, n_items=real, seed=seed)
    rates = bandwidth()
    document: dict[str, Any] = {
        "command": f"python -m benchmarks index --sizes {sizes} --kinds {kinds} --seed {seed}"
        + (f" --real {real}" if real else ""),
        "seed": seed,
        "dim": int(embedded.items.shape[1]),
        "n_real": len(embedded.items),
        "n_queries": len(embedded.queries),
        "similarity": similarity(embedded.items, seed),
        "bandwidth": rates,
        "sizes": {
            str(n): _measure_size(n, chosen, embedded, store, rates["one"], largest=counts[-1], seed=seed)
            for n in counts
        },
    }
    document["exponents"] = exponents(document["sizes"], document["dim"])
    document |= circumstances.document() | {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    document["versions"][PEER] = version(PEER)
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / "index"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(index_markdown(document), encoding="utf-8")
    plot_index(document, stem.with_suffix(".png"))
    typer.echo(index_markdown(document))
    typer.echo(f"written: {stem}.json, .md and .png")


def exponents(measured: dict[str, Any], dim: int) -> dict[str, float]:
    """Return b of latency ~ n^b for each kind, between its smallest and its largest size, at the lower recall.

    Beside the kinds stands ``auto``: of each size, the kind that a build chooses on this machine.
    """
    found = {}
    automatic = {n: choose_kind(VectorIndexConfig(), int(n), dim) for n in measured}
    for kind in ("auto", *KINDS, PEER, "flat"):
        points = [
            (int(n), at["p50"])
            for n, size in measured.items()
            if (at := size.get(automatic[n] if kind == "auto" else kind, {}).get("at", {}).get(f"{TARGETS[0]:g}"))
        ]
        if len(points) > 1:
            (few, fast), (many, slow) = points[0], points[-1]
            found[kind] = round(math.log(slow / fast) / math.log(many / few), 3)
    return found


def _measure_size(
    n: int, kinds: list[str], real: Real, store: Path, rate: float, *, largest: int, seed: int
) -> dict[str, Any]:
    """Measure all kinds, each once; what a file of this size holds is not measured again."""
    path = store / f"measured-{n}-{len(real.items)}-{seed}.json"
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    # one file for all sizes: the smaller are its beginnings
    file = store / f"vectors-{largest}-{len(real.items)}-{seed}.npy"
    vectors = extend(real.items, largest, file, seed=seed)[:n]
    half = len(real.queries) // 2
    queries = (real.queries[:half], real.queries[half:])
    for kind in ("flat", *kinds):
        if kind in done:
            continue
        logger.info("%d items: %s", n, kind)
        faiss.omp_set_num_threads(n_cores())
        if kind == "flat":
            done[kind] = _measure_flat(vectors, queries[1], rate)
        elif reason := _skipped(kind, *vectors.shape):
            done[kind] = {"skipped": reason}
        elif kind == PEER:
            done[kind] = _measure_peer(vectors, queries)
        else:
            done[kind] = _measure_kind(vectors, queries, VectorIndexConfig.model_validate({"kind": kind}), seed)
        gc.collect()
        path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    return done


def _skipped(kind: str, n: int, dim: int) -> str | None:
    if kind in (*GRAPHS, PEER) and n > MOST_LINKED:
        return "a graph of so many items takes hours to build"
    size = 0.0 if kind == PEER else n * bytes_per_item(kind, dim, VectorIndexConfig().m) / GIB  # type: ignore[arg-type]
    return f"takes more than {MOST_GIB:g} GiB" if size > MOST_GIB else None


def _measure_flat(vectors: FloatArray, queries: FloatArray, rate: float) -> dict[str, Any]:
    """Exact search: the baseline; beside it the time that reading all embeddings takes at least."""
    flat = VectorIndex.build(vectors, VectorIndexConfig(kind="flat"))
    measured = timings(partial(flat.search_one, k=RECALL_DEPTH), queries)
    floor_ms = vectors.nbytes / rate * 1e3
    at = {f"{target:g}": {"setting": "all rows compared", "recall": 1.0, **measured} for target in TARGETS}
    return {
        "build_s": 0.0,
        "bytes_per_item": 4 * vectors.shape[1],
        "floor_ms": round(floor_ms, 3),
        "times_floor": round(measured["p50"] / floor_ms, 3),
        "at": at,
    }


def _measure_kind(
    vectors: FloatArray, queries: tuple[FloatArray, FloatArray], config: VectorIndexConfig, seed: int
) -> dict[str, Any]:
    tuning, held_out = queries
    began = time.perf_counter()
    built = VectorIndex.build(vectors, config)
    build_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        built.save(Path(folder) / "index")
        stored = (Path(folder) / "index").stat().st_size
    beside = vectors.nbytes if config.kind == "hnsw" else 0  # its links lie over the embeddings
    at, exact = {}, exact_hits(built, held_out)
    for target in TARGETS:
        curve = sweep(built, tuning, target, config)
        if point := cheapest(curve, target):
            tuned = with_point(built, point)
            at[f"{target:g}"] = {
                "setting": point.text(),
                "recall": round(measure_recall(tuned, held_out, exact), 4),
                **timings(partial(tuned.search_one, k=RECALL_DEPTH), held_out),
            }
    best = cheapest(curve, TARGETS[-1])
    return {
        "build_s": round(build_s, 1),
        "bytes_per_item": round((stored + beside) / len(vectors), 1),
        "curve": [point.model_dump() for point in curve],
        "at": at,
        "filtered": filtered(with_point(built, best), held_out, seed) if best else {},
    }


def _measure_peer(vectors: FloatArray, queries: tuple[FloatArray, FloatArray]) -> dict[str, Any]:
    config = VectorIndexConfig()
    _, held_out = queries
    flat = VectorIndex.build(vectors, VectorIndexConfig(kind="flat"))
    exact = [flat.search(half, RECALL_DEPTH, exact=True).scores[:, -1:] for half in queries]
    began = time.perf_counter()
    graph = UsearchGraph(vectors, m=config.m, ef_construction=config.ef_construction)
    build_s = time.perf_counter() - began

    def recall(half: int) -> float:
        rows = graph.search(queries[half], RECALL_DEPTH)
        scores = np.einsum("qd,qkd->qk", queries[half], vectors[rows])
        return float(np.mean(scores >= exact[half] - TIE_TOLERANCE))

    def recall_of(breadth: int) -> float:
        graph.set_breadth(breadth)
        return recall(0)

    recalls: dict[int, float] = {}
    for breadth in BREADTHS:
        recalls[breadth] = recall_of(breadth)
        if recalls[breadth] >= TARGETS[-1]:
            break
    at = {}
    for target in TARGETS:
        if reaching := next((breadth for breadth, found in recalls.items() if found >= target), None):
            short = max((breadth for breadth in recalls if breadth < reaching), default=0)
            chosen = narrow(short, reaching, target, recall_of)
            graph.set_breadth(chosen)
            at[f"{target:g}"] = {
                "setting": f"ef_search = {chosen}",
                "recall": round(recall(1), 4),
                **timings(partial(graph.search, k=RECALL_DEPTH), held_out),
            }
    return {
        "build_s": round(build_s, 1),
        "bytes_per_item": round(graph.size_bytes / len(vectors), 1),
        "at": at,
    }
