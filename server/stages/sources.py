"""Where the candidates of one search come from. What does not depend on the filter is computed once."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from corpus.columns import NumberArray
from corpus.errors import UnknownItem
from corpus.events import HistoryEvent
from indexer.bundle import Bundle
from rerank.parts import RETRIEVAL, Parts
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.filtering.row_set import RowSet
from server.stages.arrangement import ordered
from server.stages.ranking import SearchTask
from server.stages.wishes import Order, Spelling

MAX_HISTORY = 50  # events that are looked at, as many as the blend looks at


class Source(Protocol):
    """Finds the candidates of one search."""

    def find(self, allowed: RowSet | None) -> Candidates:
        """Return the candidates among some rows, best first; None: among all."""
        ...

    def dense(self, rows: IntArray) -> FloatArray:
        """Return the similarity of meaning of some rows: float32 (n,); NaN where there is nothing to compare with."""
        ...

    def explain(self, candidates: Candidates) -> Parts:
        """Return what made up the candidates' scores."""
        ...


def open_source(bundle: Bundle, task: SearchTask, history: Sequence[HistoryEvent]) -> Source:
    """Return what finds the candidates of a search.

    Args:
        bundle: What to search.
        task: What to search for.
        history: The shopper's earlier events, newest first.
    Raises:
        UnknownItem: If the items wanted are to be like one that the catalogue lacks.
    """
    if task.query:
        return QuerySource(bundle, task)
    return BrowseSource(bundle, task, history) if task.similar_to is None else AlikeSource(bundle, task)


class QuerySource:
    """Finds by a query, everywhere or among the items that are like another."""

    def __init__(self, bundle: Bundle, task: SearchTask) -> None:
        """Wrap a search.

        Args:
            bundle: What to search.
            task: What to search for.
        """
        self._bundle = bundle
        self._retriever = bundle.retriever
        self._task = task

    @cached_property
    def _alike(self) -> "AlikeSource | None":
        return None if self._task.similar_to is None else AlikeSource(self._bundle, self._task)

    @cached_property
    def _vector(self) -> FloatArray:
        return self._retriever.encode(self._task.query)

    def find(self, allowed: RowSet | None) -> Candidates:
        """See ``Source``."""
        task = self._task
        if self._alike is not None:
            allowed = RowSet.of(self._alike.find(allowed).rows, self._bundle.columns.n_items)
        return self._retriever.retrieve(
            task.query,
            task.retrieval_depth,
            exact=task.exact,
            allowed=allowed,
            vector=self._vector,
            spelling=task.spelling is Spelling.WORDS,
        )

    def dense(self, rows: IntArray) -> FloatArray:
        """See ``Source``."""
        return self._retriever.vectors_of(rows) @ self._vector

    def explain(self, candidates: Candidates) -> Parts:
        """See ``Source``."""
        return {RETRIEVAL: candidates.scores}


class AlikeSource:
    """Finds items that are like one: by what they are, and by who chose them.

        score(i) = (cos(item, i) + relatedness(item, i)) / 2

    with the inner product of the embeddings, and what ``retrieval.event_log.related_items`` says. Nothing is fitted:
    neither half is known to say more.
    """

    def __init__(self, bundle: Bundle, task: SearchTask) -> None:
        """Look the item up.

        Raises:
            UnknownItem: If the catalogue lacks it.
        """
        row = None if task.similar_to is None else bundle.items.row_of(task.similar_to)
        if row is None:
            raise UnknownItem(
                "expected an item of the catalogue that is served, got none; search by a query instead",
                field="similar_to_item_id",
            )
        self._bundle = bundle
        self._task = task
        self._row = row
        self._vector = bundle.retriever.vectors_of(np.array([row]))[0]

    def find(self, allowed: RowSet | None) -> Candidates:
        """See ``Source``; the item itself is left out."""
        bundle, k = self._bundle, self._task.retrieval_depth
        near, _ = bundle.retriever.near(self._vector, k + 1, exact=self._task.exact, allowed=allowed)
        present = bundle.retriever.present(allowed)
        related, values = bundle.behaviour.related.of(self._row)
        related = related.astype(np.int64)
        if present is not None:
            kept = present.mask[related]
            related, values = related[kept], values[kept]
        rows = np.union1d(near, related)
        rows = rows[rows != self._row]
        chosen = np.zeros(len(rows), dtype=np.float32)
        chosen[np.searchsorted(rows, related)] = values
        dense = self.dense(rows)
        scores = np.float32(0.5) * (dense + chosen)
        best = np.lexsort((rows, -scores))[:k]
        return Candidates(
            rows=rows[best],
            scores=scores[best],
            dense=dense[best],
            lexical=np.full(len(best), np.nan, dtype=np.float32),
            behaviour=chosen[best],
        )

    def dense(self, rows: IntArray) -> FloatArray:
        """See ``Source``."""
        similar: FloatArray = self._bundle.retriever.vectors_of(rows) @ self._vector
        return similar

    def explain(self, candidates: Candidates) -> Parts:
        """See ``Source``; what was not found but pinned has no more than its similarity and what is left."""
        meaning = np.float32(0.5) * candidates.dense
        return {"meaning": meaning, "shoppers": candidates.scores - meaning}


