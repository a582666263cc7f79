"""What the first stage hands to the second."""

from dataclasses import dataclass

from retrieval.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Items found for one query, best first; the four arrays run in parallel."""

    rows: IntArray  # (n,) rows of the item table, each at most once
    scores: FloatArray  # (n,) fused, descending
    dense: FloatArray  # (n,) inner product of query and item embedding, exact for every candidate
    lexical: FloatArray  # (n,) BM25; NaN where the lexical channel did not return the item

    def __len__(self) -> int:
        return len(self.rows)
