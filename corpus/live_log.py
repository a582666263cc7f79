"""The write-ahead log of live updates: ``live/changes.log``.

A change is on disk, flushed, before anybody is told that it was accepted. One process at a time appends; any number
read, also while it does. Numbers without gaps name the changes: a bundle says up to which it holds them.

    file    = b"tandemL1", base (u64), CRC-32 of both (u32), records      base: the last change that was pruned away
    record  = b"TREC", length (u32), sequence (u64), CRC-32 of the payload (u32), CRC-32 of these 20 bytes (u32),
              payload
    payload = the ``Change`` as JSON

A record that was cut short by a crash was never acknowledged: it is the last one, and the next writer cuts it off. A
damaged record with a whole one behind it is no crash's doing, and the file is refused.
"""

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from corpus.errors import ArtefactError, UpdatesRefused
from corpus.items import Item

logger = logging.getLogger(__name__)

LOG_FILE = "changes.log"
LOCK_FILE = "lock"
MAGIC: Final = b"tandemL1"
MARK: Final = b"TREC"
_FILE_HEAD = struct.Struct("<8sQ")
_RECORD_HEAD = struct.Struct("<4sIQI")
_CRC = struct.Struct("<I")
FILE_HEAD_BYTES = _FILE_HEAD.size + _CRC.size
RECORD_HEAD_BYTES = _RECORD_HEAD.size + _CRC.size


class Change(BaseModel):
    """Items that were added or replaced, and ids that were removed, in one call."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    sequence: int = Field(ge=1)
    time: AwareDatetime  # when it was accepted
    upserts: tuple[Item, ...] = ()
    deletions: tuple[str, ...] = ()  # of items that were there
    encoder: str = ""  # fingerprint of the item encoder that made the vectors; empty: there are none
    vectors: dict[str, bytes] = {}  # item_id -> its new embedding, little-endian float32: spares a restart the work


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    base: int
    changes: list[Change]
    end: int  # length of what is whole


def read_changes(folder: Path, *, after: int = 0) -> list[Change]:
    """Read the changes that came after one, oldest first; a record that is being written is left out.

    Args:
        folder: The workspace's ``live/`` folder; one without a log holds no changes.
        after: Sequence number of the last change that is known already.
    Raises:
        ArtefactError: If the log is damaged or cannot be read.
    """
    path = folder / LOG_FILE
    content = _read(path) if path.exists() else _Content(base=0, changes=[], end=0)
    if after < content.base:
        # bundles that need older changes keep them from being pruned: this one came from elsewhere
        logger.error("changes %d to %d are no longer in %s and will be missing", after + 1, content.base, path)
    return [change for change in content.changes if change.sequence > after]


def last_before(folder: Path, time: datetime) -> int:
    """Return the number of the last change that was accepted before a time; 0 if none was.

    Raises:
        ArtefactError: If the log is damaged or cannot be read.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return 0
    content = _read(path)
    return max([content.base, *(change.sequence for change in content.changes if change.time < time)])