class BrowseSource:
    """Finds within a category without any query: what is popular, and what goes with the shopper's history.

        score(i) = popularity(i)                           for a shopper whose history is related to nothing here
                   (popularity(i) + relatedness(i)) / 2    for any other

    with the logarithm of one more than the weight of the item's choices, and the sum of its relatedness to the
    history's items (``retrieval.event_log.related_items``), each divided by the greatest among the items that may be
    found. Equals come newest first. The trees of a blend play no part: they learned from searches with a query, of
    which most of their numbers speak.
    """

    def __init__(self, bundle: Bundle, task: SearchTask, history: Sequence[HistoryEvent]) -> None:
        """See ``open_source``."""
        self._bundle = bundle
        self._task = task
        rows = (bundle.items.row_of(event.item_id) for event in history[:MAX_HISTORY] if event.item_id)
        self._history = np.array(list(dict.fromkeys(row for row in rows if row is not None)), dtype=np.int64)

    def find(self, allowed: RowSet | None) -> Candidates:
        """See ``Source``; the best in the order that is asked for, not only the best in that of the score."""
        columns, behaviour = self._bundle.columns, self._bundle.behaviour
        present = self._bundle.retriever.present(allowed)
        rows = np.arange(columns.n_items) if present is None else present.rows
        scores = _share(np.log1p(behaviour.popularity[rows], dtype=np.float64))
        _, others, values = behaviour.related.entries(self._history)
        related = _share(np.bincount(others, values, columns.n_items)[rows].astype(np.float64))
        if related.any():
            scores = (scores + related) / 2
        k = self._task.retrieval_depth
        if self._task.wishes.order is Order.RELEVANCE and len(rows) > k:  # most need no sorting
            likely = scores >= np.partition(scores, len(rows) - k)[len(rows) - k]
            rows, scores, related = rows[likely], scores[likely], related[likely]
        relevance = np.lexsort((rows, -columns.updated_at[rows], -scores))  # numpy puts NaN last
        wanted = ordered(rows[relevance], self._task.wishes.order, columns)[:k]
        best = relevance[np.sort(wanted)]
        unknown = np.full(len(best), np.nan, dtype=np.float32)
        return Candidates(
            rows=rows[best],
            scores=scores[best].astype(np.float32),
            dense=unknown,
            lexical=unknown,
            behaviour=related[best].astype(np.float32),
        )

    def dense(self, rows: IntArray) -> FloatArray:
        """See ``Source``."""
        return np.full(len(rows), np.nan, dtype=np.float32)

    def explain(self, candidates: Candidates) -> Parts:
        """See ``Source``."""
        taste = np.float32(0.5) * candidates.behaviour
        return {"popularity": candidates.scores - taste, "taste": taste}


def _share(values: NumberArray) -> NumberArray:
    """Divide by the greatest; nothing is a share of nothing."""
    return values / (values.max(initial=0.0) or 1.0)


def join_rows(candidates: Candidates, rows: IntArray, source: Source) -> Candidates:
    """Put rows that were not found behind those that were, as if retrieval had put them last.

    Args:
        candidates: What was found.
        rows: int64 (n,), none of them among these.
        source: What found them.
    """
    if not len(rows):
        return candidates
    lowest = float(candidates.scores.min()) if len(candidates) else 0.0
    return Candidates(
        rows=np.concatenate([candidates.rows, rows]),
        scores=np.concatenate([candidates.scores, np.full(len(rows), lowest, dtype=np.float32)]),
        dense=np.concatenate([candidates.dense, source.dense(rows)]),
        lexical=np.concatenate([candidates.lexical, np.full(len(rows), np.nan, dtype=np.float32)]),
        behaviour=np.concatenate([candidates.behaviour, np.zeros(len(rows), dtype=np.float32)]),
    )
