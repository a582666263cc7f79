"""Texts that are made when they are read, and what tells them apart."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from retrieval.arrays import IntArray

Digests = npt.NDArray[np.uint8]  # (n, 32): SHA-256
Keys = npt.NDArray[np.bytes_]  # (n,): the first half of each digest

HASH_BYTES = 32
KEY_BYTES = 16  # of a digest: as good as all of it among any number of texts, and half the memory
CHUNK = 8192  # texts that are in memory at a time


class Texts:
    """Texts by row. Only their digests are kept."""

    def __init__(self, make: Callable[[IntArray], list[str]], n: int) -> None:
        """Say where the texts come from.

        Args:
            make: Returns the texts of rows, always the same ones.
            n: How many there are.
        """
        self._make = make
        self._n = n

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Wrap texts that are in memory."""
        return cls(lambda rows: [texts[row] for row in rows.tolist()], len(texts))

    def __len__(self) -> int:
        return self._n

    def take(self, rows: IntArray) -> list[str]:
        """Return the texts of rows, int64 (n,), in their order."""
        return self._make(rows)

    def chunks(self, size: int) -> Iterator[list[str]]:
        """Yield all texts in row order, so many at a time."""
        for start in range(0, self._n, size):
            yield self._make(np.arange(start, min(start + size, self._n), dtype=np.int64))

    @cached_property
    def digests(self) -> Digests:
        """The texts' SHA-256, uint8 (n, 32); computed once."""
        digests = np.empty((self._n, HASH_BYTES), dtype=np.uint8)
        start = 0
        for chunk in self.chunks(CHUNK):
            joined = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in chunk)
            digests[start : start + len(chunk)] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, HASH_BYTES)
            start += len(chunk)
        return digests

    def sample(self, n: int) -> IntArray:
        """Draw rows by their texts' digests: all alike by chance, and nearly the same ones when few texts change.

        Returns:
            int64 (min(n, number of texts),), rising.
        """
        # the second half: distinct texts of one first half are kept apart by it as well
        keys = np.ascontiguousarray(self.digests[:, KEY_BYTES : KEY_BYTES + 8]).view(np.uint64).ravel()
        return np.sort(np.argsort(keys, kind="stable")[:n])


def keys_of(digests: Digests) -> Keys:
    """Return what digests are looked up by, bytes (n,) of 16; they sort."""
    return np.ascontiguousarray(digests[:, :KEY_BYTES]).view(f"S{KEY_BYTES}").ravel()
