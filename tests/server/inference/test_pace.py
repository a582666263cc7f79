import math

import pytest

from retrieval.engines.batches import SETUP_TOKENS
from server.inference.pace import LEAST_S, N_RECENT, SLOW, Pace

N_TOKENS = 1000
pytestmark = pytest.mark.pace


def run(pace: Pace, times: float, *, n: int = 1, n_tokens: int = N_TOKENS) -> None:
    """Note runs that take so many milliseconds for a token."""
    for _ in range(n):
        pace.note(n_tokens, times * (n_tokens + SETUP_TOKENS) / 1000)


def test_a_model_that_runs_as_ever_is_not_slow():
    pace = Pace()
    for n_tokens in (10, 4000, 100, 1000, 50, 600, 20):
        run(pace, 1.0, n_tokens=n_tokens)
        assert pace.patience_s(N_TOKENS) == math.inf


def test_slowness_is_measured_by_what_was_usual():
    pace = Pace()
    run(pace, 1.0, n=N_RECENT)
    run(pace, SLOW - 0.1, n=N_RECENT)
    assert pace.patience_s(N_TOKENS) == math.inf
    run(pace, SLOW + 0.1, n=N_RECENT)
    assert pace.patience_s(N_TOKENS) == pytest.approx((N_TOKENS + SETUP_TOKENS) / 1000)
    assert pace.patience_s(0) == pytest.approx(SETUP_TOKENS / 1000)
    run(pace, SLOW - 0.1)
    assert pace.patience_s(N_TOKENS) == math.inf


def test_only_runs_that_are_all_slow_say_that_the_model_is():
    pace = Pace()
    run(pace, 1.0, n=N_RECENT)
    for _ in range(3):
        run(pace, 1000.0, n=N_RECENT - 1)
        assert pace.patience_s(N_TOKENS) == math.inf
        run(pace, 1.0)
    run(pace, 1000.0, n=N_RECENT)
    assert pace.patience_s(N_TOKENS) < math.inf


def test_a_lucky_run_is_not_what_is_usual():
    pace = Pace()
    run(pace, 1.0, n=N_RECENT)
    run(pace, 0.01)
    run(pace, 1.0, n=2 * N_RECENT)
    assert pace.patience_s(N_TOKENS) == math.inf


def test_what_grows_slow_by_and_by_is_slow():
    pace = Pace()
    times = 1.0
    while times < 3 * SLOW:
        run(pace, times)
        times *= 1.05
    assert pace.patience_s(0) == pytest.approx(SETUP_TOKENS / 1000, rel=0.2)


def test_what_is_soon_done_may_take_its_time():
    pace = Pace()
    run(pace, 0.001, n=N_RECENT)
    run(pace, 1.0, n=N_RECENT)
    assert pace.patience_s(N_TOKENS) == LEAST_S


def test_a_model_that_was_never_faster_is_as_usual():
    pace = Pace()
    run(pace, 100.0, n=3 * N_RECENT)
    assert pace.patience_s(N_TOKENS) == math.inf
    run(pace, 1.0, n=N_RECENT)
    run(pace, 100.0, n=N_RECENT)
    assert pace.patience_s(N_TOKENS) < math.inf
