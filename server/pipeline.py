"""One search, top to bottom: filter → retrieve → rerank → arrange → present.

Everything around it lives elsewhere: validation in ``api/requests.py``, threads, admission and paging in
``rankings/answers.py``.
"""

import itertools
import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from corpus.events import HistoryEvent
from indexer.bundle import Bundle
from rerank.heads import N_HEADS
from rerank.parts import PartsOf, take_parts
from rerank.reranker import DEADLINE, FAILED, SLOW, Reranked
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.filtering.facets import Facet, count_facet
from retrieval.filtering.filters import without
from retrieval.filtering.row_set import RowSet
from server.inference.breaker import STUCK_S, Breaker, Breakers
from server.stages.arrangement import arrange, cut
from server.stages.explanations import contributions
from server.stages.ranking import DegradationReason, Hit, RankedWindow, Ranking, Run, SearchTask
from server.stages.selection import Selection
from server.stages.sources import Source, join_rows, open_source
from server.stages.wishes import Spelling

logger = logging.getLogger(__name__)

_NUMBERS = itertools.count()
RERANKER_FAILED = "a part of the second stage failed; this is the order without it"
NO_HISTORY = "the history could not be read; ordered without it"
NO_PROBABILITY = "how likely the items are to be bought is not known, so that the less likely ones are not left out"


class Histories(Protocol):
    """Where the events of shoppers are looked up."""

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        """Return a shopper's events, newest first; none for a shopper never seen."""
        ...


