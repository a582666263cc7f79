"""The data sets that quality is measured on, and the settings each one is trained with.

Settings were chosen on the validation split, numbers of steps by the time they take. ``QUICK`` is for daily use: the
same code on few steps and a cut-down store, in some minutes on two free cores.
"""

from dataclasses import dataclass, field

from benchmarks.thinning import Sizes
from corpus.config import read_override
from server.cli.data import SYNTHETIC_SEARCHES
from server.cli.demo import DEMO_SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set: its importer, its folder under --shared, its settings."""

    kind: str
    folder: str | None  # None: made, not imported
    settings: dict[str, object] = field(default_factory=dict)
    relevant_grade: float | None = None  # judged data: from this grade on an item counts as relevant
    n_test_queries: int | None = None  # None: all
    n_searches: int = SYNTHETIC_SEARCHES  # of a synthetic log


QUICK: dict[str, object] = {
    "retriever.train.epochs": 5,  # so that the steps decide
    "retriever.train.max_steps": 15,
    "retriever.train.valid_examples": 100,
    "retriever.train.valid_items": 500,
    "reranker.train.epochs": 5,
    "reranker.train.max_steps": 10,
    "reranker.train.valid_examples": 50,
    "reranker.n_layers": 3,
    "blend.min_searches": 40,  # of the fewer than 100 that are left
    "build.n_calibration": 50,
    "build.n_recall_queries": 100,
}
QUICK_SIZES = Sizes(train=500, valid=100, test=100, items=1500)

DATA_SETS: dict[str, DataSet] = {
    # Several items answer a query, some far more often than others: the towers learn by how much only if the other
    # answers stay in the softmax. Descriptions belong to films and music alone, the clicks to games.
    "bestbuy": DataSet(
        kind="bestbuy",
        folder="bestbuy",
        settings={
            "retriever.train.mask_answers": "item",
            "retriever.train.epochs": 1,
            "retriever.lexical.description": 0.0,
            "reranker.base_model": "retriever",
            "reranker.train.max_steps": 250,
        },
    ),
    "homedepot": DataSet(
        kind="homedepot",
        folder="homedepot",
        settings={
            "retriever.train.epochs": 1,
            "reranker.base_model": "retriever",
            "reranker.train.max_steps": 200,
        },
        relevant_grade=2.25,  # relevance 2.5 of 3
    ),
    # A few hundred queries, each answered by hundreds of items: masking them would leave hardly a negative.
    **{
        name: DataSet(
            kind="purchases",
            folder=name,
            settings={
                "retriever.train.mask_answers": "item",
                "retriever.train.max_steps": 400,
                "reranker.base_model": "retriever",
                "reranker.max_history_tokens": 32,
                "reranker.train.lists_per_batch": 8,
                "reranker.train.max_steps": 100,
                "blend.max_reranked": 400,
            },
            n_test_queries=1000,
        )
        for name in ("beauty", "toys", "games")
    },
    # What `tandem demo` does, beside the do-it-yourself stack: a quarter of an hour in all.
    "demo": DataSet(kind="synthetic", folder=None, settings=dict(map(read_override, DEMO_SETTINGS))),
    # A longer log than the demonstration's: the models read what one says of 3,000 items thrice as often.
    "synthetic": DataSet(
        kind="synthetic",
        folder=None,
        settings={
            "reranker.base_model": "retriever",
            "reranker.train.max_steps": 300,
        },
        n_test_queries=1000,
        n_searches=40_000,
    ),
}
