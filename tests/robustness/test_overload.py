"""More searches than the server can answer, and searches with less time than they need.

What an idle machine does in milliseconds is measured by ``python -m benchmarks load``; here is what holds on any.
"""

import asyncio
import time

import numpy as np
import pytest

from benchmarks.load_deadlines import measure_deadlines
from benchmarks.load_generator import Caller, Fate, closed_loop, open_loop
from benchmarks.load_report import ANSWERED
from rerank.scorer import PairScorer
from server.pb.tandem.search.v1 import search_pb2 as pb
from tests.server.gates import QUERY
from tests.server.scraping import scrape, value

N_PLACES = 6
WORK_S = 0.02  # that each run of the cross-encoder takes longer
MOST_PER_S = 500  # that one process can offer beside the server
REQUESTS = [pb.SearchRequest(query=query) for query in (QUERY, "steel pan", "blue hose", "kiri mug")]


@pytest.fixture
def slow_reranker(monkeypatch):
    """A cross-encoder whose capacity does not hang on the machine."""
    heads = PairScorer.heads

    def slow(self, pairs):
        time.sleep(WORK_S)
        return heads(self, pairs)

    monkeypatch.setattr(PairScorer, "heads", slow)


async def watching(server, longest: list[float]) -> None:
    while True:
        samples = await asyncio.to_thread(scrape, server)
        longest.append(value(samples, "tandem_queue_calls", queue="search"))
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_ten_times_the_capacity_is_refused_at_once_and_leaves_no_trace(own_store, serving, slow_reranker, times):
    with serving(own_store, max_waiting_searches=N_PLACES, score_cache_mib=0, repeat_ttl_s=0.0) as (server, client):
        caller = Caller(server.address, REQUESTS, timeout_s=20)
        await closed_loop(caller, n_callers=1, duration_s=0.5)
        crowd = await closed_loop(caller, n_callers=N_PLACES, duration_s=1.5)
        assert {each.fate for each in crowd.outcomes} == {Fate.COMPLETE}
        rate = min(10 * len(crowd.outcomes) / crowd.duration_s, MOST_PER_S)
        inside: list[float] = []
        watch = asyncio.create_task(watching(server, inside))
        load = await open_loop(
            caller, rate=rate, duration_s=2.0 * times, max_in_flight=5000, generator=np.random.default_rng(5)
        )
        watch.cancel()
        fates = {fate: [each for each in load.outcomes if each.fate is fate] for fate in Fate}
        answered = [each for each in load.outcomes if each.fate in ANSWERED]
        assert max(inside) == N_PLACES
        assert not fates[Fate.FAILED] and not fates[Fate.LATE]
        assert len(fates[Fate.REFUSED]) > len(answered) > 0
        # the quick ones: the generator itself is late where other work takes the processor
        refusal_s = np.percentile([each.latency_s - each.late_s for each in fates[Fate.REFUSED]], 10)
        assert refusal_s < np.median([each.latency_s - each.late_s for each in answered])
        peak = len(crowd.outcomes) / crowd.duration_s
        assert len(answered) / load.duration_s > 0.3 * peak  # the generator shares the processor here
        calm = await open_loop(
            caller, rate=0.2 * peak, duration_s=2.0, max_in_flight=5000, generator=np.random.default_rng(6)
        )
        await caller.close()
        late = [each for each in calm.outcomes if each.due_s > 1.0]
        assert {each.fate for each in late} <= {Fate.COMPLETE}
        assert not client.search(QUERY, timeout_s=60).degraded


@pytest.mark.slow
async def test_with_too_little_time_answers_say_what_they_lack_or_do_not_come(own_store, serving, slow_reranker, times):
    with serving(own_store, score_cache_mib=0, repeat_ttl_s=0.0) as (server, client):
        found = await measure_deadlines(server.address, REQUESTS, n_calls=200 * times, n_callers=4, seed=11)
        assert (found.n_failed, found.n_unflagged) == (0, 0)
        assert found.n_late > 0  # 1 ms is too little for anybody
        assert found.n_complete + found.n_degraded > 0
        n_without = found.n_late + found.n_refused  # at once, where the calls before leave too little time
        assert found.n_complete + found.n_degraded + n_without == found.n_calls == 200 * times
        assert found.worst_overrun_ms < 10_000
        assert client.search(QUERY, timeout_s=60).results
