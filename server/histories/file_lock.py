"""A lock between processes, held through a file that the kernel takes back from a process that ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.001  # SQLite's own waiting sleeps up to 100 times as long, while those who come later are served first


class FileLock:
    """A lock that threads hold one at a time, whatever process they are of."""

    def __init__(self, path: Path) -> None:
        """Open the lock's file, or make it.

        Raises:
            OSError: If it can neither be opened nor made.
        """
        self._file = path.open("a")

    @contextmanager
    def hold(self, *, within_s: float) -> Iterator[None]:
        """Wait for the lock, and hold it; for one thread of this process at a time.

        Args:
            within_s: Seconds after which others have had it for too long.
        Raises:
            TimeoutError: If they have.
        """
        deadline = time.monotonic() + within_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"another process has been writing for {within_s:g} s") from exc
                time.sleep(POLL_S)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
