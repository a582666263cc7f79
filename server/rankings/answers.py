"""From a search to the ranking that answers it: one that was made before, or a new one.

A repeated search takes no place among the searches, and says nothing of their pace: it costs next to nothing, and is
answered while others wait, as long as there is room for any search (``server.calls.load_shedding``).
"""

import time
from dataclasses import dataclass, replace

from server.api.requests import SearchCall
from server.calls.admission import Admission
from server.config import ServerConfig
from server.inference.search_threads import Threads, in_thread
from server.pipeline import Pipeline
from server.rankings.kept_rankings import KeptRanking, KeptRankings
from server.rankings.pages import Page, PageSpec, write_page
from server.rankings.ranking_keys import RankingKeys
from server.stages.ranking import RankedWindow, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One search and what is known of it before any work is done."""

    pipeline: Pipeline  # of the version that answers, whatever is published meanwhile
    call: SearchCall
    key: bytes | None = None  # under which its ranking is kept; None: it is not to answer other searches
    known: KeptRanking | None = None  # the ranking that was made for the same search before


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One page."""

    search_id: str
    kept: KeptRanking
    page: Page


class Answers:
    """Answers searches page by page. For the event loop's thread."""

    def __init__(self, config: ServerConfig, threads: Threads, places: Admission, *, process: int | None) -> None:
        """Begin without rankings.

        Args:
            config: Limits.
            threads: Where the work is done.
            places: For searches that are not repeated ones, and for further pages.
            process: Number of this one of several serving processes.
        """
        self.rankings = KeptRankings(
            page_ttl_s=config.page_ttl_s,
            repeat_ttl_s=config.repeat_ttl_s,
            max_bytes=config.ranking_cache_mib << 20,
            process=process,
        )
        self.repeats = Admission(config.max_waiting_searches)  # looking histories up, and repeated searches
        self._keys = RankingKeys()
        self._threads = threads
        self._places = places

    async def ask(self, pipeline: Pipeline, call: SearchCall, run: Run) -> Asked:
        """Look the history up, and whether the same search was answered before.

        Args:
            pipeline: Of the version that is to answer.
            call: The search.
            run: The clock; gathers timings and degradations.
        Raises:
            DeadlineExceeded: If the deadline passes before the history is looked up.
            Overloaded: If too many searches wait for their histories.
        """
        if call.page_token is not None or not self.rankings.repeats:
            return Asked(pipeline=pipeline, call=call)
        if call.task.events is None and call.task.shopper is not None:
            with self.repeats.admit():
                history = await in_thread(self._threads.disk, run, pipeline.recall, call.task, run)
        else:
            history = pipeline.recall(call.task, run)  # which looks nothing up
        call = replace(call, task=replace(call.task, events=history))
        if run.degraded:  # neither is this a full answer, nor would one to a shopper without history be this one's
            return Asked(pipeline=pipeline, call=call)
        began = time.perf_counter()
        key = self._keys.of(pipeline.number, call.task)
        known = self.rankings.repeat(key)
        if known is not None:
            run.note("repeat", began)
        return Asked(pipeline=pipeline, call=call, key=key, known=known)

    async def answer(self, asked: Asked, run: Run) -> Answer:
        """Search, or take the ranking that is known, and cut the page.

        Args:
            asked: From ``ask``.
            run: The clock; gathers timings and degradations.
        Raises:
            BadPageToken: If a page is asked for by a token that is not good for it.
            DeadlineExceeded: If the deadline passes first.
            Overloaded: If there is no place for the search.
        """
        call, kept = asked.call, asked.known
        spec = PageSpec(offset=call.offset, page_size=call.page_size, item_fields=call.item_fields)
        if call.page_token is not None:
            with self._places.admit():
                search_id, kept, offset = self.rankings.find(call.page_token, call.digest)
                page = await self._cut(kept, replace(spec, offset=offset), run)
            return Answer(search_id=search_id, kept=kept, page=page)
        if kept is not None:
            with self.repeats.admit():
                page = await self._cut(kept, spec, run)
        else:
            with self._places.admit(run.deadline, is_whole=run.had_time):
                window, page = await in_thread(self._threads.search, run, _first_page, asked, spec, run)
            kept = self.rankings.keep(window, asked.key, page)
        return Answer(search_id=self.rankings.new_search_id(), kept=kept, page=page)

    async def _cut(self, kept: KeptRanking, spec: PageSpec, run: Run) -> Page:
        """Cut a page of a kept ranking. Its items are in memory: a thread would cost more than they do."""
        if kept.page is not None and kept.page.spec == spec:
            return kept.page
        if kept.window.ranking.parts_of is None:
            return _page(kept.window, spec, run)
        return await in_thread(self._threads.disk, run, _page, kept.window, spec, run)  # trees are asked why


def _first_page(asked: Asked, spec: PageSpec, run: Run) -> tuple[RankedWindow, Page]:
    window = asked.pipeline.search(asked.call.task, run)
    return window, _page(window, spec, run)


def _page(window: RankedWindow, spec: PageSpec, run: Run) -> Page:
    with run.stage("present"):
        return write_page(window, spec)
