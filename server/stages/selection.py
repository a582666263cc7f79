"""Which items a search may find: those that its filter and the store's own rule leave."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from corpus.columns import PATH_SEPARATOR, ItemColumns, fold_path
from retrieval.filtering.filters import And, Comparison, Filter, Not
from retrieval.filtering.predicates import matching_rows
from retrieval.filtering.row_set import RowSet

OUT_OF_STOCK = Comparison("in_stock", "=", False)  # unknown stock is no such thing
# storefronts repeat a few filters; a set of a million rows takes up to 9 MB, and 2 to 10 ms to find and to list
N_KEPT = 32


class Selection:
    """Turns filters into sets of rows of one catalogue, and keeps the latest. Safe for several threads."""

    def __init__(self, columns: ItemColumns, *, hide_out_of_stock: bool = False) -> None:
        """Wrap a catalogue's columns.

        Args:
            columns: Of the bundle that is searched.
            hide_out_of_stock: Leave out items of which the catalogue says that they are not in stock.
        """
        self._columns = columns
        self._rule = Not(OUT_OF_STOCK) if hide_out_of_stock else None
        self._rows = lru_cache(maxsize=N_KEPT)(self._find)

    def rows(
        self, wanted: Filter | None, *, category: tuple[str, ...] = (), without: Iterable[int] = ()
    ) -> RowSet | None:
        """Return the items that may be found; None: all of them.

        Args:
            wanted: The filter of a search; None: it has none.
            category: Path from the root in which items have to be; empty: anywhere.
            without: Rows that may not be found all the same.
        """
        found, left_out = self._rows(wanted, category), list(without)
        if not left_out:
            return found
        mask = np.ones(self._columns.n_items, dtype=np.bool_) if found is None else found.mask.copy()
        mask[left_out] = False
        return RowSet(mask)

    def _find(self, wanted: Filter | None, category: tuple[str, ...]) -> RowSet | None:
        found = self._matching(wanted)
        if not category:
            return found
        column = self._columns.category
        inside = RowSet(column.items_in(*column.code_range(fold_path(PATH_SEPARATOR.join(category)))))
        return inside if found is None else found & inside

    def _matching(self, wanted: Filter | None) -> RowSet | None:
        conditions = [condition for condition in (self._rule, wanted) if condition is not None]
        if not conditions:
            return None
        found = matching_rows(And(*conditions), self._columns)
        return None if len(found) == found.n_items else found
