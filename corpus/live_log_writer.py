"""Who appends to the write-ahead log of live updates; ``corpus.live_log`` has its format."""

import fcntl
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from corpus.errors import ArtefactError, UpdatesRefused
from corpus.folders import fsync_path
from corpus.live_log import LOG_FILE, Change, Held, LogContent, file_head, read_log, record_of, unusable

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"
IDENTITY_BYTES = 16


class LiveLogWriter:
    """The one process that appends. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Take the log over, or begin one, and cut off what a crash left half-written.

        Args:
            folder: The workspace's ``live/`` folder; made if missing.
        Raises:
            UpdatesRefused: If another process writes.
            ArtefactError: If the log is damaged, or the folder cannot be written to.
        """
        self._path = folder / LOG_FILE
        self.identity = ""  # of the log
        self.last = 0  # number of the newest change
        self._base = self._end = 0
        self._fault: str | None = None
        self._file = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise unusable(self._path, exc) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            raise UpdatesRefused(
                f"expected no other writer of {folder}, but another server takes this store's updates; send them there"
            ) from exc
        except OSError as exc:
            os.close(self._lock)
            raise unusable(self._path, exc) from exc
        try:
            self._open()
        except OSError as exc:
            self.close()
            raise unusable(self._path, exc) from exc
        except BaseException:
            self.close()
            raise

    def append(self, change: Change) -> None:
        """Write a change, flushed to the disk.

        Args:
            change: Its sequence number is ``last + 1``.
        Raises:
            ArtefactError: If it cannot be written; then it is not in the log.
            UpdatesRefused: If an earlier failure left the file in doubt.
        """
        if self._fault is None and not self._is_in_place():
            self._fault = _replaced(self._path)
        if self._fault is not None:
            raise UpdatesRefused(self._fault)
        if change.sequence != self.last + 1:
            raise ValueError(f"expected change {self.last + 1}, got {change.sequence}")
        record = record_of(change)
        with self._unseen():
            try:
                _write(self._file, record, self._end)
            except OSError as exc:
                self._restore(exc)
                raise unusable(self._path, exc) from exc
            try:
                os.fsync(self._file)
            except OSError as exc:
                # the kernel may have dropped the pages and report success next time: nothing can be known any more
                self._fault = _in_doubt(self._path, exc)
                self._restore(exc)
                raise unusable(self._path, exc) from exc
        self._end += len(record)
        self.last = change.sequence

    def prune(self, upto: int) -> None:
        """Drop the changes up to one: every bundle that could be served holds them.

        Raises:
            ArtefactError: If the log cannot be written. It holds the same changes then, but takes no further ones if
                the disk could not tell which of two files is there to stay.
        """
        upto = min(upto, self.last)
        if self._fault is not None or upto <= self._base:
            return
        content = read_log(self._path.parent)
        if (content.identity, content.last) != (self.identity, self.last):
            self._fault = _replaced(self._path)
            raise ArtefactError(self._fault)
        try:
            self._replace([change for change in content.changes if change.sequence > upto], upto)
        except OSError as exc:
            raise unusable(self._path, exc) from exc

    def outgrow(self, held: Held) -> None:
        """Become another log where an older file was put here than the one whose changes a catalogue holds.

        The next changes get numbers that the catalogue holds already, and would be taken for those.

        Raises:
            ArtefactError: As of ``prune``.
        """
        if self._fault is not None or held.log != self.identity or held.sequence <= self.last:
            return
        logger.error(
            "the log %s is older than what is served: it ends at %d of %d", self._path, self.last, held.sequence
        )
        content = read_log(self._path.parent)
        try:
            self.identity = _new_identity()
            self._replace(content.changes, content.base)
        except OSError as exc:
            self.identity = content.identity
            raise unusable(self._path, exc) from exc

    def close(self) -> None:
        """Let another process write."""
        if self._file >= 0:
            os.close(self._file)
        os.close(self._lock)

    def _open(self) -> None:
        content = read_log(self._path.parent)
        if not content.identity:  # there is none, or one of the first format
            self.identity = _new_identity()
            self._replace(content.changes, content.base)
        else:
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            self._take(content)
            size = os.fstat(self._file).st_size
            if size > self._end:
                logger.warning("cutting %d bytes of an unacknowledged update off %s", size - self._end, self._path)
            self._truncate()  # also flushes what a writer before was killed in the midst of
            fsync_path(self._path.parent)
        fsync_path(self._path.parent.parent)

    def _take(self, content: LogContent) -> None:
        self.identity, self.last = content.identity, content.last
        self._base, self._end = content.base, content.end

    def _replace(self, changes: Sequence[Change], base: int) -> None:
        """Put a file with these changes in the place of the log."""
        draft = self._path.with_name(f".{LOG_FILE}.tmp")
        data = file_head(base, self.identity) + b"".join(map(record_of, changes))
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _write(file, data, 0)
            os.fsync(file)
            os.replace(draft, self._path)
        except BaseException:
            os.close(file)
            draft.unlink(missing_ok=True)
            raise
        before, self._file = self._file, file  # at once: nobody will ever read the other again
        if before >= 0:
            os.close(before)
        self._take(LogContent(identity=self.identity, base=base, changes=changes, end=len(data)))
        try:
            fsync_path(self._path.parent)
        except OSError as exc:
            self._fault = _in_doubt(self._path, exc)  # after a power cut the other file may be back
            raise

    def _is_in_place(self) -> bool:
        """Tell whether what is written is what a restart would read."""
        try:
            return os.stat(self._path).st_ino == os.fstat(self._file).st_ino
        except OSError:
            return False

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Keep readers from seeing what may still be taken back."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as exc:
            raise unusable(self._path, exc) from exc
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _restore(self, cause: OSError) -> None:
        """Take back what was half-written, so that it cannot come to life after a restart."""
        try:
            self._truncate()
        except OSError:
            self._fault = _in_doubt(self._path, cause)

    def _truncate(self) -> None:
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)  # may stop short, as at a quota
        data, at = data[written:], at + written


def _new_identity() -> str:
    return secrets.token_hex(IDENTITY_BYTES)


def _replaced(path: Path) -> str:
    return (
        f"no live updates are taken since {path.name} is no longer the log that this server wrote; restart the server, "
        "which goes on with the file that is there"
    )


def _in_doubt(path: Path, exc: OSError) -> str:
    return (
        f"no live updates are taken since the log {path.name} could not be flushed ({exc.strerror or exc}); "
        "mend the disk and restart the server"
    )
