"""Nearest neighbours among item embeddings, by FAISS."""

from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    from retrieval.config import VectorIndexConfig


class VectorIndex:
    """Inner-product search over item embeddings; a hit's id is the item's row."""

    dim: int

    @classmethod
    def build(cls, vectors: FloatArray, config: "VectorIndexConfig") -> "VectorIndex":
        """Index float32 (n, dim) vectors in row order."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: Path, config: "VectorIndexConfig") -> "VectorIndex":
        """Open an index written by ``save``."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write the index to one file."""
        raise NotImplementedError

    def search_one(self, query: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        """Return (rows, scores) of one query (dim,), best first, without padding."""
        raise NotImplementedError

    def vectors_of(self, rows: IntArray) -> FloatArray:
        """Return the embeddings of rows, float32 (n, dim)."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