class Pipeline:
    """Searches one bundle. Whoever holds a pipeline holds one version, whatever is published meanwhile."""

    def __init__(
        self,
        bundle: Bundle,
        histories: Histories,
        *,
        hide_out_of_stock: bool = False,
        breakers: Breakers | None = None,
        opening: int | None = None,
    ) -> None:
        """Wrap an open bundle.

        Args:
            bundle: What to search.
            histories: Where histories are looked up that a search does not bring along.
            hide_out_of_stock: Find no items of which the catalogue says that they are not in stock.
            breakers: What is known of parts that fail; None: nothing.
            opening: Number of the pipeline over the bundle as it was opened; None: this one.
        """
        self.bundle = bundle
        self.number = next(_NUMBERS)  # no other pipeline of the process has it: it stands for the snapshot searched
        self.opening = self.number if opening is None else opening  # for the catalogue, which all snapshots share
        self.breakers = breakers or Breakers()
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
        return Pipeline(
            bundle, self._histories, hide_out_of_stock=self._hides, breakers=self.breakers, opening=self.opening
        )

    def search(self, task: SearchTask, run: Run) -> RankedWindow:
        """Find and order the candidates of one search.

        A stage that fails or has no time left is skipped if an answer can be given without it, and named in
        ``run.degraded``.

        Args:
            task: What to search for.
            run: The clock; gathers timings and degradations.
        Raises:
            DeadlineExceeded: If the deadline passes before candidates are found.
            UnknownItem: If the results are to be like an item that the catalogue lacks.
        """
        run.check_time()
        history = self.recall(task, run) if task.events is None else task.events
        with run.stage("filter"):
            left_out = self._rows_of(task.excluded)
            allowed = self._selection.rows(task.filter, category=task.category, without=left_out)
            pins = self._pins(task, allowed)
        with run.stage("retrieve"):
            correction = self._correct(task)
            if correction is not None and task.spelling is Spelling.AUTO:
                task = replace(task, query=correction)
            source = open_source(self.bundle, task, history)
            candidates = source.find(allowed)
            if pins:
                missing = np.setdiff1d(np.array(list(pins.values()), dtype=np.int64), candidates.rows)
                candidates = join_rows(candidates, missing, source)
        facets: tuple[Facet, ...] = ()
        if task.facets:  # before reranking, which takes what time there is
            with run.stage("facets"):
                facets = self._count(task, source, candidates.rows, left_out, run)
        with run.stage("rerank"):
            # what is not likely enough to be bought is left out, and so would be what nobody read
            whole = task.wishes.least_probability > 0
            ranking = self._rerank(task, history, candidates, source, run, whole=whole)
        ranking, no_match = self._cut(task, ranking, pins.values(), run)
        ranking = arrange(ranking, task.wishes, self.bundle.columns, pins, self.bundle.retriever.vectors_of)
        if task.explain and not run.has_time():
            run.degrade(DegradationReason.DEADLINE, "there was no time to explain the results")
            ranking = replace(ranking, parts_of=None)
        manifest = self.bundle.manifest
        return RankedWindow(
            ranking=ranking,
            items=self.bundle.items,
            opening=self.opening,
            index_version=manifest.version,
            retriever_version=manifest.retriever.fingerprint,
            reranker_version=manifest.reranker.fingerprint if manifest.reranker else "",
            blend_version=manifest.blend.fingerprint if manifest.blend else "",
            degraded=tuple(run.degraded),
            facets=facets,
            pinned=frozenset(pins.values()),
            corrected_query=correction or "",
            no_match=no_match,
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
        history = self.recall(task, run) if task.events is None else task.events
        with run.stage("retrieve"):
            task = replace(task, retrieval_depth=len(rows), rerank_depth=len(rows))
            source = open_source(self.bundle, task, history)
            candidates = source.find(RowSet.of(rows, self.bundle.columns.n_items))
        with run.stage("rerank"):
            return self._rerank(task, history, candidates, source, run, whole=True)

    def _rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """Return the rows of those items that the catalogue has."""
        rows = (self.bundle.items.row_of(item_id) for item_id in item_ids)
        return [row for row in rows if row is not None]

    def _pins(self, task: SearchTask, allowed: RowSet | None) -> dict[int, int]:
        """Return rank → row of the pins that may be found: catalogues change, and a filter holds for pins as well."""
        rows = ((pin.rank, self.bundle.items.row_of(pin.item_id)) for pin in task.wishes.pins)
        return {rank: row for rank, row in rows if row is not None and (allowed is None or allowed.mask[row])}

    def _cut(self, task: SearchTask, ranking: Ranking, pinned: Collection[int], run: Run) -> tuple[Ranking, bool]:
        """Leave out what is not likely enough to be bought; also tell whether that was everything."""
        least = task.wishes.least_probability
        if least <= 0:
            return ranking, False
        left = cut(ranking, least, pinned)
        if left is None:
            run.degrade(DegradationReason.PROBABILITY_UNKNOWN, NO_PROBABILITY)
            return ranking, False
        return left[0], left[1] == 0

    def _count(
        self, task: SearchTask, source: Source, rows: IntArray, left_out: list[int], run: Run
    ) -> tuple[Facet, ...]:
        """Count facets over the candidates; for those that leave conditions out, over what would be found without."""
        found = {task.filter: rows}  # filter → candidates
        facets = []
        for spec in task.facets:
            wanted = without(task.filter, spec.excluded_filter_keys) if task.filter is not None else None
            if wanted not in found:
                if not run.has_time():
                    run.degrade(DegradationReason.DEADLINE, f"there was no time to count the facet {spec.field}")
                    continue
                found[wanted] = source.find(self._selection.rows(wanted, category=task.category, without=left_out)).rows
            facets.append(count_facet(spec, found[wanted], self.bundle.columns))
        return tuple(facets)

    def recall(self, task: SearchTask, run: Run) -> tuple[HistoryEvent, ...]:
        """Return the history that a search is to be answered with, the events of its visit first.

        Args:
            task: Brings the history along, or says whose is to be looked up; of an anonymous shopper it is empty.
            run: The clock; degraded if the history cannot be read.
        """
        with run.stage("history"):
            return self._recall(task, run)

    def _recall(self, task: SearchTask, run: Run) -> tuple[HistoryEvent, ...]:
        if task.events is not None:
            return task.events
        if task.shopper is None:
            return ()
        breaker = self.breakers.history
        if not breaker.admits():
            run.degrade(DegradationReason.HISTORY_UNAVAILABLE, NO_HISTORY)
            return ()
        try:
            history = self._histories.history(task.shopper)
        except Exception as exc:  # a search without its history is better than none
            # its type alone: messages may quote the shopper, and a trace at every search would fill the disk
            logger.warning("history unavailable: %s", type(exc).__qualname__)
            breaker.note(failed=True)
            run.history_errors.append("read")
            run.degrade(DegradationReason.HISTORY_UNAVAILABLE, NO_HISTORY)
            return ()
        breaker.note(failed=False)
        if task.session is None:
            return history
        # stable: newest first within the visit, and behind it
        return tuple(sorted(history, key=lambda event: event.session_id != task.session))

    def _correct(self, task: SearchTask) -> str | None:
        return self.bundle.retriever.correct(task.query) if task.query and task.spelling is not Spelling.OFF else None

    def _rerank(
        self,
        task: SearchTask,
        history: Sequence[HistoryEvent],
        candidates: Candidates,
        source: Source,
        run: Run,
        *,
        whole: bool,
    ) -> Ranking:
        """Order the candidates by the second stage; without one, as retrieval did.

        Args:
            task: What is searched.
            history: The shopper's events.
            candidates: What was found.
            source: What found it.
            run: The clock; takes up what was read.
            whole: Whether the cross-encoder reads to the full depth, also what is hardly worth it.
        """
        unread = _as_retrieved(candidates, partial(take_parts, source.explain(candidates)) if task.explain else None)
        reranker = self.bundle.reranker
        depth = min(task.rerank_depth, len(candidates))
        run.rerank_depth = depth if reranker is not None else 0
        if reranker is None or depth == 0 or not task.query:  # the second stage learned from searches with a query
            return unread
        breaker = self.breakers.reranker
        is_asked = breaker.admits(is_stuck=reranker.scorer.busy_s > STUCK_S)
        try:
            deadline = run.midway if task.explain else run.deadline  # explaining takes time of its own
            reranked = reranker.rerank(
                task.query,
                history,
                candidates,
                depth=depth if is_asked else 0,  # what the blend knows by itself is better than nothing
                deadline=deadline,
                whole=whole,
                explain=task.explain,
            )
        except Exception as exc:  # the order of retrieval is the floor
            logger.error("reranker failed", exc_info=exc)
            breaker.note(failed=True)
            run.degrade(DegradationReason.RERANKER_FAILED, RERANKER_FAILED)
            return unread
        run.n_reranked = reranked.n_scored
        run.rerank_depth = depth if reranked.n_wanted is None else reranked.n_wanted
        if is_asked:
            _judge(breaker, reranked)
        if reranked.degraded == FAILED or not is_asked:
            run.degrade(DegradationReason.RERANKER_FAILED, RERANKER_FAILED)
        elif reranked.degraded == SLOW:
            run.degrade(DegradationReason.RERANKER_SLOW, _slow(reranked.n_scored, run.rerank_depth))
        elif reranked.degraded is not None:
            run.degrade(DegradationReason.DEADLINE, _no_time(reranked.n_scored, run.rerank_depth))
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
            parts_of=reranked.parts_of,
        )


