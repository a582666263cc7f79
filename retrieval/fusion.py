"""Joining the dense and the lexical channel, and fitting their weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from corpus.config import Section
from corpus.prepared import Example
from retrieval.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The union of both channels' candidates for one query, not yet ordered."""

    rows: IntArray  # (n,) ascending, each once
    dense: FloatArray  # (n,) exact inner product
    lexical: FloatArray  # (n,) BM25; NaN where the lexical channel did not return the item
    in_dense: IntArray  # (n,) rank from 1 in the dense channel; 0 where it did not return the item


class PoolSource(Protocol):
    """Whatever collects both channels' candidates: a ``Retriever``."""

    def pools(self, queries: Sequence[str], k: int) -> list[Pool]:
        """Return one pool per query with up to k candidates of each channel."""
        ...


class FusionReport(Section):
    """Outcome of fitting the fusion weight on validation examples."""

    dense_weight: float  # chosen
    mrr: float  # MRR@10 at the chosen weight
    curve: dict[str, float]  # MRR@10 by weight, "0.00" to "1.00"
    dense_alone: float
    lexical_alone: float
    reciprocal_rank: float  # reciprocal-rank fusion, k = 60
    n_examples: int


def fit_fusion(source: PoolSource, examples: Sequence[Example], *, depth: int = 100) -> FusionReport:
    """Choose the dense weight by MRR@10 on validation examples.

    Args:
        source: A retriever; its own weight plays no part.
        examples: Validation examples; those without a label of weight above 0 are left out.
        depth: Candidates per channel.
    """
    raise NotImplementedError
