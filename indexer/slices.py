"""The kinds of searches that an evaluation looks at one by one.

By frequency of the query in the training split: the distinct training queries are sorted by their number of searches;
the most frequent ones that make up the first third of all training searches are the head, the next third is the torso,
the rest the tail. A query that a border runs through belongs to the part that it begins in. Queries that no training
search holds are unseen. New items: searches whose relevant items were all never chosen in training. By history: how
many earlier events of the shopper are known.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt

from corpus.prepared import Example, Label

Mask = npt.NDArray[np.bool_]  # (n_queries,)
Frequency = Literal["head", "torso", "tail", "unseen"]

BY_TRAINING = "what training saw"
BY_HISTORY = "length of history"


class TrainingTraffic:
    """How often each query was searched in the training split, and which items were ever chosen there."""

    def __init__(self, training: Iterable[Example]) -> None:
        """Count the examples of the training split; only query and labels are read."""
        n_searches: Counter[str] = Counter()
        self._chosen: set[int] = set()
        for example in training:
            n_searches[example.query] += 1
            self._chosen.update(label.row for label in example.labels if label.weight > 0)
        # of equally frequent queries the order is arbitrary, but always the same
        queries = sorted(n_searches, key=lambda query: (-n_searches[query], query))
        total = n_searches.total()
        begins = accumulate((n_searches[query] for query in queries), initial=0)
        self._part: dict[str, Frequency] = {
            query: "head" if 3 * begin < total else "torso" if 3 * begin < 2 * total else "tail"
            for query, begin in zip(queries, begins, strict=False)
        }

    def frequency(self, query: str) -> Frequency:
        """Return the part of the training searches that a query belongs to."""
        return self._part.get(query, "unseen")

    def is_new(self, row: int) -> bool:
        """Tell whether no training search ended with this item."""
        return row not in self._chosen


def slices(
    examples: Sequence[Example], traffic: TrainingTraffic, is_relevant: Callable[[Label], bool]
) -> list[tuple[str, str, Mask]]:
    """Cut queries into kinds; a kind may be empty, and a query is of several.

    Args:
        examples: The queries; each has a relevant item.
        traffic: What the training split holds.
        is_relevant: Whether a label counts as relevant.
    Returns:
        Name, what it is cut by, and which queries belong to it.
    """
    frequency = np.array([traffic.frequency(example.query) for example in examples])
    is_new = np.array(
        [all(traffic.is_new(label.row) for label in example.labels if is_relevant(label)) for example in examples]
    )
    n_events = np.array([len(example.history) for example in examples])
    return [
        *((name, BY_TRAINING, frequency == name) for name in ("head", "torso", "tail", "unseen")),
        ("new items", BY_TRAINING, is_new),
        ("no history", BY_HISTORY, n_events == 0),
        ("1-3 events", BY_HISTORY, (n_events >= 1) & (n_events <= 3)),
        ("4+ events", BY_HISTORY, n_events >= 4),
    ]
