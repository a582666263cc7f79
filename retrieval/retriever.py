"""The first stage: query text to candidates."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from corpus.errors import ModelIndexMismatch
from corpus.items import ItemTable
from retrieval.arrays import FloatArray, IntArray, check_depth
from retrieval.candidates import Candidates
from retrieval.config import RetrieverConfig
from retrieval.embeddings import embed_items
from retrieval.encoder import TextEncoder, open_torch_encoder
from retrieval.fusion import Pool, check_weight, fuse, make_pool
from retrieval.lexical_index import LexicalIndex
from retrieval.model_info import MODEL_FILE, MODEL_FOLDER, load_retriever_info
from retrieval.passages import passages
from retrieval.vector_index import VectorIndex

__all__ = ["Candidates", "Retriever", "build_retriever"]

# before validation queries have spoken: half of a cosine, half of a BM25 share
DEFAULT_DENSE_WEIGHT = 0.5
_NOTHING: tuple[IntArray, FloatArray] = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


class Retriever:
    """Finds candidates through the vector index and the lexical index, and fuses them. Safe for several threads."""

    def __init__(
        self, encoder: TextEncoder, vector_index: VectorIndex, lexical_index: LexicalIndex, dense_weight: float
    ) -> None:
        """Join the parts.

        Args:
            encoder: The query encoder.
            vector_index: Embeddings of the item encoder of the same model, by row.
            lexical_index: The same catalogue's words, by row.
            dense_weight: See ``retrieval.fusion``; 1.0 is dense alone, 0.0 lexical alone.
        Raises:
            ModelIndexMismatch: If the widths of encoder and index, or the lengths of the indexes, differ.
            ConfigError: If the weight is not within [0, 1].
        """
        if encoder.dim != vector_index.dim:
            raise ModelIndexMismatch(
                f"expected an index of the encoder's {encoder.dim} dimensions, got {vector_index.dim}; build it again"
            )
        if len(vector_index) != len(lexical_index):
            raise ModelIndexMismatch(
                f"expected both indexes to hold one catalogue, got {len(vector_index)} vectors and "
                f"{len(lexical_index)} texts; build them again"
            )
        check_weight(dense_weight)
        self.encoder = encoder
        self.vector_index = vector_index
        self.lexical_index = lexical_index
        self.dense_weight = dense_weight

    def with_dense_weight(self, dense_weight: float) -> "Retriever":
        """Return a retriever over the same indexes with another weight: 1.0 is dense alone, 0.0 lexical alone."""
        return Retriever(self.encoder, self.vector_index, self.lexical_index, dense_weight)

    def retrieve(self, query: str, k: int, *, exact: bool = False) -> Candidates:
        """Find candidates for one query.

        Args:
            query: Normalised (``corpus.queries.normalize_query``).
            k: Most candidates; each channel is asked for as many.
            exact: Compare the query with every item's embedding instead of searching approximately.
        Returns:
            At most k candidates, best first: k of them unless the catalogue is smaller or the weight is 0.
        Raises:
            InputError: If k is below 1.
        """
        return self.retrieve_batch([query], k, exact=exact)[0]

    def retrieve_batch(self, queries: Sequence[str], k: int, *, exact: bool = False) -> list[Candidates]:
        """Find candidates for several queries at once; see ``retrieve``."""
        lexical = self.dense_weight < 1
        return [fuse(pool, self.dense_weight, k) for pool in self._pools(queries, k, lexical=lexical, exact=exact)]

    def pools(self, queries: Sequence[str], k: int) -> list[Pool]:
        """Return the union of both channels' k best for each query, not yet fused."""
        return self._pools(queries, k, lexical=True, exact=False)

    def _pools(self, queries: Sequence[str], k: int, *, lexical: bool, exact: bool) -> list[Pool]:
        check_depth(k)
        vectors = self.encoder.encode(queries)  # (n_queries, dim)
        hits = self.vector_index.search(vectors, k, exact=exact)
        pools = []
        for query, vector, ids, scores in zip(queries, vectors, hits.ids, hits.scores, strict=True):
            found = ids >= 0
            words = self.lexical_index.search(query, k) if lexical else _NOTHING
            pools.append(make_pool((ids[found], scores[found]), words, partial(self._cosines, vector)))
        return pools

    def _cosines(self, vector: FloatArray, rows: IntArray) -> FloatArray:
        return self.vector_index.vectors_of(rows) @ vector


def build_retriever(
    items: ItemTable,
    model_dir: Path,
    config: RetrieverConfig,
    cache: Path,
    *,
    dense_weight: float | None = None,
) -> Retriever:
    """Build an in-memory retriever for training and evaluation: torch encoders, exact search.

    Args:
        items: The catalogue.
        model_dir: A retriever version's folder, which holds ``model/``; ``model.json`` may not be there yet.
        config: How passages are made and words are weighed; the kind of vector index is not heeded.
        cache: Folder of cached embeddings.
        dense_weight: Fusion weight; None: the configuration's, else the one fitted in ``model.json``, else 0.5.
    Raises:
        ArtefactError: If there is no such model.
    """
    model = model_dir / MODEL_FOLDER
    item_encoder = open_torch_encoder(model, role="item", max_tokens=config.max_item_tokens, dim=config.dim)
    vectors = embed_items(item_encoder, passages(items, config.item_fields), cache).vectors
    weight = dense_weight if dense_weight is not None else config.fusion.dense_weight
    if weight is None:
        fitted = (model_dir / MODEL_FILE).is_file()
        weight = load_retriever_info(model_dir).fusion.dense_weight if fitted else DEFAULT_DENSE_WEIGHT
    return Retriever(
        open_torch_encoder(model, role="query", max_tokens=config.max_query_tokens, dim=config.dim),
        VectorIndex.build(vectors, config.index.model_copy(update={"kind": "flat"})),
        LexicalIndex.build(items, config.lexical),
        weight,
    )
