"""Embeddings for the index benchmark: real titles and queries, and as many more items as a size takes.

A made-up item is a real one plus Gaussian noise, normalised again. The noise has the catalogue's own covariance, so
that it moves along the directions in which real items differ, and its length is .8 of the distance of some real item to
its nearest neighbour. ``similarity`` tells how well this went: as many made-up items as there are real ones
should have their nearest neighbours as near as real items have theirs.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corpus.errors import EmptyQuery
from corpus.queries import normalize_query
from retrieval.arrays import FloatArray
from retrieval.config import DEFAULT_MODEL
from retrieval.engines.encoder import open_torch_encoder
from retrieval.training.base_models import resolve_base_model
from retrieval.vectors.embeddings import embed_items
from retrieval.vectors.exact_search import nearest

CATALOGUES = ("bestbuy", "homedepot", "beauty", "toys", "games")
QUERIES = {"bestbuy": "clicks.csv.gz", "homedepot": "judgments.csv.gz"}  # typed by people
MAX_TOKENS = 64
N_QUERIES = 1000
N_SIMILARITIES = 2000  # items whose nearest neighbour is looked for
NOISE_SHARE = 0.8  # on 10,000 titles: nearest made-up items at a cosine of .70 in the median, real ones at .69
CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """What is embedded, not made up."""

    items: FloatArray  # (n, dim) of distinct titles, in random order
    queries: FloatArray  # (N_QUERIES, dim), likewise


def load_real(shared: Path, store: Path, *, n_items: int | None, seed: int) -> Real:
    """Embed the catalogues' titles and the typed queries with the untuned encoder; what is embedded once is kept.

    Args:
        shared: The folder that holds the data sets.
        store: Where embeddings are kept.
        n_items: Most titles, drawn at random; None: all.
        seed: Of the order.
    """
    titles = {title for name in CATALOGUES for title in _titles(shared / name / "catalogue.jsonl.gz")}
    queries = {query for name, file in QUERIES.items() for query in _queries(shared / name / file)}
    rng = np.random.default_rng(seed)
    folder = Path(resolve_base_model(DEFAULT_MODEL))
    drawn = rng.permutation(np.array(sorted(titles), dtype=object))[:n_items].tolist()
    asked = rng.permutation(np.array(sorted(queries), dtype=object))[:N_QUERIES].tolist()
    encoder = open_torch_encoder(folder, role="item", max_tokens=MAX_TOKENS)
    items = embed_items(encoder, drawn, store / "embeddings").vectors
    query_encoder = open_torch_encoder(folder, role="query", max_tokens=MAX_TOKENS)
    return Real(items=items, queries=query_encoder.encode(asked))


def extend(real: FloatArray, n: int, path: Path, *, seed: int) -> FloatArray:
    """Return n embeddings, the real ones first, mapped from a file that is written where it does not exist.

    Args:
        real: float32 (n_real, dim), L2-normalised.
        n: How many in all; no more than the real ones takes the first of these.
        path: The ``.npy`` file; one of the same seed and real items for fewer or more begins with the same rows.
        seed: Of the noise.
    """
    if n <= len(real):
        return real[:n]
    if not path.exists():
        draft = path.with_suffix(".tmp")
        rows = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float32, shape=(n, real.shape[1]))
        rows[: len(real)] = real
        noise = Noise(real, seed)
        for chunk, start in enumerate(range(len(real), n, CHUNK_ROWS)):
            rows[start : start + CHUNK_ROWS] = noise.made_up(CHUNK_ROWS, chunk)[: n - start]
        rows.flush()
        del rows
        draft.replace(path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class Noise:
    """How made-up items differ from real ones; see the module."""

    def __init__(self, real: FloatArray, seed: int) -> None:
        """Measure the real items: float32 (n_real, dim), L2-normalised."""
        self._real = real
        self._seed = seed
        distances = np.sqrt(np.maximum(2 - 2 * nearest_similarities(real, seed), 0))  # |x - y|² = 2 - 2 xy
        self._lengths = NOISE_SHARE * distances
        values, directions = np.linalg.eigh(np.cov(real[:CHUNK_ROWS].T))
        spread = np.sqrt(np.maximum(values, 0) / values.sum())  # so that |noise|² is 1 on average
        self._shape = (directions * spread).T.astype(np.float32)  # (dim, dim)

    def made_up(self, n: int, chunk: int) -> FloatArray:
        """Return the n items of a chunk: float32 (n, dim), L2-normalised."""
        rng = np.random.default_rng([self._seed, chunk])
        noise = rng.standard_normal((n, self._real.shape[1]), dtype=np.float32) @ self._shape
        lengths = rng.choice(self._lengths, n).astype(np.float32)
        rows = self._real[rng.integers(0, len(self._real), n)] + noise * lengths[:, None]
        made: FloatArray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return made


def nearest_similarities(vectors: FloatArray, seed: int) -> FloatArray:
    """Return the cosine of some items with the nearest other one: float32 (up to N_SIMILARITIES,)."""
    rows = np.random.default_rng(seed).permutation(len(vectors))[:N_SIMILARITIES]
    scores, ids = nearest(np.ascontiguousarray(vectors[rows]), vectors, 2)
    return np.where(ids[:, 0] == rows, scores[:, 1], scores[:, 0])


def similarity(real: FloatArray, seed: int) -> dict[str, dict[str, float]]:
    """Compare the nearest neighbours of real items with those of as many made-up ones, by deciles of the cosine."""
    made = Noise(real, seed).made_up(len(real), chunk=2**31)
    found = {"real": nearest_similarities(real, seed), "made up": nearest_similarities(made, seed)}
    return {
        name: {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (10, 25, 50, 75, 90)}
        for name, values in found.items()
    }


def _titles(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [title for line in file if (title := str(json.loads(line)["title"]).strip())]


def _queries(path: Path) -> list[str]:
    kept = []
    for query in pl.read_csv(path, columns=["query"], infer_schema=False)["query"].drop_nulls().unique():
        try:
            kept.append(normalize_query(query))
        except EmptyQuery:
            continue
    return kept
