"""Rows of unequal length in flat arrays: what each query led to, what belongs to each item."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray, IntArray

Rows32 = npt.NDArray[np.int32]

_PARTS = ("offsets", "rows", "values")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ragged:
    """For each key, some rows of the item table with a number each; row ``k`` lies at ``offsets[k]:offsets[k + 1]``."""

    offsets: IntArray  # (n_keys + 1,) rising from 0 to n
    rows: Rows32  # (n,)
    values: FloatArray  # (n,)

    @classmethod
    def build(cls, keys: IntArray, rows: IntArray, values: FloatArray, *, n_keys: int, most: int) -> Self:
        """Sum equal (key, row) pairs up and keep each key's greatest.

        Args:
            keys: int64 (n,) in [0, n_keys).
            rows: int64 (n,), not negative.
            values: float32 (n,).
            n_keys: How many keys there are; a key without entries has an empty row.
            most: Entries kept per key; of equal values those of the lower rows.
        Returns:
            Each key's entries, greatest value first.
        """
        width = int(rows.max(initial=0)) + 1
        pairs, places = np.unique(keys * width + rows, return_inverse=True)
        totals = np.bincount(places, weights=values, minlength=len(pairs)).astype(np.float32)
        key, row = pairs // width, pairs % width
        order = np.lexsort((row, -totals, key))
        key, row, totals = key[order], row[order], totals[order]
        begins = np.searchsorted(key, np.arange(n_keys))
        kept = np.arange(len(key)) - begins[key] < most
        offsets = np.zeros(n_keys + 1, dtype=np.int64)
        np.cumsum(np.bincount(key[kept], minlength=n_keys), out=offsets[1:])
        return cls(offsets=offsets, rows=row[kept].astype(np.int32), values=totals[kept])

    @classmethod
    def join(cls, parts: Sequence[tuple[Rows32, FloatArray]]) -> Self:
        """Put one (rows, values) pair per key together."""
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(rows) for rows, _ in parts], out=offsets[1:])
        empty: tuple[Rows32, FloatArray] = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
        rows, values = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
        return cls(offsets=offsets, rows=rows, values=values)

    def extended(self, n_keys: int) -> Self:
        """Return the same rows with empty ones behind them, up to ``n_keys``."""
        return replace(self, offsets=np.pad(self.offsets, (0, n_keys - len(self)), mode="edge"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def entries(self, keys: IntArray) -> tuple[IntArray, Rows32, FloatArray]:
        """Return the entries of several keys in one: positions in ``keys`` ascending, rows and values, in parallel.

        Args:
            keys: int64 (n,), each in [0, n_keys).
        """
        begins = self.offsets[keys]
        counts = self.offsets[keys + 1] - begins
        positions = np.repeat(np.arange(len(keys)), counts)
        within = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = begins[positions] + within
        return positions, self.rows[places], self.values[places]

    def of(self, key: int) -> tuple[Rows32, FloatArray]:
        """Return one key's rows and values."""
        part = slice(self.offsets[key], self.offsets[key + 1])
        return self.rows[part], self.values[part]

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME_offsets.npy``, ``NAME_rows.npy`` and ``NAME_values.npy``."""
        for part in _PARTS:
            np.save(folder / f"{name}_{part}.npy", getattr(self, part), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, name: str, *, n_items: int) -> Self:
        """Open what ``save`` wrote, memory-mapped.

        Args:
            folder: Where it lies.
            name: What it was saved as.
            n_items: Every row must be below it.
        Raises:
            ArtefactError: If a file is missing or broken, or they do not fit each other.
        """
        try:
            # still mapped, but as plain arrays: numpy slices those four times as fast
            parts = {
                part: np.asarray(np.load(folder / f"{name}_{part}.npy", mmap_mode="r", allow_pickle=False))
                for part in _PARTS
            }
        except (OSError, ValueError, EOFError) as exc:
            raise ArtefactError(f"expected {name} in {folder}, got: {exc}; build the bundle again") from exc
        offsets, rows, values = (parts[part] for part in _PARTS)
        fits = (
            offsets.dtype == np.int64
            and rows.dtype == np.int32
            and values.dtype == np.float32
            and offsets.ndim == rows.ndim == values.ndim == 1
            and len(offsets) > 0
            and offsets[0] == 0
            and offsets[-1] == len(rows) == len(values)
            and bool((np.diff(offsets) >= 0).all())
            and (len(rows) == 0 or (rows.min() >= 0 and rows.max() < n_items))
        )
        if not fits:
            raise ArtefactError(
                f"expected {name} in {folder} to list rows of a catalogue of {n_items:,} items; build the bundle again"
            )
        return cls(offsets=offsets, rows=rows, values=values)
