"""The second stage's view of items under live updates."""

from collections.abc import Callable, Mapping

import numpy as np

from corpus.live_items import LiveItems
from rerank.history import item_name
from rerank.inputs import PassageTokens, TokenArray
from retrieval.arrays import IntArray


class LivePassages(PassageTokens):
    """Passages as built, and those that changed since; immutable."""

    def __init__(self, base: PassageTokens, changed: Mapping[int, TokenArray], n_items: int) -> None:
        """Join both.

        Args:
            base: As built.
            changed: By row; also all rows behind the base.
            n_items: Rows in all.
        """
        super().__init__(base.tokens, base.offsets)
        self._changed = changed
        self._n_items = n_items

    def __len__(self) -> int:
        return self._n_items

    def lengths(self, rows: IntArray) -> IntArray:
        """Return the numbers of tokens of rows, int64 (n,)."""
        return np.array([len(self.of(row)) for row in rows.tolist()], dtype=np.int64)

    def of(self, row: int) -> TokenArray:
        """Return one item's token ids."""
        tokens = self._changed.get(row)
        return super().of(row) if tokens is None else tokens


def live_names(items: LiveItems, base: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Return a look-up of an item's name by its id, as ``rerank.history.item_names`` does.

    Args:
        items: The catalogue now; the events on an item that is gone say nothing, as after the next build.
        base: Names of the base's items.
    """

    def name_of(item_id: str) -> str | None:
        row = items.row_of(item_id)
        item = None if row is None else items.changed.get(row)
        if item is not None:
            return item_name(item.title, item.brand)
        return None if row is None else base(item_id)

    return name_of
