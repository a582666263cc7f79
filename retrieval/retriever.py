"""The first stage: query text to candidates."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from corpus.errors import ModelIndexMismatch
from corpus.items import ItemTable
from retrieval.arrays import FloatArray, IntArray, check_depth
from retrieval.candidates import Candidates
from retrieval.config import RetrieverConfig
from retrieval.engines.encoder import TextEncoder, open_torch_encoder
from retrieval.event_log.query_log import QueryLog
from retrieval.filtering.row_set import RowSet
from retrieval.fusion import FusionWeights, Pool, fuse, make_pool
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.model_info import MODEL_FOLDER, load_retriever_info
from retrieval.passages import passages
from retrieval.vectors.embeddings import embed_items
from retrieval.vectors.vector_index import VectorHits, VectorIndex

__all__ = ["Candidates", "Retriever", "build_retriever"]

# before validation queries have spoken: half of a cosine, half of a BM25 share
DEFAULT_WEIGHTS = FusionWeights(dense=0.5)
_NOTHING: tuple[IntArray, FloatArray] = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


class Retriever:
    """Finds candidates through embeddings, words and the query log, and fuses them. Safe for several threads."""

    def __init__(
        self,
        encoder: TextEncoder,
        vector_index: VectorIndex,
        lexical_index: LexicalIndex,
        weights: FusionWeights,
        query_log: QueryLog | None = None,
    ) -> None:
        """Join the parts.

        Args:
            encoder: The query encoder.
            vector_index: Embeddings of the item encoder of the same model, by row.
            lexical_index: The same catalogue's words, by row.
            weights: See ``retrieval.fusion``.
            query_log: What was chosen after each query, embedded by the same encoder; None: nobody knows.
        Raises:
            ModelIndexMismatch: If the widths of encoder and index, or the lengths of the indexes, differ.
        """
        if encoder.dim != vector_index.dim:
            raise ModelIndexMismatch(
                f"expected an index of the encoder's {encoder.dim} dimensions, got {vector_index.dim}; build it again"
            )
        if len(vector_index) != len(lexical_index):
            raise ModelIndexMismatch(
                f"expected both indexes to hold one catalogue, got {len(vector_index)} vectors and "
                f"{len(lexical_index)} texts; build them again"
            )
        if query_log is not None and query_log.dim not in (None, encoder.dim):
            raise ModelIndexMismatch(
                f"expected a query log of the encoder's {encoder.dim} dimensions, got {query_log.dim}; build it again"
            )
        self.encoder = encoder
        self.vector_index = vector_index
        self.lexical_index = lexical_index
        self.weights = weights
        self.query_log = query_log

    def with_weights(self, weights: FusionWeights) -> "Retriever":
        """Return a retriever over the same parts with other weights."""
        return Retriever(self.encoder, self.vector_index, self.lexical_index, weights, self.query_log)

    def with_encoder(self, encoder: TextEncoder) -> "Retriever":
        """Return a retriever over the same parts whose queries another encoder of the same numbers embeds."""
        return Retriever(encoder, self.vector_index, self.lexical_index, self.weights, self.query_log)

    def with_query_log(self, query_log: QueryLog | None) -> "Retriever":
        """Return a retriever over the same parts with another log."""
        return Retriever(self.encoder, self.vector_index, self.lexical_index, self.weights, query_log)

    def encode(self, query: str) -> FloatArray:
        """Return a query's embedding, float32 (dim,): for who searches more than once for it."""
        (vector,) = self.encoder.encode([query])
        return np.asarray(vector)

    def correct(self, query: str) -> str | None:
        """Mend the words of a query that the catalogue lacks; see ``LexicalIndex.correct``."""
        return self.lexical_index.correct(query)

    def near(
        self, vector: FloatArray, k: int, *, exact: bool = False, allowed: RowSet | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Find the items whose embeddings are nearest to a vector.

        Args:
            vector: float32 (dim,), L2-normalised.
            k: Most items.
            exact: Compare with every item's embedding instead of searching approximately.
            allowed: Rows to search among; None: all.
        Returns:
            Rows int64 (n,) and inner products float32, best first.
        """
        hits = self._near(vector[None], k, exact=exact, allowed=allowed)
        found = hits.ids[0] >= 0
        return hits.ids[0][found], hits.scores[0][found]

    def present(self, allowed: RowSet | None) -> RowSet | None:
        """Return those of some rows that can be found at all: the gone ones are not. None: all."""
        return allowed

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return the embeddings of rows; see ``VectorIndex.vectors_of``."""
        return self.vector_index.vectors_of(rows)

    def retrieve(
        self,
        query: str,
        k: int,
        *,
        exact: bool = False,
        allowed: RowSet | None = None,
        vector: FloatArray | None = None,
        spelling: bool = True,
    ) -> Candidates:
        """Find candidates for one query.

        Args:
            query: Normalised (``corpus.queries.normalize_query``).
            k: Most candidates; each channel is asked for as many.
            exact: Compare the query with every item's embedding instead of searching approximately.
            allowed: Rows to search among, in every channel; None: all.
            vector: float32 (dim,), from ``encode``; None: the query is encoded here.
            spelling: Look for the words of ``correct(query)``; False: for those that were typed.
        Returns:
            At most k candidates, best first: k of them unless fewer are allowed or embeddings weigh nothing.
        Raises:
            InputError: If k is below 1.
        """
        vectors = self.encoder.encode([query]) if vector is None else vector[None]
        (pool,) = self._pools([query], vectors, k, self.weights, exact=exact, allowed=allowed, spelling=spelling)
        return fuse(pool, self.weights, k)

    def retrieve_batch(
        self, queries: Sequence[str], k: int, *, exact: bool = False, allowed: RowSet | None = None
    ) -> list[Candidates]:
        """Find candidates for several queries at once; see ``retrieve``."""
        pools = self._pools(queries, self.encoder.encode(queries), k, self.weights, exact=exact, allowed=allowed)
        return [fuse(pool, self.weights, k) for pool in pools]

    def pools(self, queries: Sequence[str], k: int) -> list[Pool]:
        """Return the union of all channels' k best for each query, not yet fused."""
        weights = FusionWeights(dense=0.5, behaviour=0.5)
        return self._pools(queries, self.encoder.encode(queries), k, weights, exact=False, allowed=None)

    def _pools(
        self,
        queries: Sequence[str],
        vectors: FloatArray,
        k: int,
        weights: FusionWeights,
        *,
        exact: bool,
        allowed: RowSet | None,
        spelling: bool = True,
    ) -> list[Pool]:
        """Ask the channels that weigh anything; the vectors are (n_queries, dim)."""
        check_depth(k)
        hits = self._near(vectors, k, exact=exact, allowed=allowed)
        log = self.query_log if weights.behaviour > 0 else None
        pools = []
        for query, vector, ids, scores in zip(queries, vectors, hits.ids, hits.scores, strict=True):
            found = ids >= 0
            words = self._worded(query, k, allowed=allowed, spelling=spelling) if weights.dense < 1 else _NOTHING
            chosen = self._chosen(log, vector, k, allowed=allowed) if log is not None else _NOTHING
            pools.append(make_pool((ids[found], scores[found]), words, chosen, partial(self._cosines, vector)))
        return pools

    # what ``retrieval.live_retriever`` has answers of its own to

    def _near(self, vectors: FloatArray, k: int, *, exact: bool, allowed: RowSet | None) -> VectorHits:
        return self.vector_index.search(vectors, k, exact=exact, allowed=allowed)

    def _worded(
        self, query: str, k: int, *, allowed: RowSet | None, spelling: bool = True
    ) -> tuple[IntArray, FloatArray]:
        return self.lexical_index.search(query, k, spelling=spelling, allowed=allowed)

    def _chosen(
        self, log: QueryLog, vector: FloatArray, k: int, *, allowed: RowSet | None
    ) -> tuple[IntArray, FloatArray]:
        return log.search(vector, k, allowed=allowed)

    def _cosines(self, vector: FloatArray, rows: IntArray) -> FloatArray:
        return self.vectors_of(rows) @ vector


def build_retriever(
    items: ItemTable, model_dir: Path, config: RetrieverConfig, cache: Path, *, weights: FusionWeights | None = None
) -> Retriever:
    """Build an in-memory retriever for training and evaluation: torch encoders, exact search, no query log.

    Args:
        items: The catalogue.
        model_dir: A retriever version's folder, which holds ``model/``; ``model.json`` may not be there yet.
        config: How passages are made and words are weighed; the kind of vector index is not heeded.
        cache: Folder of cached embeddings.
        weights: None: those of ``model.json``.
    Raises:
        ArtefactError: If there is no such model.
    """
    model = model_dir / MODEL_FOLDER
    item_encoder = open_torch_encoder(model, role="item", max_tokens=config.max_item_tokens, dim=config.dim)
    vectors = embed_items(item_encoder, passages(items, config.item_fields), cache).vectors
    return Retriever(
        open_torch_encoder(model, role="query", max_tokens=config.max_query_tokens, dim=config.dim),
        VectorIndex.build(vectors, config.index.model_copy(update={"kind": "flat"})),
        LexicalIndex.build(items, config.lexical),
        weights or load_retriever_info(model_dir).fusion.resolved(config.fusion),
    )
