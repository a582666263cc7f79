"""Does a search for an item's own title find it? A bundle whose rows, texts and vectors are out of step does not.

Asked of the first stage alone: the second orders what the first has found. Of the demonstration's 3,000 items 1,000,
and the tests' 60 with an untrained encoder, measured 1.000; the default leaves room for catalogues with many titles
that are nearly the same.
"""

import numpy as np

from corpus.errors import ArtefactError
from corpus.items import ItemTable
from retrieval.retriever import Retriever

SEED = 0  # of the sample
WITHIN = 10  # first places


def check_self_retrieval(retriever: Retriever, items: ItemTable, *, n_items: int, minimum: float) -> None:
    """Refuse a first stage that does not find items by their titles.

    Args:
        retriever: As it will be served.
        items: The catalogue.
        n_items: Asked for so many, a seeded sample.
        minimum: Share of them that must be found.
    Raises:
        ArtefactError: If fewer are.
    """
    share = self_retrieval(retriever, items, n_items=n_items)
    if share < minimum:
        raise ArtefactError(
            f"expected {minimum:.1%} of sampled items among the first {WITHIN} results for their own titles "
            f"(build.min_self_retrieval), got {share:.1%}; prepare the data and train the retriever again, "
            "or lower the share if many titles are nearly the same"
        )


def self_retrieval(retriever: Retriever, items: ItemTable, *, n_items: int) -> float:
    """Return the share of sampled items that are among the first ten results for their own titles.

    An item of the same title, whatever the case and the spaces, counts as the item itself: no search tells them apart.

    Args:
        retriever: The first stage.
        items: The catalogue; at least one item.
        n_items: Size of the sample.
    """
    rows = np.sort(np.random.default_rng(SEED).permutation(len(items))[:n_items]).tolist()
    titles = items.titles(rows)
    found = retriever.retrieve_batch(titles, WITHIN)
    hits = [
        _same(title) in map(_same, items.titles(candidates.rows[:WITHIN].tolist()))
        for title, candidates in zip(titles, found, strict=True)
    ]
    return float(np.mean(hits))


def _same(title: str) -> str:
    return " ".join(title.casefold().split())