class LiveLogWriter:
    """The one process that appends. For one thread at a time."""

    def __init__(self, folder: Path, *, at_least: int = 0) -> None:
        """Take the log over, and cut off what a crash left half-written.

        Args:
            folder: The workspace's ``live/`` folder; made if missing.
            at_least: Sequence number that new ones must exceed: the served bundle's, should the log have been removed.
        Raises:
            UpdatesRefused: If another process writes.
            ArtefactError: If the log is damaged, or the folder cannot be written to.
        """
        self._path = folder / LOG_FILE
        self._fault: str | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise _unusable(self._path, exc) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(self._lock)
            raise UpdatesRefused(
                f"expected no other writer of {folder}, but another server takes this store's updates; send them there"
            ) from exc
        try:
            if not self._path.exists():
                _replace(self._path, _file_head(at_least))
            content = _read(self._path)
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            self._end = content.end
            self._base = content.base
            self.last = max(content.base, content.changes[-1].sequence if content.changes else 0)
            size = os.fstat(self._file).st_size
            if size > self._end:
                logger.warning("cutting %d bytes of an unacknowledged update off %s", size - self._end, self._path)
                self._truncate()
            if self.last < at_least:  # an older file was put there
                self._rewrite([], at_least)
        except OSError as exc:
            os.close(self._lock)
            raise _unusable(self._path, exc) from exc
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, change: Change) -> None:
        """Write a change, flushed to the disk.

        Args:
            change: Its sequence number is ``last + 1``.
        Raises:
            ArtefactError: If it cannot be written; then it is not in the log.
            UpdatesRefused: If an earlier failure left the file in doubt.
        """
        if self._fault is not None:
            raise UpdatesRefused(self._fault)
        if change.sequence != self.last + 1:
            raise ValueError(f"expected change {self.last + 1}, got {change.sequence}")
        record = _record(change)
        try:
            _write(self._file, record, self._end)
        except OSError as exc:
            self._restore(exc)
            raise _unusable(self._path, exc) from exc
        try:
            os.fsync(self._file)
        except OSError as exc:
            # the kernel may have dropped the pages and report success next time: nothing can be known any more
            self._fault = _in_doubt(self._path, exc)
            self._restore(exc)
            raise _unusable(self._path, exc) from exc
        self._end += len(record)
        self.last = change.sequence

    def prune(self, upto: int) -> None:
        """Drop the changes up to one: every bundle that could be served holds them.

        Raises:
            ArtefactError: If the log cannot be written; then it is what it was.
        """
        upto = min(upto, self.last)
        if self._fault is not None or upto <= self._base:
            return
        try:
            self._rewrite([change for change in _read(self._path).changes if change.sequence > upto], upto)
        except OSError as exc:
            raise _unusable(self._path, exc) from exc

    def close(self) -> None:
        """Let another process write."""
        os.close(self._file)
        os.close(self._lock)

    def _rewrite(self, changes: Sequence[Change], base: int) -> None:
        content = _file_head(base) + b"".join(map(_record, changes))
        _replace(self._path, content)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._base, self._end = base, len(content)
        self.last = max(base, changes[-1].sequence if changes else 0)

    def _restore(self, cause: OSError) -> None:
        """Take back what was half-written, so that it cannot come to life after a restart."""
        try:
            self._truncate()
        except OSError:
            self._fault = _in_doubt(self._path, cause)

    def _truncate(self) -> None:
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)


def _read(path: Path) -> _Content:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise _unusable(path, exc) from exc
    head = data[: _FILE_HEAD.size]
    if len(data) < FILE_HEAD_BYTES or _CRC.unpack_from(data, len(head))[0] != zlib.crc32(head) or head[:8] != MAGIC:
        raise _damaged(path, 0)
    base = _FILE_HEAD.unpack(head)[1]
    changes: list[Change] = []
    at = FILE_HEAD_BYTES
    while (payload := _payload(data, at)) is not None:
        expected = base + len(changes) + 1
        try:
            change = Change.model_validate_json(payload)
        except ValidationError as exc:
            raise _damaged(path, at) from exc
        if change.sequence != expected:
            raise _damaged(path, at)
        changes.append(change)
        at += RECORD_HEAD_BYTES + len(payload)
    behind = data.find(MARK, at + 1)
    while behind >= 0:
        if _payload(data, behind) is not None:
            raise _damaged(path, at)
        behind = data.find(MARK, behind + 1)
    return _Content(base=base, changes=changes, end=at)


def _payload(data: bytes, at: int) -> bytes | None:
    """Return what the record at a place holds; None if there is no whole one."""
    head = data[at : at + _RECORD_HEAD.size]
    begin = at + RECORD_HEAD_BYTES
    if len(data) < begin or _CRC.unpack_from(data, at + len(head))[0] != zlib.crc32(head):
        return None
    mark, length, _, digest = _RECORD_HEAD.unpack(head)
    payload = data[begin : begin + length]
    return payload if mark == MARK and len(payload) == length and zlib.crc32(payload) == digest else None


def _record(change: Change) -> bytes:
    payload = change.model_dump_json().encode()
    head = _RECORD_HEAD.pack(MARK, len(payload), change.sequence, zlib.crc32(payload))
    return head + _CRC.pack(zlib.crc32(head)) + payload


def _file_head(base: int) -> bytes:
    head = _FILE_HEAD.pack(MAGIC, base)
    return head + _CRC.pack(zlib.crc32(head))


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)  # may stop short, as at a quota
        data, at = data[written:], at + written


def _replace(path: Path, content: bytes) -> None:
    """Put a whole file in place of another."""
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unusable(path: Path, exc: OSError) -> ArtefactError:
    return ArtefactError(
        f"the log of live updates {path} cannot be used: {exc.strerror or exc}; check the disk's space and the "
        "file's permissions"
    )


def _in_doubt(path: Path, exc: OSError) -> str:
    return (
        f"no live updates are taken since the log {path.name} could not be flushed ({exc.strerror or exc}); "
        "mend the disk and restart the server"
    )


def _damaged(path: Path, at: int) -> ArtefactError:
    return ArtefactError(
        f"expected whole records in {path}, found a damaged one at byte {at:,}; restore the file from a backup, or "
        "move it away, restart, and send the updates since the last build again"
    )
