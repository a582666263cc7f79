"""The oracle: the best order there is, because it knows the tastes that the choices were drawn from.

``oracle.parquet`` holds it for the searches of the last part of the time span, ``anonymous_oracle.parquet`` the best
order for a shopper of whom nothing is known. Both are keyed by ``search_id``; ``Oracle.for_examples`` finds the
searches that prepared examples came from, whatever their ``query_id`` is.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.errors import ArtefactError
from corpus.events import EventType
from corpus.items import ItemTable
from corpus.prepared import Example
from corpus.synthetic.catalogue import IntArray
from corpus.synthetic.item_texts import item_id
from corpus.synthetic.simulation import Ranking

ORACLE_FILE = "oracle.parquet"
ANONYMOUS_ORACLE_FILE = "anonymous_oracle.parquet"
ORACLE_SCHEMA: dict[str, Any] = {
    "search_id": pl.String,
    "user_id": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),  # of the search; with user_id it names the search as well
    "item_id": pl.String,
    "rank": pl.Int64,  # from 1
    "probability": pl.Float64,  # that this shopper buys the item, had they looked at the whole catalogue
    "expected_gain": pl.Float64,  # expected grade 0-3 of the item under the same condition
}


def oracle_frame(events: pl.DataFrame, searches: IntArray, ranking: Ranking, n_items: int) -> pl.DataFrame:
    """Write a ranking in the columns of ``ORACLE_SCHEMA``.

    Args:
        events: The log, of which the search events are read.
        searches: int64 (n,), numbers of the ranked searches in the timetable.
        ranking: Their best items.
        n_items: Size of the catalogue.
    """
    depth = ranking.items.shape[1]
    # the timetable and the log both are in order of time, and so are the names of searches
    asked = events.filter(pl.col("type") == EventType.SEARCH.value).sort("search_id")
    rows = np.repeat(searches, depth)
    return pl.DataFrame(
        {
            "search_id": asked["search_id"].gather(rows),
            "user_id": asked["user_id"].gather(rows),
            "timestamp": asked["timestamp"].gather(rows),
            "item_id": pl.Series([item_id(row) for row in range(n_items)]).gather(ranking.items.ravel()),
            "rank": pl.Series(np.tile(np.arange(1, depth + 1), len(searches))),
            "probability": pl.Series(ranking.probability.ravel()),
            "expected_gain": pl.Series(ranking.gain.ravel()),
        }
    ).select(pl.col(name).cast(kind) for name, kind in ORACLE_SCHEMA.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Best:
    """The best items of one search, best first."""

    items: list[str]
    gains: list[float]


class Oracle:
    """The best items of some searches, by query id."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """Read a frame with the columns of ``ORACLE_SCHEMA``; the query ids are its search ids."""
        listed = (
            frame.sort("search_id", "rank")
            .group_by("search_id", maintain_order=True)
            .agg(pl.col("user_id", "timestamp").first(), "item_id", "expected_gain")
        )
        self._best: dict[str, _Best] = {}
        self._id_of: dict[tuple[str | None, datetime | None], str] = {}
        for query_id, user_id, timestamp, items, gains in listed.iter_rows():
            self._best[query_id] = _Best(items=items, gains=gains)
            self._id_of[user_id, timestamp] = query_id

    @classmethod
    def read(cls, path: Path) -> "Oracle":
        """Read a file that ``generate`` wrote.

        Raises:
            ArtefactError: If the file is missing or is no oracle.
        """
        try:
            return cls(pl.read_parquet(path).select(pl.col(name).cast(kind) for name, kind in ORACLE_SCHEMA.items()))
        except (OSError, pl.exceptions.PolarsError) as exc:
            raise ArtefactError(
                f"expected an oracle of the synthetic store at {path}, got: {exc}; generate the store again"
            ) from exc

    def for_examples(self, examples: Iterable[Example]) -> "Oracle":
        """Return the oracle of those examples that it knows, by their query ids.

        An example is known by its query id, if that is a ``search_id``, and else by its shopper and timestamp.
        """
        found = copy(self)
        found._best, found._id_of = {}, {}
        for example in examples:
            place = (example.user_id, example.timestamp)
            query_id = example.query_id if example.query_id in self._best else self._id_of.get(place)
            if query_id is not None:
                found._best[example.query_id] = self._best[query_id]
                found._id_of[place] = example.query_id
        return found

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._best

    def __len__(self) -> int:
        return len(self._best)

    @property
    def query_ids(self) -> Collection[str]:
        """The searches that it ranks."""
        return self._best.keys()

    def rankings(self, items: ItemTable) -> dict[str, list[int]]:
        """Return the rows of an item table, best first, by query id: a run to evaluate like any other.

        Items that the table lacks are left out.
        """
        row_of = {name: row for row, name in enumerate(items.ids)}
        return {
            query_id: [row_of[name] for name in best.items if name in row_of] for query_id, best in self._best.items()
        }

    def share_of_possible(
        self, rankings: Mapping[str, Sequence[int]], items: ItemTable, *, k: int = 10
    ) -> npt.NDArray[np.float64]:
        """Return how much of the best possible expected DCG each ranking reaches.

        Unlike nDCG on logged clicks, this has no sampling noise and no position bias: it weighs every item by its
        expected grade under the choice model. An item beyond the oracle's depth counts as 0.

        Args:
            rankings: Rows of ``items``, best first, by query id; every query must be the oracle's.
            items: The item table whose rows these are.
            k: Depth.
        Returns:
            float64 (n_rankings,) in the order of the mapping, 1 at best.
        Raises:
            ArtefactError: If a query is unknown to the oracle.
        """
        shares = np.zeros(len(rankings))
        for place, (query_id, rows) in enumerate(rankings.items()):
            best = self._best.get(query_id)
            if best is None:
                raise ArtefactError(f"expected queries that the oracle knows, got {query_id}; leave it out")
            gains = dict(zip(best.items, best.gains, strict=True))
            reached = _dcg([gains.get(items.ids[row], 0.0) for row in list(rows)[:k]])
            # the oracle orders by utility, and the expected grade grows with it: its order is the ideal one
            shares[place] = reached / _dcg(best.gains[:k])
        return shares


def oracle_ndcg(oracle: Oracle, examples: Sequence[Example], items: ItemTable, *, k: int = 10) -> float:
    """Return the oracle's mean nDCG on what shoppers did, over the examples that it knows.

    Args:
        oracle: The oracle.
        examples: Prepared examples, e.g. of the test part, with labels.
        items: The prepared item table.
        k: Depth.
    Returns:
        Mean nDCG@k with the grade as gain; NaN if the oracle knows none of the examples.
    """
    rankings = oracle.for_examples(examples).rankings(items)
    values = [
        ndcg(rankings[example.query_id], {label.row: label.grade for label in example.labels}, k=k)
        for example in examples
        if example.query_id in rankings and any(label.grade > 0 for label in example.labels)
    ]
    return float(np.mean(values)) if values else float("nan")


def ndcg(ranking: Sequence[int], grades: Mapping[int, float], *, k: int = 10) -> float:
    """Return nDCG@k with the grade as gain.

    Args:
        ranking: Items, best first.
        grades: Grade by item, at least one of them positive; an item without a grade counts as 0.
        k: Depth.
    Source: Järvelin & Kekäläinen 2002, with the discount 1 / log2(1 + rank).
    """
    ideal = _dcg(sorted(grades.values(), reverse=True)[:k])
    return _dcg([grades.get(item, 0.0) for item in list(ranking)[:k]]) / ideal


def _dcg(gains: Sequence[float]) -> float:
    return float(np.sum(np.asarray(gains) / np.log2(np.arange(2, len(gains) + 2))))
