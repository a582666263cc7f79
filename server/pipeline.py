"""One search, top to bottom: filter → retrieve → rerank → present.

Everything around it lives elsewhere: validation in ``requests.py``, threads, admission and paging in ``service.py``.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from corpus.events import HistoryEvent
from indexer.bundle import Bundle
from rerank.heads import N_HEADS
from rerank.reranker import FAILED
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.facets import Facet, count_facet
from retrieval.filters import without
from retrieval.row_set import RowSet
from server.ranking import DegradationReason, Hit, RankedWindow, Ranking, Run, SearchTask
from server.selection import Selection

logger = logging.getLogger(__name__)

RERANKER_FAILED = "a part of the second stage failed; this is the order without it"


class Histories(Protocol):
    """Where the events of shoppers are looked up."""

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        """Return a shopper's events, newest first; none for a shopper never seen."""
        ...


class Pipeline:
    """Searches one bundle. Whoever holds a pipeline holds one version, whatever is published meanwhile."""

    def __init__(self, bundle: Bundle, histories: Histories, *, hide_out_of_stock: bool = False) -> None:
        """Wrap an open bundle.

        Args:
            bundle: What to search.
            histories: Where histories are looked up that a search does not bring along.
            hide_out_of_stock: Find no items of which the catalogue says that they are not in stock.
        """
        self.bundle = bundle
        self._histories = histories
        self._hides = hide_out_of_stock
        self._selection = Selection(bundle.columns, hide_out_of_stock=hide_out_of_stock)

    def under(self, bundle: Bundle) -> "Pipeline":
        """Return the pipeline over a snapshot of the same bundle under live updates.

        Args:
            bundle: With the same models and indexes.
        """
        if bundle is self.bundle:
            return self
        return Pipeline(bundle, self._histories, hide_out_of_stock=self._hides)

    def search(self, task: SearchTask, run: Run) -> RankedWindow:
        """Find and order the candidates of one search.

        A stage that fails or has no time left is skipped if an answer can be given without it, and named in
        ``run.degraded``.

        Args:
            task: What to search for.
            run: The clock; gathers timings and degradations.
        Raises:
            DeadlineExceeded: If the deadline passes before candidates are found.
        """
        run.check_time()
        with run.stage("history"):
            history = self._recall(task, run)
        with run.stage("filter"):
            allowed = self._selection.rows(task.filter)
        with run.stage("retrieve"):
            candidates = self.bundle.retriever.retrieve(task.query, task.retrieval_depth, allowed=allowed)
        facets: tuple[Facet, ...] = ()
        if task.facets:  # before reranking, which takes what time there is
            with run.stage("facets"):
                facets = self._count(task, candidates.rows, run)
        with run.stage("rerank"):
            ranking = self._rerank(task, history, candidates, run)
        manifest = self.bundle.manifest
        return RankedWindow(
            ranking=ranking,
            items=self.bundle.items,
            index_version=manifest.version,
            retriever_version=manifest.retriever.fingerprint,
            reranker_version=manifest.reranker.fingerprint if manifest.reranker else "",
            blend_version=manifest.blend.fingerprint if manifest.blend else "",
            degraded=tuple(run.degraded),
            facets=facets,
        )

    def order(self, task: SearchTask, rows: IntArray, run: Run) -> Ranking:
        """Order given items as a search that finds exactly these would, whether or not they are in stock.

        Args:
            task: Query and shopper; depths, filter and facets are not heeded.
            rows: int64 (n,) of the items, each once.
            run: The clock; gathers timings and degradations.
        Raises:
            DeadlineExceeded: If the deadline passes before anything is known of the items.
        """
        run.check_time()
        with run.stage("history"):
            history = self._recall(task, run)
        with run.stage("retrieve"):
            these = RowSet.of(rows, self.bundle.columns.n_items)
            candidates = self.bundle.retriever.retrieve(task.query, len(rows), allowed=these)
        with run.stage("rerank"):
            return self._rerank(replace(task, rerank_depth=len(rows)), history, candidates, run)

    def _count(self, task: SearchTask, rows: IntArray, run: Run) -> tuple[Facet, ...]:
        """Count facets over the candidates; for those that leave conditions out, over what would be found without."""
        found = {task.filter: rows}  # filter → candidates
        facets = []
        for spec in task.facets:
            wanted = without(task.filter, spec.excluded_filter_keys) if task.filter is not None else None
            if wanted not in found:
                if not run.has_time():
                    run.degrade(DegradationReason.DEADLINE, f"there was no time to count the facet {spec.field}")
                    continue
                allowed = self._selection.rows(wanted)
                more = self.bundle.retriever.retrieve(task.query, task.retrieval_depth, allowed=allowed)
                found[wanted] = more.rows
            facets.append(count_facet(spec, found[wanted], self.bundle.columns))
        return tuple(facets)

    def _recall(self, task: SearchTask, run: Run) -> Sequence[HistoryEvent]:
        if task.events is not None:
            return task.events
        if task.shopper is None:
            return ()
        try:
            return self._histories.history(task.shopper)
        except Exception as exc:  # a search without its history is better than none
            logger.warning("history unavailable", exc_info=exc)
            run.history_errors.append("read")
            run.degrade(DegradationReason.HISTORY_UNAVAILABLE, "the history could not be read; ordered without it")
            return ()

    def _rerank(self, task: SearchTask, history: Sequence[HistoryEvent], candidates: Candidates, run: Run) -> Ranking:
        """Order the candidates by the second stage; without one, as retrieval did."""
        reranker = self.bundle.reranker
        depth = min(task.rerank_depth, len(candidates))
        run.rerank_depth = depth if reranker is not None else 0
        if reranker is None or depth == 0:
            return _as_retrieved(candidates)
        try:
            reranked = reranker.rerank(task.query, history, candidates, depth=depth, deadline=run.deadline)
        except Exception as exc:  # the order of retrieval is the floor
            logger.error("reranker failed", exc_info=exc)
            run.degrade(DegradationReason.RERANKER_FAILED, RERANKER_FAILED)
            return _as_retrieved(candidates)
        run.n_reranked = reranked.n_scored
        if reranked.degraded == FAILED:
            run.degrade(DegradationReason.RERANKER_FAILED, RERANKER_FAILED)
        elif reranked.degraded is not None:
            run.degrade(DegradationReason.DEADLINE, _no_time(reranked.n_scored, depth))
        ordered = candidates.take(reranked.order)
        return Ranking(
            rows=ordered.rows,
            scores=reranked.scores,
            retrieval=ordered.scores,
            dense=ordered.dense,
            lexical=ordered.lexical,
            behaviour=ordered.behaviour,
            rerank=reranked.rerank_scores,
            probabilities=reranked.probabilities,
        )


