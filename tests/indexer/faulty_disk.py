"""A disk that fails, or a machine that dies, at the i-th change that a block makes to it.

Every call that changes something on the disk is counted at the operating system's seam: opening for writing, write and
truncate (by Python's files or by descriptors), fsync, rename, replace, unlink, rmdir. What a power cut takes is
modelled as POSIX allows it: content that was not flushed is gone, and so, if ``lose_renames``, is every rename after
which its folder was not flushed.
"""

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Crash(BaseException):
    """The process is dead: nothing that it still tries has an effect."""


class FaultyDisk:
    def __init__(self, *, fail_at: int | None = None, error: int | None = None, persistent: bool = False) -> None:
        """Fail at the ``fail_at``-th change (from 0): die, or report ``error``, once or from then on."""
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._error = error
        self._persistent = persistent
        self._durable_bytes: dict[str, int] = {}  # of files that hold more than was flushed
        self._renames: list[tuple[str, str, bytes | None]] = []  # not flushed: from, to, what was there before

    @contextmanager
    def inserted(self) -> Iterator["FaultyDisk"]:
        """Stand between the block and the disk."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(io, "open", self._opening(io.open))
            patch.setattr(os, "open", self._creation(os.open))
            patch.setattr(os, "pwrite", self._write(os.pwrite))
            patch.setattr(os, "ftruncate", self._truncation(os.ftruncate))
            patch.setattr(os, "fsync", self._flush(os.fsync))
            for name in ("rename", "replace"):
                patch.setattr(os, name, self._move(name, getattr(os, name)))
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, self._removal(name, getattr(os, name)))
            yield self

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        disk = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                whole = bytes(data)
                half = whole[: len(whole) // 2]
                disk._durable_bytes.setdefault(str(self.name), os.fstat(self.fileno()).st_size)
                return disk._act("write", lambda: super(Raw, self).write(whole), lambda: super(Raw, self).write(half))

            def truncate(self, size: int | None = None) -> int:
                return disk._act("truncate", lambda: super(Raw, self).truncate(size))

        def open_file(path: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wa+x"):
                return real(path, mode, buffering, *arguments, **options)
            raw = disk._act("open", lambda: Raw(os.fspath(path), mode.replace("b", "").replace("t", "")))
            if "b" in mode:
                return raw if buffering == 0 else io.BufferedWriter(raw)
            return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")

        return open_file

    def _creation(self, real: Callable[..., int]) -> Callable[..., int]:
        def open_file(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if not flags & (os.O_CREAT | os.O_TRUNC):
                return real(path, flags, *arguments, **options)
            opened: int = self._act("open", lambda: real(path, flags, *arguments, **options))
            return opened

        return open_file

    def _write(self, real: Callable[[int, bytes, int], int]) -> Callable[[int, bytes, int], int]:
        def pwrite(descriptor: int, data: bytes, at: int) -> int:
            self._durable_bytes.setdefault(_path_of(descriptor), os.fstat(descriptor).st_size)
            half = data[: len(data) // 2]
            written: int = self._act("write", lambda: real(descriptor, data, at), lambda: real(descriptor, half, at))
            return written

        return pwrite

    def _truncation(self, real: Callable[[int, int], None]) -> Callable[[int, int], None]:
        return lambda descriptor, size: self._act("truncate", lambda: real(descriptor, size))

    def _flush(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            path = _path_of(descriptor)
            self._act("fsync", lambda: real(descriptor))
            self._durable_bytes.pop(path, None)
            self._renames = [each for each in self._renames if os.path.dirname(each[1]) != path]

        return fsync

    def _move(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any) -> None:
            source, target = os.fspath(source), os.fspath(target)
            before = Path(target).read_bytes() if os.path.isfile(target) else None
            self._act(name, lambda: real(source, target))
            self._renames.append((source, target, before))
            if source in self._durable_bytes:
                self._durable_bytes[target] = self._durable_bytes.pop(source)

        return move

    def _removal(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        return lambda path, **options: self._act(name, lambda: real(path, **options))

    def cut_power(self, *, lose_renames: bool) -> None:
        """Take away what was not flushed."""
        for path, size in self._durable_bytes.items():
            if os.path.isfile(path):
                os.truncate(path, min(size, os.path.getsize(path)))
        for source, target, before in reversed(self._renames) if lose_renames else ():
            if os.path.lexists(target):
                os.rename(target, source)
            if before is not None:
                Path(target).write_bytes(before)

    def _act(self, name: str, work: Callable[[], Any], part: Callable[[], Any] | None = None) -> Any:
        number = len(self.calls)
        self.calls.append(name)
        if self._fail_at is None or number < self._fail_at:
            return work()
        if self._error is not None and number > self._fail_at and not self._persistent:
            return work()
        if part is not None and number == self._fail_at:
            part()
        if self._error is None:
            raise Crash(f"at {name}, change {number}")
        raise OSError(self._error, os.strerror(self._error))


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


ERRORS = (errno.ENOSPC, errno.EIO)
