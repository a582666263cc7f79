"""How much memory and time ``tandem prepare`` takes for a large event log.

    python -m benchmarks.prepare_memory --events 10000000 [--format parquet|csv]

A log is made up in chunks in a temporary folder: sessions of five events by half a million shoppers over a quarter, a
tenth of them anonymous, on 50,000 items. A process of its own prepares it; its peak resident memory, as the kernel
counted it, and its wall time are printed as one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from corpus.settings import DataConfig

N_ITEMS = 50_000
N_QUERIES = 30_000
EVENTS_PER_SESSION = 5
CHUNK_EVENTS = 500_000
BEGIN = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1e6)
SPAN_MICROS = 90 * 86_400 * 1_000_000

# chances of each kind at each place of a session
KINDS = ["search", "click", "add_to_cart", "purchase"]
CHANCES = [(1.0, 0, 0, 0), (0.1, 0.8, 0.1, 0), (0.3, 0.6, 0.1, 0), (0.4, 0.4, 0.1, 0.1), (0.1, 0.5, 0.2, 0.2)]


def make_store(root: Path, n_events: int, file_format: str, seed: int) -> int:
    """Write a catalogue and a log; return the log's size in bytes."""
    rng = np.random.default_rng(seed)
    source = root / "source"
    source.mkdir(parents=True)
    ids = pl.Series([f"item-{n}" for n in range(N_ITEMS)])
    pl.DataFrame({"item_id": ids, "title": "item " + ids}).write_parquet(source / "items.parquet")
    n_chunks = -(-n_events // CHUNK_EVENTS)
    for chunk in range(n_chunks):
        rows = min(CHUNK_EVENTS, n_events - chunk * CHUNK_EVENTS)
        frame = _chunk(rng, chunk, n_chunks, rows, n_shoppers=max(n_events // 20, 1))
        path = source / f"events-{chunk:04d}.{file_format}"
        if file_format == "csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path)
    return sum(path.stat().st_size for path in source.glob("events-*"))


def _chunk(rng: np.random.Generator, chunk: int, n_chunks: int, rows: int, *, n_shoppers: int) -> pl.DataFrame:
    n_sessions = -(-rows // EVENTS_PER_SESSION)
    begin = BEGIN + (rng.random(n_sessions) + chunk) * SPAN_MICROS / n_chunks
    steps = rng.integers(10, 120, (n_sessions, EVENTS_PER_SESSION)).cumsum(axis=1) * 1_000_000
    shopper = np.minimum(rng.pareto(1.2, n_sessions) * n_shoppers / 8, n_shoppers - 1).astype(np.int64)
    is_known = rng.random(n_sessions) < 0.9
    kinds = np.stack([rng.choice(4, n_sessions, p=p) for p in CHANCES], axis=1).ravel()
    query = rng.zipf(1.3, len(kinds)) % N_QUERIES
    frame = pl.DataFrame(
        {
            "timestamp": (begin[:, None] + steps).astype(np.int64).ravel(),
            "user": np.repeat(shopper, EVENTS_PER_SESSION),
            "known": np.repeat(is_known, EVENTS_PER_SESSION),
            "session_id": np.repeat(np.arange(n_sessions) + chunk * CHUNK_EVENTS, EVENTS_PER_SESSION),
            "kind": kinds,
            "query": query,
            "item": rng.integers(0, N_ITEMS, len(kinds)),
        }
    )
    is_search = pl.col("kind") == 0
    return (
        frame.head(rows)
        .select(
            pl.col("timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            pl.when("known").then(pl.format("user-{}", "user")).alias("user_id"),
            pl.format("session-{}", "session_id").alias("session_id"),
            pl.col("kind").replace_strict(list(range(4)), KINDS, return_dtype=pl.String).alias("type"),
            pl.when(is_search).then(pl.format("some query {}", "query")).alias("query"),
            pl.when(~is_search).then(pl.format("item-{}", "item")).alias("item_id"),
        )
        .sort("timestamp")
    )


def prepare_store(root: Path, file_format: str) -> None:
    """Prepare the store; runs in a process of its own."""
    from corpus.prepare import prepare

    report = prepare(DataConfig(events=f"source/events-*.{file_format}"), root, root / "data")
    sys.stdout.write(report.model_dump_json())


def main() -> None:
    """Make the log, prepare it in a child process and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--format", choices=["parquet", "csv"], default="parquet")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the temporary store goes; needs about 1 GB per 3 M events")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare_store(options.prepare, options.format)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        size_bytes = make_store(Path(folder), options.events, options.format, options.seed)
        command = [sys.executable, "-m", "benchmarks.prepare_memory", "--prepare", folder, "--format", options.format]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - began
        peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        examples_bytes = (Path(folder) / "data" / "examples.parquet").stat().st_size
    result = {
        "events": options.events,
        "format": options.format,
        "log_mb": round(size_bytes / 1e6),
        "seconds": round(seconds, 1),
        "events_per_second": round(options.events / seconds),
        "peak_rss_gib": round(peak_kib / 2**20, 2),
        "examples_mb": round(examples_bytes / 1e6),
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "polars": pl.__version__,
        "seed": options.seed,
        "report": json.loads(done.stdout),
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
