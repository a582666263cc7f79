import asyncio
import json
import time

import numpy as np
import pytest

from benchmarks.load_endurance import described, soak, swap
from benchmarks.load_generator import Caller, Fate, Load, Outcome, closed_loop, open_loop
from benchmarks.load_phases import Plan, echo_request, searches
from benchmarks.load_report import Echo, Glue, LoadReport, glue_of, plot_load, recovery_of, step_of
from benchmarks.load_server import copy_of_store, running_server
from corpus.errors import TandemError
from corpus.prepared import Prepared
from corpus.workspace import Workspace


def outcome(due_s: float, latency_ms: float, fate: Fate, work_ms: float = 0.0) -> Outcome:
    return Outcome(due_s=due_s, late_s=0.0, latency_s=latency_ms / 1000, fate=fate, code=fate.value, work_ms=work_ms)


class Slow:
    """A caller without a server, each of whose calls takes half a second."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.in_flight = self.most = 0

    def begin(self) -> float:
        self.began = time.perf_counter()
        return self.began

    async def __call__(self, number: int, due: float) -> Outcome:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.5)
        self.in_flight -= 1
        return outcome(due - self.began, 1000 * (time.perf_counter() - due), Fate.COMPLETE)


async def test_an_open_loop_sends_as_many_as_a_poisson_process_brings_and_no_more_at_once_than_it_may():
    caller = Slow()
    load = await open_loop(caller, rate=200, duration_s=1.0, max_in_flight=20, generator=np.random.default_rng(1))
    n_due = len(load.outcomes) + load.n_unsent
    assert 140 < n_due < 260  # 4 standard deviations
    assert load.n_unsent > 0
    assert caller.most == 20
    gaps = np.diff([each.due_s for each in load.outcomes[:20]])
    assert gaps.std() > 0.3 * gaps.mean()  # arrivals are no drumbeat


async def test_a_closed_loop_never_has_more_calls_in_flight_than_callers():
    caller = Slow()
    load = await closed_loop(caller, n_callers=3, duration_s=1.2)
    assert caller.most == 3
    assert 3 < len(load.outcomes) <= 9
    assert load.duration_s >= 1.2


def test_a_step_counts_late_answers_as_admitted_and_only_timely_ones_as_good():
    outcomes = [
        outcome(0.1, 10, Fate.COMPLETE),
        outcome(0.2, 20, Fate.COMPLETE),
        outcome(0.3, 30, Fate.DEGRADED),
        outcome(0.4, 140, Fate.COMPLETE),  # answered, but too late
        outcome(0.5, 100, Fate.LATE),
        outcome(0.6, 1, Fate.REFUSED),
        outcome(0.7, 3, Fate.REFUSED),
        outcome(0.8, 2, Fate.FAILED),
    ]
    step = step_of(Load(outcomes=outcomes, duration_s=2.0, n_unsent=4), share=10, rate=6, slo_ms=100)
    assert (step.complete, step.degraded, step.goodput) == (1.0, 0.5, 1.5)
    assert step.p50_ms == pytest.approx(30)  # of 10, 20, 30, 100, 140
    assert step.p95_ms == pytest.approx(132)
    assert (step.refusal_p50_ms, step.refusal_p99_ms) == (pytest.approx(2), pytest.approx(2.98))
    assert (step.n_refused, step.n_late, step.n_failed, step.n_unsent) == (2, 1, 1, 4)


def test_glue_is_what_the_stages_do_not_account_for():
    load = Load(
        outcomes=[
            outcome(0, 10, Fate.COMPLETE, work_ms=9),
            outcome(1, 12, Fate.COMPLETE, work_ms=9),
            outcome(2, 30, Fate.DEGRADED, work_ms=28.5),
            outcome(3, 999, Fate.FAILED),
        ],
        duration_s=4.0,
    )
    assert glue_of(load) == Glue(p50_ms=pytest.approx(12), work_p50_ms=pytest.approx(9), glue_p50_ms=pytest.approx(1.5))


def test_recovery_lasts_until_no_more_go_unanswered_than_before():
    def load(*fates: Fate) -> Load:
        return Load(outcomes=[outcome(second, 1, fate) for second, fate in enumerate(fates)], duration_s=len(fates))

    good, bad = [Fate.COMPLETE], [Fate.REFUSED]
    usual = load(*good * 38, *bad * 2)  # 3 of 42: .071
    assert recovery_of(load(*good * 40), usual) == 0.0
    assert recovery_of(load(*good * 20, *bad * 2, *good * 18), usual) == 0.0  # as many as before
    assert recovery_of(load(*[Fate.LATE, Fate.REFUSED, Fate.DEGRADED] * 4, *good * 28), usual) == 3.0  # 5 of 36 may be
    assert recovery_of(load(*good * 8, *bad * 10, *good * 22), usual) == 13.0
    assert recovery_of(load(*bad * 40), usual) is None


def test_a_report_becomes_a_table_and_a_figure(tmp_path):
    few = Load(outcomes=[outcome(0, 10, Fate.COMPLETE)], duration_s=1.0)
    steps = [step_of(few, share=share, rate=share, slo_ms=100) for share in (0.1, 1.0, 10.0)]
    glue = Glue(p50_ms=10, work_p50_ms=9.5, glue_p50_ms=0.5)
    echo = Echo(alone=glue, per_s=3210, cpu_ms=0.25)
    report = LoadReport(slo_ms=100, capacity=1, n_callers=2, steps=steps, recovery_s=None, search=glue, echo=echo)
    assert "| 1000% | 10.0 | 10.0 | 10.0 | 10.0 | 1.0 | 0.0 | 0 | – | 0 |" in report.markdown()
    assert "3,210/s" in report.markdown()
    assert "0.25 ms of the processor" in report.markdown()
    plot_load(report, "a title", tmp_path / "load.png")
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def served_store(built_store, tmp_path_factory) -> Workspace:
    return copy_of_store(built_store, tmp_path_factory.mktemp("load") / "store")


@pytest.fixture(scope="module")
def server(served_store):
    with running_server(served_store, ["server.n_threads=1", "server.default_timeout_ms=60000"]) as server:
        yield server


def plan(**changes: object) -> Plan:
    values = {"shares": (0.5, 5.0), "step_s": 1.0, "loop_s": 0.5, "n_callers": 2, "slo_ms": 5000.0}
    return Plan(**{**values, "max_in_flight": 100, "seed": 3, **changes})


async def test_searches_of_the_store_and_the_echo_are_answered_in_full(server, built_store):
    requests = searches(Prepared(built_store.data), limit=5)
    assert any(request.user_context.events for request in requests)
    caller = Caller(server.address, [*requests, echo_request()], timeout_s=60)
    try:
        load = await closed_loop(caller, n_callers=1, duration_s=1.0)
    finally:
        await caller.close()
    assert {each.fate for each in load.outcomes} == {Fate.COMPLETE}
    assert all(0 < each.work_ms < 1000 * each.latency_s for each in load.outcomes)


async def test_a_soak_tells_what_the_server_holds(server, built_store):
    requests = searches(Prepared(built_store.data), limit=5)
    found = await soak(server, requests, plan(), capacity=10, minutes=0.05)
    assert found.n_calls > 0
    assert found.n_failed == 0
    assert found.rss_mib[1] > 20
    assert found.n_files[1] > 5
    assert found.n_threads[1] > 2
    assert server.usage().cpu_s > 0.1
    assert "rss slope percent per min" in described(found)


async def test_versions_change_to_and_fro_under_load_without_a_failed_call(server, served_store, built_store):
    requests = searches(Prepared(built_store.data), limit=5)
    found = await swap(server, served_store, requests, plan(), capacity=10, n_swaps=2)
    assert found.n_calls > 0
    assert (found.n_failed, found.n_of_other_versions, found.n_mixed_pages) == (0, 0, 0)


def test_a_store_without_a_published_bundle_is_refused(tmp_path):
    with pytest.raises(TandemError, match="run `tandem publish` first"):
        copy_of_store(Workspace(tmp_path / "none"), tmp_path / "copy")


def test_the_command_writes_its_results(built_store, tmp_path):
    from typer.testing import CliRunner

    from benchmarks.__main__ import app

    options = ["--store", str(built_store.root), "--quick", "--step-s", "0.5", "--slo-ms", "2000", "--callers", "2"]
    done = CliRunner().invoke(app, ["load", *options, "--results", str(tmp_path), "--set", "server.n_threads=1"])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "load-quick.json").read_text(encoding="utf-8"))
    assert [step["share"] for step in written["report"]["steps"]] == [0.1, 0.5, 1.0, 2.0, 10.0]
    assert written["machine"]["n_cores"] >= 1
    assert (tmp_path / "load-quick.png").exists()
    assert not list(built_store.root.glob("tmp*"))
