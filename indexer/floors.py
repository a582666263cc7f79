"""The floors: what anybody gets without a model. No system's number is reported without them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from corpus.prepared import Pairs

Ranking = Sequence[int]  # rows of the item table, best first


class Floors:
    """Popularity before the evaluated split, overall and within each query; and chance."""

    def __init__(self, known: Pairs, n_items: int) -> None:
        """Count what is known.

        Args:
            known: The choices of the splits before.
            n_items: Size of the catalogue.
        """
        self.n_items = n_items
        overall: Counter[int] = Counter()
        within: dict[str, Counter[int]] = {query: Counter() for query in known.queries}
        for number, row, weight in zip(known.query.tolist(), known.row.tolist(), known.weight.tolist(), strict=True):
            overall[row] += weight
            within[known.queries[number]][row] += weight
        self._overall = _best_first(overall)
        self._within = {query: _best_first(counts) for query, counts in within.items()}

    def random(self, query_id: str, k: int, *, seed: int) -> Ranking:
        """Return k items drawn uniformly; the same ones whenever the same query is asked with the same seed."""
        generator = np.random.default_rng([seed, *query_id.encode()])
        return generator.choice(self.n_items, min(k, self.n_items), replace=False).tolist()  # type: ignore[no-any-return]

    def popular(self, k: int) -> Ranking:
        """Return the k items with the greatest weight of all choices; ties in row order."""
        return self._overall[:k]

    def popular_within(self, query: str, k: int) -> Ranking:
        """Return the items with the greatest weight among this query's choices; none for an unseen query."""
        return self._within.get(query, [])[:k]


def _best_first(counts: Counter[int]) -> list[int]:
    return sorted(counts, key=lambda row: (-counts[row], row))
