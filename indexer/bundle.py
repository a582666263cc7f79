"""A bundle in memory: everything that one version of the server answers from."""

from dataclasses import dataclass
from pathlib import Path

from corpus.items import ItemTable
from indexer.manifest import BundleManifest
from rerank.reranker import Reranker
from retrieval.retriever import Retriever

ITEMS_FILE = "items.parquet"
VECTORS_FILE = "vectors.npy"
VECTOR_INDEX_FILE = "vector.index"
LEXICAL_FOLDER = "lexical"
PASSAGES_FOLDER = "passages"
ENCODER_FOLDER = "encoder"
RERANKER_FOLDER = "reranker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened bundle."""

    manifest: BundleManifest
    items: ItemTable
    retriever: Retriever
    reranker: "Reranker | None"  # None: built before any reranker was trained


def open_bundle(folder: Path, *, n_threads: int | None = None, verify: bool = True) -> Bundle:
    """Open a bundle for serving.

    Args:
        folder: A bundle version's folder.
        n_threads: Threads of the inference engines; None leaves it to them.
        verify: Check every file's digest first. Pass False only for a bundle that was verified a moment ago.
    Raises:
        BundleCorrupt: If anything in the folder is not what was built; every bad file is named.
        ModelIndexMismatch: If a model and an index in it were built from different encoders.
    """
    raise NotImplementedError
