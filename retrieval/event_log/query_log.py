"""What was chosen after each query of the log, and after queries like it: a channel beside the dense and lexical ones.

The score of an item is a kernel estimate of the share of searches like this one that chose it:

    a_j      = exp((cos(query, query_j) - 1) / temperature)      over the logged queries nearest to this one
    score(i) = sum_j a_j n_j(i) / (sum_j a_j n_j + prior)

with ``n_j(i)`` the weight of the choices of item i after query j and ``n_j`` their sum. The query itself, if logged,
has a_j = 1 and outvotes its neighbours once it is frequent; a rare or misspelt one borrows from them. ``prior`` counts
as choices of nothing, so that one click is no certainty.
Source: the kernel regression of Nadaraya 1964 and Watson 1964, over choices.

Queries are kept as hashes and embeddings, not as text.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import BehaviourConfig, VectorIndexConfig
from retrieval.filtering.row_set import RowSet
from retrieval.ragged import Ragged
from retrieval.vectors.vector_index import VectorIndex, open_vectors

HASHES_FILE = "query_hashes.npy"
TOTALS_FILE = "query_totals.npy"
VECTORS_FILE = "query_vectors.npy"
INDEX_FILE = "queries.index"
CHOICES = "choices"
LARGEST_FLAT = 20_000  # logged queries; beyond, scanning them all would cost more than the items' own index


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What was chosen after one query text."""

    rows: IntArray  # (n,) distinct, most chosen first
    weights: FloatArray  # (n,) above 0
    total: float  # of all choices, also of items past the longest list kept


NOTHING_CHOSEN = Chosen(rows=np.empty(0, dtype=np.int64), weights=np.empty(0, dtype=np.float32), total=0.0)


class QueryLog:
    """The log's queries with what was chosen after each. Safe for several threads."""

    def __init__(
        self,
        hashes: npt.NDArray[np.uint64],
        totals: FloatArray,
        choices: Ragged,
        index: VectorIndex | None,
        config: BehaviourConfig,
    ) -> None:
        """Join the parts.

        Args:
            hashes: (n_queries,) of the query texts, ascending.
            totals: float32 (n_queries,), weight of all choices.
            choices: Each query's items with their weights.
            index: Embeddings of the queries, in this order; None if there are none.
            config: How neighbours are weighed.
        """
        self.hashes = hashes
        self.totals = totals
        self.choices = choices
        self._index = index
        self._config = config

    @classmethod
    def build(
        cls,
        queries: Sequence[str],
        vectors: FloatArray,
        pairs: tuple[IntArray, IntArray, FloatArray],
        config: BehaviourConfig,
    ) -> "QueryLog":
        """Sum the choices up by query.

        Args:
            queries: Distinct normalised texts.
            vectors: float32 (n_queries, dim), their embeddings by the query tower.
            pairs: The choices as columns: position in ``queries``, row of the item table, weight.
            config: How many items are kept per query.
        """
        number, row, weight = pairs
        hashes = np.array([query_hash(query) for query in queries], dtype=np.uint64)
        order = np.argsort(hashes)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        number = place[number]
        totals = np.bincount(number, weights=weight, minlength=len(queries)).astype(np.float32)
        choices = Ragged.build(number, row, weight, n_keys=len(queries), most=config.max_items_per_query)
        index = VectorIndex.build(vectors[order], _index_config(len(queries))) if len(queries) else None
        return cls(hashes[order], totals, choices, index, config)

    def save(self, folder: Path) -> None:
        """Write all parts into a folder."""
        np.save(folder / HASHES_FILE, self.hashes, allow_pickle=False)
        np.save(folder / TOTALS_FILE, self.totals, allow_pickle=False)
        self.choices.save(folder, CHOICES)
        if self._index is not None:
            np.save(folder / VECTORS_FILE, self._index.vectors, allow_pickle=False)
            self._index.save(folder / INDEX_FILE)

    @classmethod
    def load(cls, folder: Path, config: BehaviourConfig, *, n_items: int) -> "QueryLog":
        """Open what ``save`` wrote.

        Raises:
            ArtefactError: If a file is missing or broken, or they do not fit each other.
        """
        try:
            hashes = np.load(folder / HASHES_FILE, allow_pickle=False)
            totals = np.load(folder / TOTALS_FILE, allow_pickle=False)
        except (OSError, ValueError, EOFError) as exc:
            raise ArtefactError(f"expected logged queries in {folder}, got: {exc}; build the bundle again") from exc
        choices = Ragged.load(folder, CHOICES, n_items=n_items)
        if not hashes.ndim == totals.ndim == 1:
            raise ArtefactError(f"expected one hash and one total per logged query in {folder}; build the bundle again")
        index = None
        if len(hashes):
            vectors = open_vectors(folder / VECTORS_FILE)
            index = VectorIndex.load(folder / INDEX_FILE, _index_config(len(hashes)), vectors)
        fits = (
            hashes.dtype == np.uint64
            and totals.dtype == np.float32
            and len(hashes) == len(totals) == len(choices) == (0 if index is None else len(index))
        )
        if not fits:
            raise ArtefactError(f"expected logged queries in {folder} whose parts fit; build the bundle again")
        return cls(hashes, totals, choices, index, config)

    @property
    def dim(self) -> int | None:
        """Width of the queries' embeddings; None for an empty log."""
        return None if self._index is None else self._index.dim

    def __len__(self) -> int:
        return len(self.hashes)

    def chosen(self, query: str) -> Chosen:
        """Return what was chosen after this very query; nothing if it is not in the log."""
        wanted = np.uint64(query_hash(query))
        place = int(np.searchsorted(self.hashes, wanted))
        if place == len(self.hashes) or self.hashes[place] != wanted:
            return NOTHING_CHOSEN
        rows, weights = self.choices.of(place)
        return Chosen(rows=rows.astype(np.int64), weights=np.asarray(weights), total=float(self.totals[place]))

    def search(self, vector: FloatArray, k: int, *, allowed: RowSet | None = None) -> tuple[IntArray, FloatArray]:
        """Find the items that were chosen most after queries like this one.

        Args:
            vector: float32 (dim,), the query's embedding.
            k: Most items.
            allowed: Rows to search among; None: all.
        Returns:
            Rows int64 (n,) and scores float32 in (0, 1), best first, equal scores in row order.
        """
        if self._index is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        near, cosines = self._index.search_one(vector, self._config.neighbours)
        nearness = np.exp((np.minimum(cosines, 1.0) - 1.0) / self._config.temperature)  # (n_neighbours,)
        found = [self.choices.of(place) for place in near.tolist()]
        rows, places = np.unique(np.concatenate([part for part, _ in found]), return_inverse=True)
        weights = np.concatenate([values * near_j for (_, values), near_j in zip(found, nearness, strict=True)])
        mass = float(nearness @ self.totals[near]) + self._config.prior
        scores = (np.bincount(places, weights=weights, minlength=len(rows)) / mass).astype(np.float32)
        if allowed is not None:
            kept = allowed.mask[rows]
            rows, scores = rows[kept], scores[kept]
        best = np.lexsort((rows, -scores))[:k]
        return rows[best].astype(np.int64), scores[best]


def query_hash(query: str) -> int:
    """Return 64 bits of a normalised query's BLAKE2b digest: of a million queries, two agree once in 37 million logs.

    Source: the birthday bound n² / 2^65.
    """
    return int.from_bytes(hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _index_config(n_queries: int) -> VectorIndexConfig:
    return VectorIndexConfig(kind="flat" if n_queries <= LARGEST_FLAT else "hnsw")