def present(window: RankedWindow, *, offset: int, page_size: int) -> tuple[Hit, ...]:
    """Cut one page from a ranking and fetch its items.

    Args:
        window: The ranking.
        offset: Results to skip, from 0.
        page_size: Results wanted; fewer come from the end of the window.
    """
    ranking, end = window.ranking, min(offset + page_size, len(window.ranking))
    page = slice(offset, end)
    parts = ranking.parts_of(np.arange(offset, end)) if ranking.parts_of is not None and offset < end else None
    numbers = zip(*(column[page].tolist() for column in ranking.columns), strict=True)
    hits = []
    for place, (row, score, retrieval, dense, lexical, behaviour, rerank, chances) in enumerate(numbers):
        click, cart, purchase = map(_or_none, chances)
        hits.append(
            Hit(
                item=window.items.item(row),
                rank=offset + place + 1,
                score=score,
                retrieval_score=retrieval,
                dense_score=_or_none(dense),
                lexical_score=_or_none(lexical),
                behaviour_score=behaviour or None,
                rerank_score=_or_none(rerank),
                click_probability=click,
                cart_probability=cart,
                purchase_probability=purchase,
                explanation=contributions(parts, place, is_pinned=row in window.pinned),
            )
        )
    return tuple(hits)


def _judge(breaker: Breaker, reranked: Reranked) -> None:
    """Note whether the second stage works; that it had no time for one search among many says nothing of it."""
    is_stuck = reranked.n_scored == 0 and reranked.busy_s > STUCK_S  # it hangs, or is far too slow
    if is_stuck or reranked.n_scored > 0 or reranked.degraded not in (DEADLINE, SLOW):
        breaker.note(failed=is_stuck or reranked.degraded == FAILED)


def _as_retrieved(candidates: Candidates, parts_of: PartsOf | None) -> Ranking:
    return Ranking(
        rows=candidates.rows,
        scores=candidates.scores,
        retrieval=candidates.scores,
        dense=candidates.dense,
        lexical=candidates.lexical,
        behaviour=candidates.behaviour,
        rerank=_unknown(len(candidates)),
        probabilities=_unknown(len(candidates), N_HEADS),
        parts_of=parts_of,
    )


def _unknown(*shape: int) -> FloatArray:
    return np.full(shape, np.nan, dtype=np.float32)


def _no_time(n_scored: int, depth: int) -> str:
    return f"there was time to rerank {n_scored} of {depth} candidates; the others are ordered without it"


def _slow(n_scored: int, depth: int) -> str:
    return f"the reranker is far slower than it has been: it read {n_scored} of {depth} candidates"


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
