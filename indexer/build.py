"""From a prepared catalogue and two trained models to a bundle: embed, index, export, measure, verify.

A bundle grows in ``bundles/.building-vN`` and is renamed to ``bundles/vN`` when it has been opened and found whole: a
half-built folder never counts, whatever kills the build. What takes longest, the embeddings, is kept in the
workspace's cache, so the next attempt, and every rebuild after it, embeds only what is new.
"""

import logging
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from corpus.errors import InputError
from corpus.items import ItemTable
from corpus.prepared import Example, Prepared
from corpus.workspace import Workspace
from indexer.bundle import (
    ENCODER_FOLDER,
    ITEMS_FILE,
    LEXICAL_FOLDER,
    PASSAGES_FOLDER,
    RERANKER_FOLDER,
    VECTOR_INDEX_FILE,
    VECTORS_FILE,
    open_bundle,
)
from indexer.checks import check_agreement, check_recall, measure_recall
from indexer.config import BuildConfig
from indexer.construction import construction
from indexer.description import Built, describe
from indexer.engines import get_encoder, put_encoder, put_reranker
from indexer.manifest import MANIFEST_FILE, BundleManifest
from indexer.models import TrainedModels, choose_models
from indexer.publish import current_version
from rerank.config import RerankerConfig
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.model_info import MODEL_FOLDER as RERANKER_MODEL
from retrieval.config import RetrieverConfig
from retrieval.embeddings import embed_items
from retrieval.encoder import open_torch_encoder
from retrieval.lexical_index import LexicalIndex
from retrieval.model_info import MODEL_FOLDER as RETRIEVER_MODEL
from retrieval.passages import passages
from retrieval.retriever import Retriever
from retrieval.vector_index import VectorIndex

logger = logging.getLogger(__name__)

CALIBRATION_DEPTH = 50  # candidates of a calibration search
CALIBRATION_SEED = 0


class BuildReport(BaseModel):
    """What a build did."""

    model_config = ConfigDict(frozen=True)

    manifest: BundleManifest
    n_embedded: int  # distinct passages that were embedded anew
    n_reused: int  # distinct passages whose embedding was known
    seconds: float


