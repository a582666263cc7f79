"""The data sets that quality is measured on, and the settings each one is trained with.

Settings were chosen on the validation split; the test split is only reported on. ``quick`` is for daily use: the
same code on fewer steps.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set: its importer, its folder under --shared, its settings."""

    kind: str
    folder: str | None  # None: made, not imported
    settings: dict[str, object] = field(default_factory=dict)
    quick: dict[str, object] = field(default_factory=dict)
    relevant_grade: float | None = None  # judged data: from this grade on an item counts as relevant
    n_test_queries: int | None = None  # None: all


QUICK: dict[str, object] = {
    "retriever.train.max_steps": 30,
    "reranker.train.max_steps": 15,
    "reranker.n_layers": 3,
}

DATA_SETS: dict[str, DataSet] = {
    "bestbuy": DataSet(kind="bestbuy", folder="bestbuy", quick=QUICK),
    "homedepot": DataSet(kind="homedepot", folder="homedepot", quick=QUICK, relevant_grade=2.5),
    "beauty": DataSet(kind="purchases", folder="beauty", quick=QUICK, n_test_queries=2000),
    "toys": DataSet(kind="purchases", folder="toys", quick=QUICK, n_test_queries=2000),
    "games": DataSet(kind="purchases", folder="games", quick=QUICK, n_test_queries=2000),
    "synthetic": DataSet(kind="synthetic", folder=None, quick=QUICK),
}
