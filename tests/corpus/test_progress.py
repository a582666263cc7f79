import logging

import pytest

from corpus import progress
from corpus.progress import track


class _Terminal:
    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


def test_every_step_comes_through_unchanged():
    assert list(track(iter([3, 1, 2]), description="counting")) == [3, 1, 2]


def test_a_terminal_sees_a_bar_with_the_description(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(track([1, 2, 3], description="embedding items")) == [1, 2, 3]
    assert "embedding items" in terminal.text
    assert "3/3" in terminal.text


def test_elsewhere_one_line_a_minute_with_rate_and_time_left(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    for _ in track(range(10), description="embedding"):
        now[0] += 25.0
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "embedding: 3 of 10 in 75 s, 0.04/s, 175 s left"
    assert len(lines) == 4  # after 75, 150 and 225 s, and at the end
    assert lines[-1].startswith("embedding: done, 10 in 250 s")


def test_quick_work_logs_nothing(caplog):
    caplog.set_level(logging.INFO)
    list(track(range(3), description="quick"))
    assert not caplog.records


def test_an_error_in_the_work_passes_through():
    def work():
        yield 1
        raise OSError("disk")

    steps = track(work(), description="reading")
    assert next(steps) == 1
    with pytest.raises(OSError, match="disk"):
        next(steps)
