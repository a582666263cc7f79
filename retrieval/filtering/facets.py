"""Facets: how many of some items have each value of a field, the checkboxes beside a page of results."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.columns import ItemColumns
from corpus.errors import BadFilter
from retrieval.arrays import IntArray
from retrieval.filtering.filters import attribute_name, check_field, shown
from retrieval.filtering.predicates import number_column, text_column

_TRUTHS = ["false", "true"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FacetSpec:
    """A facet to count.

    Args:
        field: A field of ``retrieval.filtering.filters`` but ``updated_at``.
        limit: Most values, from 1; of intervals all are returned.
        interval_bounds: Ascending, between the intervals into which numbers are counted: n of them part n + 1. Needed
            for the price, possible for attributes.
        excluded_filter_keys: Fields of which the search's conditions are left out for this facet.
    Raises:
        BadFilter: If the field is unknown, or bounds are missing or make no sense for it.
    """

    field: str
    limit: int
    interval_bounds: tuple[float, ...] = ()
    excluded_filter_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_field(self.field)
        bounds = np.array(self.interval_bounds, dtype=np.float64)
        if not (np.isfinite(bounds).all() and (np.diff(bounds) > 0).all()):
            raise BadFilter(
                "expected interval_bounds in ascending order, each once, got others", field="interval_bounds"
            )
        if self.field == "updated_at":
            raise BadFilter("expected a field with values or a price to count, got updated_at")
        if self.field == "price" and not self.interval_bounds:
            raise BadFilter("expected interval_bounds to count prices between, got none", field="interval_bounds")
        if self.interval_bounds and self.field != "price" and attribute_name(self.field) is None:
            raise BadFilter(
                f"expected no interval_bounds for {self.field}, which is not counted in intervals; leave them out",
                field="interval_bounds",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FacetValue:
    """One value, or one interval."""

    value: str  # in the catalogue's most frequent spelling; a path as "Shoes > Running", an interval as "[10, 50)"
    count: int
    low: float | None = None  # of an interval, which holds it; None: there is none
    high: float | None = None  # of an interval, which does not hold it; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """The counts of one field."""

    field: str
    values: tuple[FacetValue, ...]  # most frequent first, of equals in the order of their texts; intervals ascending


def count_facet(spec: FacetSpec, rows: IntArray, columns: ItemColumns) -> Facet:
    """Count how many items have each value.

    An item counts once for each value that it has, of a category path once on every level; an item without the field
    counts nowhere. Values that no item has are left out, intervals are not.

    Args:
        spec: What to count.
        rows: int64 (n,) the items, distinct.
        columns: Of the catalogue.
    """
    if spec.interval_bounds:
        return Facet(field=spec.field, values=_intervals(spec, rows, columns))
    numbers = number_column(columns, spec.field)
    if numbers is None:
        column = text_column(columns, spec.field)
        values, present = column.values, column.entries(rows)[1].astype(np.int64)
    else:  # of those only truths are counted without intervals
        values, present = _TRUTHS, numbers[rows][~np.isnan(numbers[rows])].astype(np.int64)
    codes, counts = np.unique(present, return_counts=True)
    best = np.lexsort((codes, -counts))[: spec.limit]  # codes are in the order of their texts
    return Facet(
        field=spec.field,
        values=tuple(FacetValue(value=values[codes[place]], count=int(counts[place])) for place in best),
    )


def _intervals(spec: FacetSpec, rows: IntArray, columns: ItemColumns) -> tuple[FacetValue, ...]:
    bounds = np.array(spec.interval_bounds, dtype=np.float64)
    n_intervals = len(bounds) + 1
    positions, numbers = _numbers(spec.field, rows, columns)
    places = np.searchsorted(bounds, numbers, side="right")
    # an item with two values in one interval is one item
    once = np.unique(positions * n_intervals + places) % n_intervals
    counts = np.bincount(once, minlength=n_intervals).tolist()
    edges: list[float | None] = [None, *spec.interval_bounds, None]
    return tuple(
        FacetValue(value=_interval(low, high), count=count, low=low, high=high)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _numbers(field: str, rows: IntArray, columns: ItemColumns) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Return the numbers that items have, each beside the position of its item in ``rows``."""
    single = number_column(columns, field)
    if single is not None:
        positions, numbers = np.arange(len(rows)), single[rows]
    else:
        column = text_column(columns, field)
        positions, codes = column.entries(rows)
        numbers = column.numbers[codes]
    known = ~np.isnan(numbers)
    return positions[known], numbers[known]


def _interval(low: float | None, high: float | None) -> str:
    begin = "(-inf" if low is None else f"[{shown(low)}"
    return f"{begin}, {'inf' if high is None else shown(high)})"
