"""How often one caller may call several serving processes together: their buckets lie in one mapped file.

A table of buckets by a hash of the caller, in groups that are locked one at a time: the kernel lets go of a dead
process's locks. The clock is the machine's own, and so the same for all.
"""

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from server.access.rate_limit import refilled

N_GROUPS = 2_048
GROUP = 8  # buckets; where all are taken, the caller that has not called for longest is forgotten
_BUCKET = struct.Struct("<Qdd")  # hash of the caller, 0 for none; tokens; seconds, when it held them
_GROUP_BYTES = _BUCKET.size * GROUP


class SharedCallerLimits:
    """A bucket for each caller, in a file that the processes of one machine share."""

    def __init__(self, path: Path, calls_per_second: float, *, now: Callable[[], float] = time.monotonic) -> None:
        """Open the file, or make it.

        Args:
            path: In a folder that the server's owner alone may enter.
            calls_per_second: Of each caller; a second's worth, and at least one call, may come at once.
            now: The clock, in seconds, of all processes.
        """
        self._rate = calls_per_second
        self._capacity = max(1.0, calls_per_second)
        self._now = now
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, N_GROUPS * _GROUP_BYTES)  # grows by zeros, and does nothing the next time
        self._table = mmap.mmap(self._file, N_GROUPS * _GROUP_BYTES)

    def take(self, caller: str) -> float:
        """Take a token for a call; see ``CallerLimits.take``."""
        name = int.from_bytes(hashlib.blake2b(caller.encode(), digest_size=8).digest(), "little") or 1
        begin = name % N_GROUPS * _GROUP_BYTES
        fcntl.lockf(self._file, fcntl.LOCK_EX, _GROUP_BYTES, begin)
        try:
            now = self._now()
            at, tokens = self._bucket(name, begin, now)
            wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
            _BUCKET.pack_into(self._table, at, name, tokens if wait_s else tokens - 1, now)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, _GROUP_BYTES, begin)
        return wait_s

    def close(self) -> None:
        """Let go of the file."""
        self._table.close()
        os.close(self._file)

    def _bucket(self, name: int, begin: int, now: float) -> tuple[int, float]:
        """Return where a caller's bucket is, and what it holds now; one that is not there takes another's place."""
        places = range(begin, begin + _GROUP_BYTES, _BUCKET.size)
        buckets = [_BUCKET.unpack_from(self._table, place) for place in places]
        for place, (holder, tokens, then) in zip(places, buckets, strict=True):
            if holder == name:
                return place, refilled(tokens, now - then, rate=self._rate, capacity=self._capacity)
        oldest = min(range(GROUP), key=lambda position: (buckets[position][0] != 0, buckets[position][2]))
        return places[oldest], self._capacity
