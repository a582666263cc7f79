"""Locks between processes, as files beside the bundles. The system lets go of one when its process ends, however."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corpus.errors import ArtefactError


@contextmanager
def locked(bundles: Path, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of a workspace; yields False if another process has it and there is no waiting.

    Args:
        bundles: The workspace's ``bundles/`` folder; made if missing.
        name: Of the lock's file in it.
        wait: Until whoever has the lock lets go of it.
    Raises:
        ArtefactError: If the folder cannot be written to.
    """
    try:
        bundles.mkdir(parents=True, exist_ok=True)
        file = (bundles / name).open("w")
    except OSError as exc:
        raise ArtefactError(f"expected to write to {bundles}, got: {exc}; free or mend the disk") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
