"""The first stage under live updates: the built indexes, and beside them the few items that changed since.

Every search asks the base for all rows but those that changed or are gone, the delta for those that changed, and joins
both. Distances compare as they are; lexical scores see ``retrieval.lexical.delta``. The query log needs no delta: new
items have no behaviour yet.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from corpus.errors import InputError, UnknownItem
from retrieval.arrays import FloatArray, IntArray
from retrieval.event_log.query_log import QueryLog
from retrieval.filtering.row_set import RowSet
from retrieval.lexical.delta import LexicalDelta
from retrieval.retriever import Retriever
from retrieval.vectors.vector_index import VectorHits

FEW_HIDDEN = 256  # so many surplus hits cost less than a search that asks of every row whether it counts


@dataclass(frozen=True)
class Delta:
    """What changed since the indexes were built; immutable. Rows from ``n_base`` on are behind them."""

    n_base: int
    n_items: int
    gone: IntArray  # (n_gone,) rows
    vector_rows: IntArray  # (m,) ascending: rows with an embedding of their own
    vectors: FloatArray  # (m, dim)
    words: LexicalDelta

    @cached_property
    def alive(self) -> RowSet:
        """All rows but those that are gone."""
        mask = np.ones(self.n_items, dtype=np.bool_)
        mask[self.gone] = False
        return RowSet(mask)

    @cached_property
    def base_vectors(self) -> RowSet:
        """Rows that the base's vectors still speak for."""
        return self._base_without(self.vector_rows)

    @cached_property
    def base_words(self) -> RowSet:
        """Rows that the base's words still speak for."""
        return self._base_without(np.fromiter(self.words.rows, dtype=np.int64))

    @cached_property
    def found_here(self) -> tuple[IntArray, FloatArray]:
        """Those of ``vector_rows`` that are not gone, with their vectors."""
        return self.found_among(self.alive)

    def found_among(self, allowed: RowSet) -> tuple[IntArray, FloatArray]:
        """Return those of ``vector_rows`` that are in a set, with their vectors."""
        kept = allowed.mask[self.vector_rows]
        return (self.vector_rows, self.vectors) if kept.all() else (self.vector_rows[kept], self.vectors[kept])

    def _base_without(self, rows: IntArray) -> RowSet:
        mask = self.alive.mask[: self.n_base].copy()
        mask[rows[rows < self.n_base]] = False
        return RowSet(mask)


class LiveRetriever(Retriever):
    """A retriever over built indexes and what changed since."""

    def __init__(self, base: Retriever, delta: Delta) -> None:
        """Join both.

        Args:
            base: As built.
            delta: Over the same rows.
        """
        super().__init__(base.encoder, base.vector_index, base.lexical_index, base.weights, base.query_log)
        self.delta = delta

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return the embeddings of rows.

        Args:
            rows: int64 (n,).
        Returns:
            float32 (n, dim).
        Raises:
            UnknownItem: If a row is outside the catalogue.
        """
        delta = self.delta
        rows = np.asarray(rows, dtype=np.int64)
        place = np.searchsorted(delta.vector_rows, rows)
        own = np.isin(rows, delta.vector_rows)
        if len(rows) and (rows.min() < 0 or (rows[~own] >= delta.n_base).any()):
            raise UnknownItem(f"expected rows in [0, {delta.n_items}), got {rows.min()} to {rows.max()}")
        vectors = np.empty((len(rows), self.encoder.dim), dtype=np.float32)
        vectors[own] = delta.vectors[place[own]]
        vectors[~own] = self.vector_index.vectors_of(rows[~own])
        return vectors

    def _near(self, vectors: FloatArray, k: int, *, exact: bool, allowed: RowSet | None) -> VectorHits:
        delta = self.delta
        self._check(allowed)
        base = self._near_in_base(vectors, k, exact=exact, allowed=allowed)
        rows, own = delta.found_here if allowed is None else delta.found_among(self._alive(allowed))
        similar = vectors @ own.T  # (n_queries, m)
        best = np.argsort(-similar, axis=1, kind="stable")[:, :k]
        ids = np.concatenate([base.ids, rows[best]], axis=1)
        scores = np.concatenate([base.scores, np.take_along_axis(similar, best, axis=1)], axis=1)
        # hidden rows and padding go last, and where fewer than k are left the row ends in padding
        scores = np.where(ids < 0, -np.inf, scores).astype(np.float32)
        order = np.lexsort((ids, -scores), axis=-1)[:, :k]
        return VectorHits(ids=np.take_along_axis(ids, order, -1), scores=np.take_along_axis(scores, order, -1))

    def _near_in_base(self, vectors: FloatArray, k: int, *, exact: bool, allowed: RowSet | None) -> VectorHits:
        shown = self.delta.base_vectors
        n_hidden = shown.n_items - len(shown)
        if allowed is None and n_hidden == 0:
            return self.vector_index.search(vectors, k, exact=exact)
        if allowed is None and n_hidden <= FEW_HIDDEN:
            found = self.vector_index.search(vectors, k + n_hidden, exact=exact)
            seen = (found.ids >= 0) & shown.mask[found.ids]
            return VectorHits(ids=np.where(seen, found.ids, -1), scores=found.scores)
        return self.vector_index.search(vectors, k, exact=exact, allowed=self._within(shown, allowed))

    def correct(self, query: str) -> str | None:
        """See ``Retriever.correct``; words of changed items are no mistakes."""
        return self.lexical_index.correct(query, beside=self.delta.words)

    def present(self, allowed: RowSet | None) -> RowSet | None:
        """See ``Retriever.present``."""
        return self._alive(allowed)

    def _worded(
        self, query: str, k: int, *, allowed: RowSet | None, spelling: bool = True
    ) -> tuple[IntArray, FloatArray]:
        delta = self.delta
        self._check(allowed)
        text = (self.correct(query) if spelling else None) or query
        shown: RowSet | None = self._within(delta.base_words, allowed)
        if shown is not None and len(shown) == delta.n_base:
            shown = None
        base_rows, base_scores = self.lexical_index.search(text, k, spelling=False, allowed=shown)
        rows, scores = delta.words.search(text, k, allowed=self._alive(allowed))
        rows, scores = np.concatenate([base_rows, rows]), np.concatenate([base_scores, scores])
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

    def _chosen(
        self, log: QueryLog, vector: FloatArray, k: int, *, allowed: RowSet | None
    ) -> tuple[IntArray, FloatArray]:
        return log.search(vector, k, allowed=self._alive(allowed))

    def _alive(self, allowed: RowSet | None) -> RowSet:
        return self.delta.alive if allowed is None else self.delta.alive & allowed

    def _within(self, shown: RowSet, allowed: RowSet | None) -> RowSet:
        return shown if allowed is None else RowSet(shown.mask & allowed.mask[: shown.n_items])

    def _check(self, allowed: RowSet | None) -> None:
        if allowed is not None and allowed.n_items != self.delta.n_items:
            raise InputError(
                f"expected rows of a catalogue of {self.delta.n_items} items, got ones of {allowed.n_items}"
            )
