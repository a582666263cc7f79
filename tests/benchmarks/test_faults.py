import json
import shutil

import pytest
from typer.testing import CliRunner

from benchmarks import faults as benchmark
from benchmarks.__main__ import app
from benchmarks.faults import phase_of
from benchmarks.load_generator import Fate, Outcome


def outcome(latency_s, fate):
    return Outcome(due_s=0.0, late_s=0.0, latency_s=latency_s, fate=fate, code="OK")


def test_a_phase_counts_every_call_and_times_them_all():
    fates = [Fate.COMPLETE] * 97 + [Fate.DEGRADED, Fate.REFUSED, Fate.LATE]
    phase = phase_of([outcome(0.001 * (number + 1), fate) for number, fate in enumerate(fates)])
    assert (phase.n_calls, phase.n_complete, phase.n_degraded, phase.n_refused) == (100, 97, 1, 1)
    assert (phase.n_late, phase.n_failed) == (1, 0)
    assert phase.p50_ms == pytest.approx(50.5)
    assert phase.p99_ms == pytest.approx(99.01)
    assert phase.longest_ms == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["hangs", "redis killed"])
def test_the_command_writes_what_a_fault_costs(built_store, tmp_path, monkeypatch, name):
    if "redis" in name and shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; Debian's package is called so")
    monkeypatch.setattr(benchmark, "FAULTS", [name] if name in benchmark.FAULTS else [])
    monkeypatch.setattr(benchmark, "REDIS_FAULTS", {n: s for n, s in benchmark.REDIS_FAULTS.items() if n == name})
    monkeypatch.setattr(benchmark, "WARM_UP_S", 1.0)
    monkeypatch.setattr(benchmark, "SETTLING_S", 1.0)
    options = ["--store", str(built_store.root), "--phase-s", "3", "--share", "0.2", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, ["faults", *options])
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "faults.json").read_text(encoding="utf-8"))["faults"]
    assert found["name"] == name
    assert found["before"]["n_complete"] > found["before"]["n_failed"] == 0  # all of them, on an idle machine
    during = found["during"]
    assert during["n_calls"] > during["n_complete"] == during["n_failed"] == 0
    assert during["n_degraded"] + during["n_refused"] + during["n_late"] == during["n_calls"]
    assert during["n_degraded"] > 0
    assert found["after"]["n_complete"] > 0
    assert f"| {name} | during |" in (tmp_path / "faults.md").read_text(encoding="utf-8")
