"""How much memory a build of a large catalogue takes.

    python -m benchmarks.build_memory --items 1000000 [--kind flat|hnsw]

A catalogue is made up: titles of seven words, a brand, a category path, no descriptions, a tenth of the passages
equal to another one. A process of its own embeds it into a mapped file, writes the lexical index and the passages'
tokens, as ``tandem build`` does, with two differences: the encoder is a stand-in that returns random numbers, and there
is no vector index unless ``--kind`` names one, since that is the index's own size and not the build's. What the process
held of its own (anonymous memory, as the kernel counts it) is sampled, because pages of mapped files, which the kernel
takes back when it needs them, count in a resident size, too. Results are printed as one JSON object.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from corpus.items import ITEM_SCHEMA, ItemTable
from retrieval.arrays import FloatArray
from retrieval.config import LexicalConfig, RetrieverConfig, VectorIndexConfig

DIM = 384
N_WORDS = 20_000
TITLE_WORDS = 7
MADE_AT_ONCE = 200_000
SAMPLED_EVERY_S = 0.02


class StubEncoder:
    """A stand-in for an item encoder: as wide, a thousand times as fast."""

    dim = DIM
    fingerprint = "stub-of-the-memory-benchmark"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors by chance."""
        drawn = self._rng.standard_normal((len(texts), DIM), dtype=np.float32)
        vectors: FloatArray = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        return vectors


class Peak:
    """The most anonymous memory since the last reading, in bytes."""

    def __init__(self) -> None:
        self._most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, anonymous_bytes())
            time.sleep(SAMPLED_EVERY_S)

    def take(self) -> int:
        """Return the peak and begin anew."""
        most, self._most = max(self._most, anonymous_bytes()), 0
        return most


def anonymous_bytes() -> int:
    """Return this process's anonymous resident memory (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("expected RssAnon in /proc/self/status; run this on Linux")


def make_catalogue(path: Path, n_items: int, seed: int) -> None:
    """Write a made-up catalogue."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{number:x}" for number in rng.permutation(N_WORDS)])
    frames = []
    for start in range(0, n_items, MADE_AT_ONCE):
        n = min(MADE_AT_ONCE, n_items - start)
        drawn = words[np.minimum(rng.zipf(1.2, (n, TITLE_WORDS)), N_WORDS) - 1]
        drawn[rng.random(n) < 0.1] = drawn[0]
        kinds = rng.integers(0, 300, n)
        frame = pl.DataFrame(
            {
                "item_id": [f"item-{row:09d}" for row in range(start, start + n)],
                "title": [" ".join(row) for row in drawn],
                "brand": [f"brand{number}" for number in kinds % 97],
                "category": [[f"department {number % 12}", f"aisle {number}"] for number in kinds],
                "price": rng.random(n) * 100,
            }
        )
        missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in ITEM_SCHEMA.items() if name not in frame]
        frames.append(frame.with_columns(missing).select(list(ITEM_SCHEMA)))
    pl.concat(frames).write_parquet(path)


def build(folder: Path, kind: str) -> None:
    """Do what a build does with a catalogue, stage by stage; runs in a process of its own."""
    from rerank.inputs import PairTokenizer, PassageTokens
    from retrieval.lexical.lexical_index import LexicalIndex
    from retrieval.passages import passage_texts
    from retrieval.training.base_models import resolve_base_model
    from retrieval.vectors.embeddings import embed_items
    from retrieval.vectors.vector_index import VectorIndex

    fields = RetrieverConfig().item_fields
    tokenizer = PairTokenizer.load(Path(resolve_base_model("default")))
    peak, found, seconds = Peak(), {}, {}
    found["start"] = peak.take()
    began = time.perf_counter()

    def end(stage: str) -> None:
        nonlocal began
        found[stage], seconds[stage] = peak.take(), round(time.perf_counter() - began, 1)
        began = time.perf_counter()

    items = ItemTable.read(folder / "items.parquet")
    items.write(folder / "bundled.parquet")
    end("items")
    report = embed_items(StubEncoder(), passage_texts(items, fields), folder / "cache", into=folder / "vectors.npy")
    end("embeddings")
    again = embed_items(StubEncoder(), passage_texts(items, fields), folder / "cache", into=folder / "vectors.npy")
    end("embeddings, all known")
    if kind != "none":
        VectorIndex.build(report.vectors, VectorIndexConfig.model_validate({"kind": kind})).save(folder / "index")
        end(f"vector index, {kind}")
    LexicalIndex.build(items, LexicalConfig(), folder / "lexical")
    end("lexical index")
    PassageTokens.write(folder / "tokens", tokenizer, passage_texts(items, fields), max_tokens=64)
    end("passage tokens")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    result = {
        "peak_gib": {stage: round(size / 2**30, 3) for stage, size in found.items()},
        "seconds": seconds,
        "n_embedded": report.n_embedded,
        "n_reused_again": again.n_reused,
        "frame_bytes_per_item": round(items.frame.estimated_size() / len(items), 1),
        "file_bytes_per_item": {name: round(size / len(items), 1) for name, size in sizes.items()},
    }
    sys.stdout.write(json.dumps(result))


def main() -> None:
    """Make the catalogue, build in a child process and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--kind", default="none", help="of vector index to build as well; it adds its own size")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where temporary files go; needs about 4 GB per million items")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        build(options.build, options.kind)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_catalogue(Path(folder) / "items.parquet", options.items, options.seed)
        command = [sys.executable, "-m", "benchmarks.build_memory", "--build", folder, "--kind", options.kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = {
        "items": options.items,
        "dim": DIM,
        **json.loads(done.stdout),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "polars": pl.__version__,
        "seed": options.seed,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
