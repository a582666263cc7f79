"""Mining hard negatives: what the towers, as tuned so far, wrongly put near a query. Imports torch."""

import logging
from functools import partial
from pathlib import Path

import numpy as np

from corpus.prepared import Prepared
from corpus.progress import track
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import RetrieverConfig, RetrieverTrainConfig, VectorIndexConfig
from retrieval.engines.encoder import open_torch_encoder
from retrieval.passages import passages
from retrieval.training.hard_negatives import HardNegatives
from retrieval.training.pairs import TrainingPairs, holds
from retrieval.vectors.embeddings import embed_items
from retrieval.vectors.vector_index import VectorIndex

logger = logging.getLogger(__name__)

QUERIES_PER_SEARCH = 1024  # bounds the memory that a search's hits take


def mine_hard_negatives(
    prepared: Prepared, pairs: TrainingPairs, model: Path, config: RetrieverConfig, cache: Path
) -> HardNegatives:
    """Search the whole catalogue for every training query and keep what may be its negatives.

    Args:
        prepared: The catalogue, and the items that were judged irrelevant.
        pairs: The training pairs.
        model: Folder of the towers to search with.
        config: How texts are read, and how to mine.
        cache: Folder of cached embeddings.
    Raises:
        ArtefactError: If there is no such model.
    """
    device = "cpu" if config.train.device == "cpu" else None
    open_encoder = partial(open_torch_encoder, model, dim=config.dim, device=device)
    item_encoder = open_encoder(role="item", max_tokens=config.max_item_tokens)
    query_encoder = open_encoder(role="query", max_tokens=config.max_query_tokens)
    items = embed_items(item_encoder, passages(prepared.items, config.item_fields), cache).vectors
    queries = query_encoder.encode(pairs.queries, progress=f"embedding {len(pairs.queries):,} queries")
    mined = choose_negatives(queries, items, pairs, irrelevant_keys(prepared, pairs), config.train)
    logger.info(
        "mined %.1f candidates per query, of which a pair's margin leaves %.1f",
        (mined.rows >= 0).sum(axis=1).mean(),
        ((mined.rows >= 0).sum(axis=1)[pairs.query] - mined.first).mean(),
    )
    return mined


def irrelevant_keys(prepared: Prepared, pairs: TrainingPairs) -> IntArray:
    """Return the keys (``TrainingPairs.keys``) of the items judged irrelevant to training queries, ascending."""
    judged = prepared.pairs("train", irrelevant=True)
    number_of = {query: number for number, query in enumerate(pairs.queries)}
    numbers = np.array([number_of.get(query, -1) for query in judged.queries], dtype=np.int64)[judged.query]
    known = numbers >= 0
    return np.unique(pairs.keys(numbers[known], judged.row[known]))


def choose_negatives(
    queries: FloatArray, items: FloatArray, pairs: TrainingPairs, irrelevant: IntArray, train: RetrieverTrainConfig
) -> HardNegatives:
    """Choose each pair's negatives from its query's exact nearest items.

    No item that answered the query anywhere in the training data is one, whatever ``mask_answers`` says. Of the
    others a pair may use those whose score is below ``mining_margin`` times its positive's: what comes closer may
    well answer the query too, only that nobody chose it yet. Items judged irrelevant need no margin.

    Args:
        queries: float32 (n_queries, dim), L2-normalised, of ``pairs.queries``.
        items: float32 (n_items, dim), L2-normalised.
        pairs: The training pairs.
        irrelevant: Keys of the items judged irrelevant, ascending.
        train: Depth, margin, and how many of the best ranks to pass over.
    Source: Moreira et al. 2024, "NV-Retriever: Improving text embedding models with effective hard-negative mining",
        TopK-PercPos.
    """
    index = VectorIndex.build(items, VectorIndexConfig(kind="flat"))
    depth = min(train.mining_depth, len(items))
    rows = np.full((len(queries), depth), -1, dtype=np.int32)
    answered, pair_of = np.unique(pairs.keys(pairs.query, pairs.row), return_inverse=True)
    query_of = answered // pairs.n_items  # (n_answered,), ascending
    first = np.zeros(len(answered), dtype=np.int32)
    starts = range(0, len(queries), QUERIES_PER_SEARCH)
    for start in track(starts, description=f"mining for {len(queries):,} queries"):
        vectors = queries[start : start + QUERIES_PER_SEARCH]
        hits = index.search(vectors, depth)  # (n, depth)
        keys = pairs.keys(np.arange(start, start + len(vectors))[:, None], hits.ids)
        judged = holds(irrelevant, keys)
        open_to_all = judged & ~holds(answered, keys)
        by_margin = ~judged & ~holds(answered, keys)
        by_margin[:, : train.mining_skip] = False
        # by score those that need the margin, then those that do not: so each pair may use the end of the row
        order = np.argsort(np.where(by_margin, 0, np.where(open_to_all, 1, 2)), axis=1, kind="stable")
        chosen = np.where(by_margin | open_to_all, hits.ids, -1)
        rows[start : start + len(vectors)] = np.take_along_axis(chosen, order, axis=1)
        here = slice(*np.searchsorted(query_of, [start, start + len(vectors)]))
        positives = np.einsum("nd,nd->n", queries[query_of[here]], items[answered[here] % pairs.n_items])
        scores = np.where(by_margin, hits.scores, -np.inf)[query_of[here] - start]  # (n_answered here, depth)
        first[here] = (scores >= _threshold(positives, train.mining_margin)[:, None]).sum(axis=1)
    return HardNegatives(rows=rows, first=first[pair_of])


def _threshold(positives: FloatArray, margin: float) -> FloatArray:
    # margin x score for scores above 0; for others as far below, where a product would rise above the score
    return (positives - (1 - margin) * np.abs(positives)).astype(np.float32)
