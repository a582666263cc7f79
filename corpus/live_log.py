"""The write-ahead log of live updates, ``live/changes.log``: its format, and who reads it.

A change is on disk, flushed, before anybody is told that it was accepted (``corpus.live_log_writer``). One process at a
time appends; any number read, also while it does. Numbers without gaps name the changes of one log, and a random
identity the log: a bundle says up to which change of which log it holds them, on whatever machine it is served.

    file    = b"tandemL2", base (u64), identity (16 bytes), CRC-32 of these 32 bytes (u32), records
              base: the last change that was pruned away
    record  = b"TREC", length (u32), sequence (u64), CRC-32 of the payload (u32), CRC-32 of these 20 bytes (u32),
              payload
    payload = the ``Change`` as JSON

A record that was cut short by a crash was never acknowledged: it is the last one, and the next writer cuts it off. A
damaged record with a whole one behind it is no crash's doing, and the file is refused. Who appends holds an exclusive
lock on the file until the record is flushed or taken back, and who reads looks how long the file is under a shared one:
nobody sees what may still vanish.
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

from corpus.errors import ArtefactError
from corpus.items import Item

logger = logging.getLogger(__name__)

LOG_FILE = "changes.log"
MAGIC: Final = b"tandemL2"
MARK: Final = b"TREC"
_FIRST_MAGIC: Final = b"tandemL1"  # of logs without an identity
_FILE_HEAD = struct.Struct("<8sQ16s")
_FIRST_FILE_HEAD = struct.Struct("<8sQ")
_RECORD_HEAD = struct.Struct("<4sIQI")
_CRC = struct.Struct("<I")
_NO_IDENTITY: Final = bytes(16)
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
class Held:
    """Which changes a catalogue holds: those of one log up to a number; of any other log, those before a time."""

    log: str = ""  # identity; empty: the store had no log
    sequence: int = 0
    as_of: datetime | None = None  # the time of the export that it was made from, where that was told


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContent:
    """What a log holds; an empty one where there is none."""

    identity: str = ""  # hexadecimal digits
    base: int = 0
    changes: Sequence[Change] = ()  # oldest first
    end: int = 0  # length of what is whole, in bytes

    @property
    def last(self) -> int:
        """Number of the last change that was ever accepted."""
        return self.base + len(self.changes)

    def held_up_to(self, held: Held) -> int:
        """Return up to which number a catalogue holds the changes of this log."""
        if held.log and held.log == self.identity:
            return held.sequence
        return 0 if held.as_of is None else self.last_before(held.as_of)

    def beyond(self, held: Held) -> list[Change]:
        """Return the changes that a catalogue does not hold, oldest first."""
        known = self.held_up_to(held)
        if known < self.base:
            # bundles that need older changes keep them from being pruned: this one came from elsewhere
            logger.error("live updates %d to %d are in the log no longer and will be missing", known + 1, self.base)
        return [change for change in self.changes if change.sequence > known]

    def last_before(self, time: datetime) -> int:
        """Return the number of the last change that was accepted before a time; 0 if none was."""
        return max([self.base, *(change.sequence for change in self.changes if change.time < time)])


def read_log(folder: Path) -> LogContent:
    """Read a whole log; a record that is being written is left out.

    Args:
        folder: The workspace's ``live/`` folder; one without a log holds no changes.
    Raises:
        ArtefactError: If the log is damaged or cannot be read.
    """
    return LogReader(folder).content()


class LogReader:
    """Reads a log again and again, and each change once. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Read nothing yet.

        Args:
            folder: The workspace's ``live/`` folder, with a log or without.
        """
        self._path = folder / LOG_FILE
        self._head = b""  # of the file, when it was read last
        self._seen = LogContent()  # what was read, as if it had been pruned since

    def content(self) -> LogContent:
        """Read all there is.

        Raises:
            ArtefactError: If the log is damaged or cannot be read.
        """
        self._head = b""
        return self._read()

    def more(self) -> list[Change]:
        """Read what came since the last look, oldest first; of a log that took another one's place, everything.

        Raises:
            ArtefactError: If the log is damaged or cannot be read; the next look tries again.
        """
        before = self._seen
        content = self._read()
        known = before.last if content.identity == before.identity else 0
        if 0 < known < content.base:
            logger.error("live updates %d to %d were dropped before they were read", known + 1, content.base)
        return [change for change in content.changes if change.sequence > known]

    def _read(self) -> LogContent:
        """Read what is new, or everything where the file is another one by now."""
        before = self._seen
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_SH)
                size = os.fstat(file).st_size
                fcntl.flock(file, fcntl.LOCK_UN)  # what was flushed stays: nobody has to wait for a slow reader
                head = _read_at(file, 0, min(size, FILE_HEAD_BYTES))
                # whatever replaces a file has another base, or another identity
                begin = before.end if head == self._head and before.end <= size else 0
                data = _read_at(file, begin, size - begin)
            finally:
                os.close(file)
        except FileNotFoundError:
            head, content = b"", LogContent()
        except OSError as exc:
            raise unusable(self._path, exc) from exc
        else:
            content = _parse(data, self._path) if begin == 0 else _parse_more(data, before, self._path)
        self._head = head
        self._seen = LogContent(identity=content.identity, base=content.last, end=content.end)
        return content


def file_head(base: int, identity: str) -> bytes:
    """Return the beginning of a log's file."""
    head = _FILE_HEAD.pack(MAGIC, base, bytes.fromhex(identity) if identity else _NO_IDENTITY)
    return head + _CRC.pack(zlib.crc32(head))


