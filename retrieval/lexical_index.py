"""BM25 over the catalogue's text, by tantivy."""

from pathlib import Path
from typing import TYPE_CHECKING

from corpus.items import ItemTable
from retrieval.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    from retrieval.config import LexicalConfig


class LexicalIndex:
    """BM25 search over title, brand, category, description and attributes."""

    @classmethod
    def build(cls, items: ItemTable, config: "LexicalConfig", folder: Path | None = None) -> "LexicalIndex":
        """Index a catalogue into a folder; None keeps the index in memory."""
        raise NotImplementedError

    @classmethod
    def open(cls, folder: Path) -> "LexicalIndex":
        """Open an index written by ``build``."""
        raise NotImplementedError

    def search(self, query: str, k: int) -> tuple[IntArray, FloatArray]:
        """Return (rows, scores) of any text, best first; ties in row order."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
