import logging
import sys

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from corpus import progress
from retrieval.training import callbacks
from retrieval.training.callbacks import CheckpointClock, TrainingProgress

ARGS = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")


def test_every_step_moves_the_bar_once(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []

    def track(iterable, *, description, total):
        assert (description, total) == ("training", 3)
        for number, step in enumerate(iterable):
            seen.append(number)
            yield step
        seen.append(-1)

    monkeypatch.setattr(callbacks, "track", track)
    bar, state, control = TrainingProgress("training"), TrainerState(), TrainerControl()
    state.max_steps = 3
    bar.on_train_begin(ARGS, state, control)
    assert seen == [0]
    for expected in ([0, 1], [0, 1, 2], [0, 1, 2, -1]):
        bar.on_step_end(ARGS, state, control)
        assert seen == expected


def test_a_resumed_training_counts_what_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
    bar, state, control = TrainingProgress("training"), TrainerState(), TrainerControl()
    state.max_steps, state.global_step = 10, 8
    with caplog.at_level(logging.INFO, logger="corpus.progress"):
        bar.on_train_begin(ARGS, state, control)
        bar.on_step_end(ARGS, state, control)
        bar.on_train_end(ARGS, state, control)
    assert "training, resumed after step 8" in caplog.text
    assert "1 of 2" in caplog.text


def test_a_bar_ends_early_without_complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar, state, control = TrainingProgress("training the tiny towers"), TrainerState(), TrainerControl()
    state.max_steps = 100
    bar.on_train_begin(ARGS, state, control)
    bar.on_step_end(ARGS, state, control)
    bar.close()
    bar.close()
    assert "training the tiny towers" in capsys.readouterr().err


def test_the_clock_asks_for_a_checkpoint_when_the_time_has_come(monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr("retrieval.training.callbacks.time.monotonic", lambda: now[0])
    clock, state = CheckpointClock(2.0), TrainerState()
    control = TrainerControl()
    clock.on_train_begin(ARGS, state, control)
    now[0] += 119
    clock.on_step_end(ARGS, state, control)
    assert not control.should_save
    now[0] += 1
    clock.on_step_end(ARGS, state, control)
    assert control.should_save
    clock.on_save(ARGS, state, control)
    control = TrainerControl()
    now[0] += 119
    clock.on_step_end(ARGS, state, control)
    assert not control.should_save


def test_one_process_decides_for_all():
    control = TrainerControl()
    CheckpointClock(0.0, agree=lambda decide: not decide()).on_step_end(ARGS, TrainerState(), control)
    assert not control.should_save
    CheckpointClock(60.0, agree=lambda decide: not decide()).on_step_end(ARGS, TrainerState(), control)
    assert control.should_save
