"""The first stage: query text to candidates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corpus.items import ItemTable
from retrieval.candidates import Candidates
from retrieval.encoder import TextEncoder
from retrieval.fusion import Pool
from retrieval.lexical_index import LexicalIndex
from retrieval.vector_index import VectorIndex

if TYPE_CHECKING:
    from retrieval.config import RetrieverConfig

__all__ = ["Candidates", "Retriever", "build_retriever"]


class Retriever:
    """Finds candidates through the vector index and the lexical index, and fuses them."""

    def __init__(
        self,
        encoder: TextEncoder,
        vector_index: VectorIndex,
        lexical_index: LexicalIndex,
        dense_weight: float,
    ) -> None:
        self.encoder = encoder
        self.vector_index = vector_index
        self.lexical_index = lexical_index
        self.dense_weight = dense_weight

    def retrieve(self, query: str, k: int) -> Candidates:
        """Return the k best candidates of one query."""
        raise NotImplementedError

    def retrieve_batch(self, queries: Sequence[str], k: int) -> list[Candidates]:
        """Return the k best candidates of each query."""
        raise NotImplementedError

    def pools(self, queries: Sequence[str], k: int) -> list[Pool]:
        """Return both channels' candidates of each query, not yet fused."""
        raise NotImplementedError

    def with_dense_weight(self, dense_weight: float) -> "Retriever":
        """Return a retriever over the same indexes with another weight: 1.0 is dense alone, 0.0 lexical alone."""
        raise NotImplementedError


def build_retriever(
    items: ItemTable,
    model_dir: Path,
    config: "RetrieverConfig",
    cache: Path,
    *,
    dense_weight: float | None = None,
) -> Retriever:
    """Build an in-memory retriever for training and evaluation, with torch.

    Args:
        items: The catalogue.
        model_dir: A retriever version's folder (holds ``model/``).
        config: How passages are made and the indexes built.
        cache: Folder of cached embeddings.
        dense_weight: Fusion weight; None reads the fitted one from ``model.json``.
    """
    raise NotImplementedError
