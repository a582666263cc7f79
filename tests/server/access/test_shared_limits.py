from contextlib import closing

import pytest

from server.access.shared_limits import GROUP, N_GROUPS, SharedCallerLimits


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def both(tmp_path, clock):
    """What two processes hold, over one file."""
    limits = [SharedCallerLimits(tmp_path / "callers", 2.0, now=lambda: clock[0]) for _ in range(2)]
    with closing(limits[0]), closing(limits[1]):
        yield limits


def test_processes_draw_from_one_bucket(both, clock):
    one, two = both
    assert [one.take("a"), two.take("a"), one.take("a"), two.take("a")] == [0.0, 0.0, 0.5, 0.5]
    clock[0] += 0.25
    assert two.take("a") == 0.25
    clock[0] += 0.25
    assert (one.take("a"), two.take("a")) == (0.0, 0.5)


def test_a_bucket_holds_a_seconds_worth_however_long_nobody_calls(both, clock):
    one, two = both
    one.take("a")
    clock[0] += 3600
    assert [two.take("a"), one.take("a"), two.take("a")] == [0.0, 0.0, 0.5]


def test_callers_do_not_share_a_bucket(both):
    one, two = both
    assert [one.take("a"), one.take("a"), two.take("b"), two.take("b")] == [0.0] * 4
    assert one.take("a") == two.take("b") == 0.5


def test_a_rate_below_one_call_a_second_lets_one_call_in(tmp_path, clock):
    with closing(SharedCallerLimits(tmp_path / "callers", 0.1, now=lambda: clock[0])) as limits:
        assert (limits.take("a"), limits.take("a")) == (0.0, 10.0)


def test_the_caller_that_has_not_called_for_longest_makes_room(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("server.access.shared_limits.N_GROUPS", 1)
    with closing(SharedCallerLimits(tmp_path / "callers", 1.0, now=lambda: clock[0])) as limits:
        for number in range(GROUP + 1):  # the first is forgotten
            clock[0] += 0.001
            assert limits.take(f"caller {number}") == 0.0
        assert limits.take("caller 1") > 0
        assert limits.take("caller 0") == 0.0


def test_the_file_has_room_for_more_callers_than_one_process_remembers():
    from server.access.rate_limit import MAX_CALLERS

    assert N_GROUPS * GROUP > MAX_CALLERS
