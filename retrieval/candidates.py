"""What the first stage hands to the second."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Items found for one query, best first; the arrays run in parallel."""

    rows: IntArray  # (n,) rows of the item table, each at most once
    scores: FloatArray  # (n,) fused, descending
    dense: FloatArray  # (n,) inner product of query and item embedding, exact for every candidate
    lexical: FloatArray  # (n,) BM25; NaN where the lexical channel did not return the item
    behaviour: FloatArray  # (n,) share of like searches that chose the item; 0 where that channel did not return it

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: IntArray | npt.NDArray[np.bool_] | slice) -> "Candidates":
        """Return some of the candidates, in the order asked for."""
        return Candidates(
            rows=self.rows[chosen],
            scores=self.scores[chosen],
            dense=self.dense[chosen],
            lexical=self.lexical[chosen],
            behaviour=self.behaviour[chosen],
        )
