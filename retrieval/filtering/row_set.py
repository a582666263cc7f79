"""Some of the catalogue's rows: what a filter leaves, what was not deleted."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from corpus.errors import InputError
from retrieval.arrays import IntArray

BoolArray = npt.NDArray[np.bool_]


class RowSet:
    """An immutable set of rows in the three forms that searching needs: a mask, a list and a bitmap."""

    def __init__(self, mask: BoolArray) -> None:
        """Wrap a mask.

        Args:
            mask: bool (n_items,), true for the rows in the set; not to be changed afterwards.
        Raises:
            InputError: If it is no such array.
        """
        if mask.ndim != 1 or mask.dtype != np.bool_:
            raise InputError(f"expected a bool (n_items,) mask of rows, got {mask.dtype} {mask.shape}")
        self.mask = mask

    @classmethod
    def of(cls, rows: IntArray, n_items: int) -> "RowSet":
        """Return the set of some rows.

        Args:
            rows: int64, in any order; repetitions do no harm.
            n_items: Size of the catalogue.
        Raises:
            InputError: If a row is outside the catalogue.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < n_items:
            raise InputError(f"expected rows in [0, {n_items}), got {rows.min()} to {rows.max()}")
        mask = np.zeros(n_items, dtype=np.bool_)
        mask[rows] = True
        return cls(mask)

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self.mask)

    @cached_property
    def rows(self) -> IntArray:
        """The rows in the set, ascending: int64 (n,)."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bitmap(self) -> npt.NDArray[np.uint8]:
        """The mask in bits, row 0 the lowest of the first byte."""
        return np.packbits(self.mask, bitorder="little")

    @cached_property
    def _n_rows(self) -> int:
        return int(np.count_nonzero(self.mask))  # a list of ten million rows takes 80 MB

    def __len__(self) -> int:
        return self._n_rows

    def __and__(self, other: "RowSet") -> "RowSet":
        return RowSet(self.mask & other.mask)
