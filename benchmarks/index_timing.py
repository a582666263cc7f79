"""How fast an index answers: one caller, all cores, a filter; and how fast memory can be read at all."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from retrieval.arrays import FloatArray
from retrieval.filtering.row_set import RowSet
from retrieval.vectors.faiss_runtime import faiss
from retrieval.vectors.index_tuning import RECALL_DEPTH, TIE_TOLERANCE
from retrieval.vectors.vector_index import VectorIndex

Search = Callable[[FloatArray], object]  # of one query: float32 (dim,)

MIN_QUERIES, TIMED_SECONDS = 20, 10.0  # of single searches: at least so many, then as many as fit
SHARES = (0.001, 0.01, 0.1, 0.5)  # of the items that a filter allows
N_FILTERED = 100  # queries of filtered searches, each of which may compare with half of the items
READ_BYTES = 2**30


def timings(search: Search, queries: FloatArray) -> dict[str, float]:
    """Measure single searches on one thread, and searches of as many callers as there are cores.

    Returns:
        Milliseconds ``p50`` and ``p99`` and queries per second ``qps`` of one thread, and ``qps_all``.
    """
    faiss.omp_set_num_threads(1)
    search(queries[0])
    taken: list[float] = []
    while len(taken) < MIN_QUERIES or (len(taken) < len(queries) and sum(taken) < TIMED_SECONDS):
        began = time.perf_counter()
        search(queries[len(taken) % len(queries)])
        taken.append(time.perf_counter() - began)
    n_callers = n_cores()
    # OpenMP's number of threads belongs to the thread that sets it
    with ThreadPoolExecutor(n_callers, initializer=faiss.omp_set_num_threads, initargs=(1,)) as callers:
        began = time.perf_counter()
        list(callers.map(lambda row: search(queries[row % len(queries)]), range(n_callers * len(taken))))
        together = time.perf_counter() - began
    milliseconds = np.array(taken) * 1e3
    return {
        "p50": round(float(np.percentile(milliseconds, 50)), 4),
        "p99": round(float(np.percentile(milliseconds, 99)), 4),
        "qps": round(len(taken) / sum(taken), 2),
        "qps_all": round(n_callers * len(taken) / together, 2),
    }


def filtered(index: VectorIndex, queries: FloatArray, seed: int) -> dict[str, dict[str, float]]:
    """Measure searches among shares of the items, drawn at random: recall beside the time of a single search."""
    found = {}
    queries = queries[:N_FILTERED]
    for share in SHARES:
        mask = np.random.default_rng(seed).random(len(index)) < share
        allowed = RowSet(mask)
        if not len(allowed):
            continue
        exact = index.search(queries, RECALL_DEPTH, exact=True, allowed=allowed)
        hits = index.search(queries, RECALL_DEPTH, allowed=allowed)
        recall = float(np.mean(hits.scores >= exact.scores[:, -1:] - TIE_TOLERANCE))
        measured = timings(partial(index.search_one, k=RECALL_DEPTH, allowed=allowed), queries)
        found[f"{share:g}"] = {"recall": round(recall, 4), **measured}
    return found


def bandwidth() -> dict[str, float]:
    """Return bytes per second of reading memory from end to end, by one thread (``one``) and by all (``all``)."""
    numbers = np.ones(READ_BYTES // 4, dtype=np.int32)
    rates = {}
    for name, n_threads in (("one", 1), ("all", n_cores())):
        parts = np.array_split(numbers, n_threads)
        with ThreadPoolExecutor(n_threads) as readers:
            taken = []
            for _ in range(5):
                began = time.perf_counter()
                list(readers.map(np.max, parts))
                taken.append(time.perf_counter() - began)
        rates[name] = numbers.nbytes / min(taken)
    return rates


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