def build_bundle(
    workspace: Workspace,
    retriever_config: RetrieverConfig,
    reranker_config: RerankerConfig,
    config: BuildConfig,
    *,
    retriever_version: str | None = None,
    reranker_version: str | None = None,
) -> BuildReport:
    """Build the next bundle of a workspace; it is not served before it is published.

    Args:
        workspace: The store: prepared data and trained models.
        retriever_config: Settings of the indexes; what the towers read stays as they were trained.
        reranker_config: Compared with the trained reranker's, which counts.
        config: Engines, precisions and limits.
        retriever_version: None is the newest.
        reranker_version: None is the newest that was trained on that retriever's candidates.
    Raises:
        ArtefactError: If data or models are missing, another build runs, or what was built fails a check.
        ModelIndexMismatch: If the reranker belongs to another retriever.
        InputError: If the catalogue is empty.
    """
    started = time.monotonic()
    prepared = Prepared(workspace.data)
    items = prepared.items
    if not len(items):
        raise InputError(f"expected items in {prepared.folder}, got an empty catalogue; mend the source and prepare it")
    models = choose_models(workspace, retriever_version, reranker_version)
    stage = models.retriever_config(retriever_config)
    searches = _sample_searches(prepared, config.n_calibration)
    with construction(workspace.bundles) as site:
        folder = site.folder
        items.write(folder / ITEMS_FILE)

        logger.info("bundle %s: embedding %d items", site.version, len(items))
        item_encoder = open_torch_encoder(
            models.retriever_folder / RETRIEVER_MODEL, role="item", max_tokens=stage.max_item_tokens
        )
        embedded = embed_items(item_encoder, passages(items, stage.item_fields), workspace.embeddings)
        np.save(folder / VECTORS_FILE, embedded.vectors, allow_pickle=False)

        logger.info("bundle %s: building both indexes", site.version)
        vector_index = VectorIndex.build(embedded.vectors, stage.index)
        vector_index.save(folder / VECTOR_INDEX_FILE)
        lexical_index = LexicalIndex.build(items, stage.lexical, folder / LEXICAL_FOLDER)

        logger.info("bundle %s: exporting the query encoder", site.version)
        queries = [search.query for search in searches]
        put_encoder(
            models.retriever_folder,
            folder / ENCODER_FOLDER,
            config,
            max_tokens=stage.max_query_tokens,
            queries=queries,
        )
        encoder = get_encoder(folder / ENCODER_FOLDER, config.engine, max_tokens=stage.max_query_tokens, n_threads=None)
        retriever = Retriever(encoder, vector_index, lexical_index, _dense_weight(models, stage))

        if models.reranker_folder is not None:
            logger.info("bundle %s: tokenising passages, exporting the reranker", site.version)
            _add_reranker(folder, models, config, items, retriever, searches)

        logger.info("bundle %s: measuring recall", site.version)
        recall_queries = [e.query for e in prepared.examples("valid", limit=config.n_recall_queries)] or queries
        recall = measure_recall(vector_index, encoder.encode(recall_queries))
        check_recall(recall, config.min_ann_recall)
        check_agreement(encoder, models.retriever_folder / RETRIEVER_MODEL, queries)

        built = Built(
            version=site.version,
            parent=current_version(workspace.bundles),
            folder=folder,
            models=models,
            config={
                "build": config,
                "retriever": stage,
                "reranker": models.reranker_config(reranker_config),
            },
            retriever=retriever,
            item_encoder_fingerprint=item_encoder.fingerprint,
            ann_recall=recall,
            n_recall_queries=len(recall_queries),
            data_fingerprint=prepared.fingerprint,
        )
        manifest = describe(built)
        (folder / MANIFEST_FILE).write_bytes(manifest.render())
        open_bundle(folder)
    seconds = time.monotonic() - started
    logger.info("bundle %s: built in %.0f s", manifest.version, seconds)
    return BuildReport(
        manifest=manifest, n_embedded=embedded.n_embedded, n_reused=embedded.n_reused, seconds=round(seconds, 3)
    )


def _add_reranker(
    folder: Path,
    models: TrainedModels,
    config: BuildConfig,
    items: ItemTable,
    retriever: Retriever,
    searches: list[Example],
) -> None:
    if models.reranker is None or models.reranker_folder is None:
        raise ValueError("expected models with a reranker")
    trained = models.reranker.config
    tokenizer = PairTokenizer.load(models.reranker_folder / RERANKER_MODEL)
    tokens = PassageTokens.build(tokenizer, passages(items, trained.item_fields), trained.max_item_tokens)
    tokens.save(folder / PASSAGES_FOLDER)
    found = retriever.retrieve_batch([search.query for search in searches], CALIBRATION_DEPTH)
    rows = [(search, candidates.rows) for search, candidates in zip(searches, found, strict=True)]
    put_reranker(
        models.reranker_folder,
        folder / RERANKER_FOLDER,
        config,
        items=items,
        passage_tokens=tokens,
        searches=rows,
    )


def _dense_weight(models: TrainedModels, stage: RetrieverConfig) -> float:
    configured = stage.fusion.dense_weight
    return models.retriever.fusion.dense_weight if configured is None else configured


def _sample_searches(prepared: Prepared, n: int) -> list[Example]:
    """Draw training searches to calibrate on; a store without any gets its own titles as queries."""
    drawn = prepared.examples("train", limit=n, seed=CALIBRATION_SEED)
    if drawn:
        return drawn
    titles = prepared.items.titles(range(min(n, len(prepared.items))))
    return [
        Example(query_id=f"title-{row}", query=title, user_id=None, timestamp=None, labels=(), history=())
        for row, title in enumerate(titles)
    ]
