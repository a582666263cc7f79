"""What features read of items, as arrays by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from corpus.items import Item, ItemTable
from retrieval.arrays import FloatArray, IntArray

Codes = npt.NDArray[np.int32]
T = TypeVar("T", np.int32, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemColumns:
    """Brand, category, price and stock of every item."""

    brands: Codes  # (n_items,) equal for equal brands; -1: unknown
    paths: Codes  # (n_items, n_levels) one number for every prefix of a category path; -1 past its end
    prices: FloatArray  # (n_items,) logarithms; NaN: unknown
    stock: FloatArray  # (n_items,) 1, 0, or NaN: unknown
    brand_codes: dict[str, int]  # only ever added to, by whoever makes the next columns
    path_codes: dict[tuple[str, ...], int]  # likewise

    @classmethod
    def of(cls, items: ItemTable) -> Self:
        """Read a catalogue."""
        brand_codes: dict[str, int] = {}
        path_codes: dict[tuple[str, ...], int] = {}
        return cls(
            brands=_brands(items.column("brand"), brand_codes),
            paths=_paths(items.column("category"), path_codes),
            prices=_log_prices(items.column("price")),
            stock=_stock(items.column("in_stock")),
            brand_codes=brand_codes,
            path_codes=path_codes,
        )

    def with_changes(self, changed: Mapping[int, Item], *, n_items: int) -> Self:
        """Return the columns after some rows changed; one writer at a time.

        They are copied: 28 MB for a million items of three category levels, some 10 ms.

        Args:
            changed: What stands in these rows now.
            n_items: How many rows there are now.
        """
        rows = np.fromiter(changed, dtype=np.int64, count=len(changed))
        items = list(changed.values())
        paths = _paths([item.category for item in items], self.path_codes)
        n_levels = max(paths.shape[1], self.paths.shape[1])
        return type(self)(
            brands=_replaced(self.brands, rows, _brands([item.brand for item in items], self.brand_codes), n_items),
            paths=_replaced(_widened(self.paths, n_levels), rows, _widened(paths, n_levels), n_items),
            prices=_replaced(self.prices, rows, _log_prices([item.price for item in items]), n_items),
            stock=_replaced(self.stock, rows, _stock([item.in_stock for item in items]), n_items),
            brand_codes=self.brand_codes,
            path_codes=self.path_codes,
        )


def _brands(values: Sequence[str | None], codes: dict[str, int]) -> Codes:
    return np.array([codes.setdefault(v.casefold(), len(codes)) if v else -1 for v in values], dtype=np.int32)


def _paths(paths: Sequence[Sequence[str] | None], codes: dict[tuple[str, ...], int]) -> Codes:
    n_levels = max((len(path) for path in paths if path), default=0)
    found = np.full((len(paths), n_levels), -1, dtype=np.int32)
    for row, path in enumerate(paths):
        for level in range(len(path or ())):
            found[row, level] = codes.setdefault(tuple((path or ())[: level + 1]), len(codes))
    return found


def _log_prices(values: Sequence[float | None]) -> FloatArray:
    prices = np.array(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(prices > 0, np.log(prices), np.nan).astype(np.float32)


def _stock(values: Sequence[bool | None]) -> FloatArray:
    return np.array(values, dtype=np.float64).astype(np.float32)  # None becomes NaN


def _widened(paths: Codes, n_levels: int) -> Codes:
    missing = n_levels - paths.shape[1]
    return np.pad(paths, ((0, 0), (0, missing)), constant_values=-1) if missing else paths


def _replaced(column: npt.NDArray[T], rows: IntArray, values: npt.NDArray[T], n_items: int) -> npt.NDArray[T]:
    after = np.empty((n_items, *column.shape[1:]), dtype=column.dtype)
    after[: len(column)] = column
    after[rows] = values
    return after
