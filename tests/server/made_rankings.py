"""Rankings by hand."""

from collections.abc import Sequence

import numpy as np

from server.stages.ranking import Ranking


def ranking_of(rows: Sequence[int], *, scores: Sequence[float], purchase: Sequence[float] | None = None) -> Ranking:
    """A ranking whose stage scores all differ; nothing is known of probabilities but those of purchase."""
    n = len(rows)
    places = np.arange(n, dtype=np.float32)
    probabilities = np.full((n, 3), np.nan, dtype=np.float32)
    if purchase is not None:
        probabilities[:, 2] = purchase
    return Ranking(
        rows=np.array(rows, dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
        retrieval=1 - places / 100,
        dense=0.5 - places / 100,
        lexical=20 - places,
        behaviour=0.3 - places / 1000,
        rerank=-places,
        probabilities=probabilities,
    )
