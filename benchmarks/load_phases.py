"""The parts of a load measurement, in the order in which they are taken."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load_generator import Caller, Load, closed_loop, open_loop
from benchmarks.load_report import ANSWERED, Echo, Glue, LoadReport, glue_of, recovery_of, step_of
from corpus.errors import TandemError
from corpus.prepared import Prepared
from server.api.messages import history_message
from server.pb.tandem.search.v1 import search_pb2

logger = logging.getLogger(__name__)

UNHURRIED_S = 30.0  # deadline where no answer is to be cut short
N_HISTORY = 20  # events that a search brings along
AFTER = 0.5  # share of the capacity at which recovery is looked at
ECHO_CALLERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a measurement is taken."""

    shares: Sequence[float]  # of the capacity, rising; ``AFTER`` is one of them
    step_s: float  # for which each load is offered
    loop_s: float  # of each closed loop
    n_callers: int  # that find the capacity
    slo_ms: float  # the objective, and the deadline of every call
    max_in_flight: int
    seed: int


async def measure(
    address: str,
    requests: Sequence[search_pb2.SearchRequest],
    plan: Plan,
    cpu_s: Callable[[], float] | None = None,
) -> LoadReport:
    """Find the capacity, offer shares of it, and take the time of what is not work.

    Args:
        address: The server's.
        requests: Searches, sent in turn.
        plan: How.
        cpu_s: Tells how much processor time the server has had; None: it cannot be seen.
    Raises:
        TandemError: If the server answers nothing.
    """
    generator = np.random.default_rng(plan.seed)
    search, capacity = await find_capacity(address, requests, plan)
    echo = await measure_echo(address, plan, cpu_s)
    caller = Caller(address, requests, timeout_s=plan.slo_ms / 1000)

    async def offer(share: float) -> Load:
        logger.info("offering %.0f %% of %.1f searches/s", 100 * share, capacity)
        return await open_loop(
            caller,
            rate=share * capacity,
            duration_s=plan.step_s,
            max_in_flight=plan.max_in_flight,
            generator=generator,
        )

    try:
        loads = {share: await offer(share) for share in plan.shares}
        recovery_s = recovery_of(await offer(AFTER), loads[AFTER])
    finally:
        await caller.close()
    return LoadReport(
        slo_ms=plan.slo_ms,
        capacity=capacity,
        n_callers=plan.n_callers,
        steps=[step_of(load, share=share, rate=share * capacity, slo_ms=plan.slo_ms) for share, load in loads.items()],
        recovery_s=recovery_s,
        search=search,
        echo=echo,
    )


async def find_capacity(address: str, requests: Sequence[search_pb2.SearchRequest], plan: Plan) -> tuple[Glue, float]:
    """Let callers search as fast as they are answered; return what one alone saw, and the answers per second of many.

    Raises:
        TandemError: If nothing is answered.
    """
    caller = Caller(address, requests, timeout_s=UNHURRIED_S)
    try:
        await closed_loop(caller, n_callers=1, duration_s=plan.loop_s / 2)  # until both sides are warm
        alone = _answered(await closed_loop(caller, n_callers=1, duration_s=plan.loop_s))
        crowd = _answered(await closed_loop(caller, n_callers=plan.n_callers, duration_s=plan.loop_s))
    finally:
        await caller.close()
    return glue_of(alone), len(crowd.outcomes) / crowd.duration_s


async def measure_echo(address: str, plan: Plan, cpu_s: Callable[[], float] | None) -> Echo:
    """Send the smallest possible search.

    It looks into a category that is empty: it takes the way of any search, but no model has a part in it.

    Raises:
        TandemError: If nothing is answered.
    """
    caller = Caller(address, [echo_request()], timeout_s=UNHURRIED_S)
    try:
        await closed_loop(caller, n_callers=ECHO_CALLERS, duration_s=plan.loop_s / 2)
        alone = _answered(await closed_loop(caller, n_callers=1, duration_s=plan.loop_s))
        before = cpu_s() if cpu_s is not None else 0.0
        crowd = _answered(await closed_loop(caller, n_callers=ECHO_CALLERS, duration_s=plan.loop_s))
        n_calls = len(crowd.outcomes)
        cpu_ms = (cpu_s() - before) * 1000 / n_calls if cpu_s is not None else None
    finally:
        await caller.close()
    return Echo(alone=glue_of(alone), per_s=n_calls / crowd.duration_s, cpu_ms=cpu_ms)


def echo_request() -> search_pb2.SearchRequest:
    """Return a search that costs next to nothing."""
    request = search_pb2.SearchRequest(page_category=["no such category"], page_size=1)
    request.params.retrieval_depth = 1
    request.params.rerank_depth = 0
    request.read_mask.paths.append("item_id")
    return request


def searches(prepared: Prepared, *, limit: int) -> list[search_pb2.SearchRequest]:
    """Return searches of the test split with what their shoppers had done before.

    Args:
        prepared: The store's data.
        limit: How many at most.
    Raises:
        TandemError: If there are none.
    """
    found = [
        search_pb2.SearchRequest(
            query=example.query,
            user_context=search_pb2.UserContext(events=map(history_message, example.history[:N_HISTORY])),
        )
        for example in prepared.examples("test", limit=limit)
    ]
    if not found:
        raise TandemError(f"expected searches in the test split of {prepared.folder}, found none; prepare a longer log")
    return found


def _answered(load: Load) -> Load:
    failed = next((each for each in load.outcomes if each.fate not in ANSWERED), None)
    if failed is not None or not load.outcomes:
        code = failed.code if failed is not None else "nothing at all"
        raise TandemError(f"expected answers without load, got {code}; see the server's log")
    return load
