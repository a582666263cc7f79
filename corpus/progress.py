"""Progress of long work: a bar with a rate and an ETA on a terminal, one log line a minute elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_INTERVAL_SECONDS = 60.0


def track(iterable: Iterable[T], *, description: str, total: int | None = None) -> Iterator[T]:
    """Yield from an iterable and show how far it has come.

    The bar goes to the standard error stream, so that ``--json`` output stays clean.

    Args:
        iterable: The work, one step at a time.
        description: What is being done, such as "embedding items".
        total: Number of steps, if the iterable has no length.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        return _bar(iterable, description, total)
    return _log_lines(iterable, description, total)


def _bar(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(iterable, description=description, total=total)


def _log_lines(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    began = logged = time.monotonic()
    done = 0
    for done, step in enumerate(iterable, start=1):
        yield step
        now = time.monotonic()
        if now - logged >= LOG_INTERVAL_SECONDS:
            logged = now
            logger.info("%s: %s", description, _state(done, total, now - began))
    if time.monotonic() - began >= LOG_INTERVAL_SECONDS:
        logger.info("%s: done, %s", description, _state(done, total, time.monotonic() - began))


def _state(done: int, total: int | None, seconds: float) -> str:
    rate = done / seconds if seconds > 0 else 0.0
    text = f"{done:,} in {seconds:.0f} s, {rate:.3g}/s"
    if total and rate > 0 and done < total:
        text = f"{done:,} of {total:,} in {seconds:.0f} s, {rate:.3g}/s, {(total - done) / rate:.0f} s left"
    return text