def record_of(change: Change) -> bytes:
    """Return what a change is in the file."""
    payload = change.model_dump_json().encode()
    head = _RECORD_HEAD.pack(MARK, len(payload), change.sequence, zlib.crc32(payload))
    return head + _CRC.pack(zlib.crc32(head)) + payload


def unusable(path: Path, exc: OSError) -> ArtefactError:
    """Say that the disk does not do what a log needs."""
    return ArtefactError(
        f"the log of live updates {path} cannot be used: {exc.strerror or exc}; check the disk's space and the "
        "file's permissions"
    )


def _parse(data: bytes, path: Path) -> LogContent:
    """Read a whole file."""
    layout = _FIRST_FILE_HEAD if data[: len(_FIRST_MAGIC)] == _FIRST_MAGIC else _FILE_HEAD
    head, begin = data[: layout.size], layout.size + _CRC.size
    if len(data) < begin or _CRC.unpack_from(data, layout.size)[0] != zlib.crc32(head):
        raise _damaged(path, 0)
    magic, base, *identity = layout.unpack(head)
    if magic not in (MAGIC, _FIRST_MAGIC):
        raise _damaged(path, 0)
    name = identity[0].hex() if identity and identity[0] != _NO_IDENTITY else ""
    changes, end = _records(data, begin, base, path, offset=0)
    return LogContent(identity=name, base=base, changes=changes, end=end)


def _parse_more(data: bytes, before: LogContent, path: Path) -> LogContent:
    """Read what a file has behind what was read of it before."""
    changes, end = _records(data, 0, before.last, path, offset=before.end)
    return LogContent(identity=before.identity, base=before.last, changes=changes, end=before.end + end)


def _records(data: bytes, at: int, last: int, path: Path, *, offset: int) -> tuple[list[Change], int]:
    """Return the records that begin at a place, and where the last whole one ends; the data begin at ``offset``."""
    changes: list[Change] = []
    while (payload := _payload(data, at)) is not None:
        try:
            change = Change.model_validate_json(payload)
        except ValidationError as exc:
            raise _damaged(path, offset + at) from exc
        if change.sequence != last + len(changes) + 1:
            raise _damaged(path, offset + at)
        changes.append(change)
        at += RECORD_HEAD_BYTES + len(payload)
    behind = data.find(MARK, at + 1)
    while behind >= 0:
        if _payload(data, behind) is not None:
            raise _damaged(path, offset + at)
        behind = data.find(MARK, behind + 1)
    return changes, at


def _payload(data: bytes, at: int) -> bytes | None:
    """Return what the record at a place holds; None if there is no whole one."""
    head = data[at : at + _RECORD_HEAD.size]
    begin = at + RECORD_HEAD_BYTES
    if len(data) < begin or _CRC.unpack_from(data, at + len(head))[0] != zlib.crc32(head):
        return None
    mark, length, _, digest = _RECORD_HEAD.unpack(head)
    payload = data[begin : begin + length]
    return payload if mark == MARK and len(payload) == length and zlib.crc32(payload) == digest else None


def _read_at(file: int, begin: int, n_bytes: int) -> bytes:
    parts = []
    while n_bytes > 0 and (part := os.pread(file, n_bytes, begin)):
        parts.append(part)
        begin, n_bytes = begin + len(part), n_bytes - len(part)
    return b"".join(parts)


def _damaged(path: Path, at: int) -> ArtefactError:
    return ArtefactError(
        f"expected whole records in {path}, found a damaged one at byte {at:,}; restore the file from a backup, or "
        "move it away, restart, and send the updates since the last build again"
    )