def present(window: RankedWindow, *, offset: int, page_size: int) -> tuple[Hit, ...]:
    """Cut one page from a ranking and fetch its items.

    Args:
        window: The ranking.
        offset: Results to skip, from 0.
        page_size: Results wanted; fewer come from the end of the window.
    """
    end = min(offset + page_size, len(window.ranking))
    return tuple(_hit(window, position) for position in range(offset, end))


def _hit(window: RankedWindow, position: int) -> Hit:
    ranking = window.ranking
    click, cart, purchase = (_or_none(chance) for chance in ranking.probabilities[position])
    return Hit(
        item=window.items.item(int(ranking.rows[position])),
        rank=position + 1,
        score=float(ranking.scores[position]),
        retrieval_score=float(ranking.retrieval[position]),
        dense_score=float(ranking.dense[position]),
        lexical_score=_or_none(ranking.lexical[position]),
        behaviour_score=float(ranking.behaviour[position]) or None,
        rerank_score=_or_none(ranking.rerank[position]),
        click_probability=click,
        cart_probability=cart,
        purchase_probability=purchase,
    )


def _as_retrieved(candidates: Candidates) -> Ranking:
    return Ranking(
        rows=candidates.rows,
        scores=candidates.scores,
        retrieval=candidates.scores,
        dense=candidates.dense,
        lexical=candidates.lexical,
        behaviour=candidates.behaviour,
        rerank=_unknown(len(candidates)),
        probabilities=_unknown(len(candidates), N_HEADS),
    )


def _unknown(*shape: int) -> FloatArray:
    return np.full(shape, np.nan, dtype=np.float32)


def _no_time(n_scored: int, depth: int) -> str:
    return f"there was time to rerank {n_scored} of {depth} candidates; the others are ordered without it"


def _or_none(number: np.float32) -> float | None:
    return None if np.isnan(number) else float(number)
