"""From a prepared catalogue and two trained models to a bundle: embed, index, export, measure, verify.

A bundle grows in ``bundles/.building-vN`` and is renamed to ``bundles/vN`` when it has been opened and found whole: a
half-built folder never counts, whatever kills the build. What takes longest, the embeddings, is kept in the
workspace's cache, so the next attempt, and every rebuild after it, embeds only what is new.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from corpus.errors import InputError
from corpus.items import ItemTable
from corpus.live_items import merge_changes
from corpus.live_log import Held, read_log
from corpus.prepared import SPLITS, Example, Prepared
from corpus.workspace import Workspace
from indexer.bundle import (
    BEHAVIOUR_FOLDER,
    BLEND_FOLDER,
    ENCODER_FOLDER,
    ITEM_ENCODER_FOLDER,
    ITEMS_FILE,
    LEXICAL_FOLDER,
    PASSAGES_FOLDER,
    RERANKER_FOLDER,
    VECTOR_INDEX_FILE,
    VECTORS_FILE,
    open_bundle,
)
from indexer.canaries import check_canaries
from indexer.config import BuildConfig
from indexer.construction import construction
from indexer.description import Built, describe
from indexer.engines import get_encoder, put_item_encoder, put_reranker
from indexer.item_embeddings import EmbeddedCatalogue, embed_catalogue
from indexer.manifest import MANIFEST_FILE, BundleManifest
from indexer.models import TrainedModels, check_channels, choose_models, resolved_config
from indexer.publish import current_version
from indexer.query_encoder import put_query_encoder
from indexer.self_retrieval import check_self_retrieval
from rerank.blend_info import BLEND_FILE, FIRST_FILE, SECOND_FILE
from rerank.config import RerankerConfig
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.model_info import MODEL_FOLDER as RERANKER_MODEL
from retrieval.config import RetrieverConfig
from retrieval.event_log.behaviour import Behaviour, decayed
from retrieval.event_log.suggestions import SUGGESTIONS_FILE, Suggestions
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.model_info import MODEL_FOLDER as RETRIEVER_MODEL
from retrieval.passages import passage_texts, passages
from retrieval.retriever import Retriever
from retrieval.vectors.index_tuning import Tuned, build_tuned

logger = logging.getLogger(__name__)

CALIBRATION_DEPTH = 50  # candidates of a calibration search
CALIBRATION_SEED = 0
N_TRACED = 8  # passages to trace an item tower with


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
    ray: str | None = None,
) -> BuildReport:
    """Build the next bundle of a workspace; it is not served before it is published.

    Args:
        workspace: The store: prepared data and trained models.
        retriever_config: Settings of the indexes; what the towers read stays as they were trained.
        reranker_config: Compared with the trained reranker's, which counts.
        config: Engines, precisions and limits.
        retriever_version: None is the newest.
        reranker_version: None is the newest that was trained on that retriever's candidates.
        ray: Address of a Ray cluster to embed on, or ``local``; None embeds in this process.
    Raises:
        ArtefactError: If data or models are missing, another build runs, or what was built fails a check.
        ModelIndexMismatch: If the reranker belongs to another retriever.
        InputError: If the catalogue is empty.
    """
    started = time.monotonic()
    models = choose_models(workspace, retriever_version, reranker_version)
    models.warn_of_gaps()
    plan = _plan(workspace, retriever_config, config, models)
    with construction(workspace.bundles) as site:
        plan.items.write(site.folder / ITEMS_FILE)
        logger.info("bundle %s: embedding %d items", site.version, len(plan.items))
        embedded = _embed(plan, workspace, site.folder, ray)
        logger.info("bundle %s: building both indexes, exporting the query encoder", site.version)
        retriever, tuned, used = _write_first_stage(plan, embedded, workspace, site.folder)
        if plan.models.reranker is not None:
            logger.info("bundle %s: tokenising passages, exporting the reranker", site.version)
            _write_second_stage(plan, retriever, site.folder)
        built = Built(
            version=site.version,
            parent=current_version(workspace.bundles),
            folder=site.folder,
            models=plan.models,
            config={
                "build": used,
                "retriever": plan.stage.model_copy(update={"index": tuned.index.config}),
                "reranker": plan.models.reranker_config(reranker_config),
            },
            retriever=retriever,
            item_encoder_fingerprint=embedded.fingerprint,
            tuned=tuned,
            n_recall_queries=len(plan.asked),
            data_fingerprint=plan.prepared.fingerprint,
            held=plan.held,
        )
        manifest = describe(built)
        (site.folder / MANIFEST_FILE).write_bytes(manifest.render())
        del plan, retriever, tuned, built  # so that a large catalogue and its index are in memory once, not twice
        bundle = open_bundle(site.folder)  # as a server would: verified, then every file parsed
        check_self_retrieval(
            bundle.retriever, bundle.items, n_items=config.n_self_retrieval, minimum=config.min_self_retrieval
        )
        check_canaries(bundle, config.canaries)
    seconds = time.monotonic() - started
    logger.info("bundle %s: built in %.0f s", manifest.version, seconds)
    return BuildReport(
        manifest=manifest,
        n_embedded=embedded.report.n_embedded,
        n_reused=embedded.report.n_reused,
        seconds=round(seconds, 3),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a build starts from."""

    prepared: Prepared
    items: ItemTable
    held: Held  # live updates in them
    models: TrainedModels
    stage: RetrieverConfig  # resolved: see TrainedModels.retriever_config
    config: BuildConfig
    searches: list[Example]  # real ones, to trace and calibrate with
    judged: list[Example]  # of the validation split, to compare precisions on

    @property
    def asked(self) -> list[Example]:
        """What the vector index is tuned for: searches of the validation split, else of training, else titles."""
        return self.judged or self.searches


def _plan(workspace: Workspace, wanted: RetrieverConfig, config: BuildConfig, models: TrainedModels) -> _Plan:
    exported = Prepared(workspace.data)
    log = read_log(workspace.live)
    changes = log.beyond(exported.held)
    prepared = exported.under(merge_changes(exported.items, changes))
    if changes:
        logger.info("putting live updates %d to %d into the catalogue", changes[0].sequence, changes[-1].sequence)
    if not len(prepared.items):
        raise InputError(f"expected items in {prepared.folder}, got an empty catalogue; mend the source and prepare it")
    stage = resolved_config(models.retriever, wanted)
    check_channels(models, stage)
    return _Plan(
        prepared=prepared,
        items=prepared.items,
        held=Held(log=log.identity, sequence=max(log.last, log.held_up_to(exported.held)), as_of=exported.held.as_of),
        models=models,
        stage=stage,
        config=config,
        searches=_sample_searches(prepared, config.n_calibration),
        judged=prepared.examples("valid", limit=config.n_recall_queries, with_history=False),
    )


def _embed(plan: _Plan, workspace: Workspace, folder: Path, ray: str | None) -> EmbeddedCatalogue:
    return embed_catalogue(
        plan.models.retriever_folder / RETRIEVER_MODEL,
        plan.stage,
        plan.items,
        plan.config,
        workspace=workspace,
        into=folder / VECTORS_FILE,
        judged=plan.judged,
        ray=ray,
    )


def _write_first_stage(
    plan: _Plan, embedded: EmbeddedCatalogue, workspace: Workspace, folder: Path
) -> tuple[Retriever, Tuned, BuildConfig]:
    """Return what was written, its vector index as tuned, and the configuration with the precisions that were chosen.

    Raises if the index does not find enough.
    """
    lexical_index = LexicalIndex.build(plan.items, plan.stage.lexical, folder / LEXICAL_FOLDER)
    precision = put_query_encoder(
        plan.models.retriever_folder,
        folder / ENCODER_FOLDER,
        plan.config,
        plan.stage,
        kept=workspace.query_encoders,
        queries=[search.query for search in plan.searches],
        judged=plan.judged,
        vectors=embedded.report.vectors,
    )
    used = plan.config.model_copy(update={"encoder_precision": precision, "item_precision": embedded.precision})
    traced = plan.items.take(range(min(N_TRACED, len(plan.items))))
    put_item_encoder(
        plan.models.retriever_folder,
        folder / ITEM_ENCODER_FOLDER,
        used,
        plan.stage,
        texts=passages(traced, plan.stage.item_fields),
        exported=embedded.exported,
    )
    encoder = get_encoder(
        folder / ENCODER_FOLDER,
        used.engine,
        max_tokens=plan.stage.max_query_tokens,
        dim=plan.stage.dim,
        n_threads=None,
    )
    asked = encoder.encode([search.query for search in plan.asked])
    tuned = build_tuned(embedded.report.vectors, asked, plan.config.min_ann_recall, plan.stage.index)
    tuned.index.save(folder / VECTOR_INDEX_FILE)
    # of all splits: what is held back from the models to judge them by is the newest that the store knows
    pairs, exposure = plan.prepared.pairs(*SPLITS), plan.prepared.exposure(*SPLITS)
    behaviour = Behaviour.build(
        pairs, exposure, encoder, plan.stage.behaviour, items=plan.items, cache=workspace.embeddings
    )
    behaviour.save(folder / BEHAVIOUR_FOLDER)
    Suggestions.build(
        pairs,
        decayed(pairs, plan.stage.behaviour.half_life_days),
        least_shoppers=plan.config.suggestion_shoppers,
        most=plan.config.max_suggestions,
    ).save(folder / SUGGESTIONS_FILE)
    weights = plan.models.retriever.fusion.resolved(plan.stage.fusion)
    return Retriever(encoder, tuned.index, lexical_index, weights, behaviour.queries), tuned, used


def _write_second_stage(plan: _Plan, retriever: Retriever, folder: Path) -> None:
    trained, version_folder = plan.models.reranker, plan.models.reranker_folder
    if trained is None or version_folder is None:
        raise ValueError("expected models with a reranker")
    tokenizer = PairTokenizer.load(version_folder / RERANKER_MODEL)
    texts = passage_texts(plan.items, trained.config.item_fields)
    tokens = PassageTokens.write(folder / PASSAGES_FOLDER, tokenizer, texts, trained.config.max_item_tokens)
    found = retriever.retrieve_batch([search.query for search in plan.searches], CALIBRATION_DEPTH)
    searches = [(search, candidates.rows) for search, candidates in zip(plan.searches, found, strict=True)]
    put_reranker(
        version_folder,
        folder / RERANKER_FOLDER,
        plan.config,
        items=plan.items.named(
            {event.item_id for search in plan.searches for event in search.history if event.item_id}
        ),
        passage_tokens=tokens,
        searches=searches,
    )
    if plan.models.blend_folder is not None:
        (folder / BLEND_FOLDER).mkdir()
        for name in (FIRST_FILE, SECOND_FILE, BLEND_FILE):
            shutil.copyfile(plan.models.blend_folder / name, folder / BLEND_FOLDER / name)


def _sample_searches(prepared: Prepared, n: int) -> list[Example]:
    """Draw training searches; a store without any searches for its own titles."""
    drawn = prepared.examples("train", limit=n, seed=CALIBRATION_SEED)
    if drawn:
        return drawn
    titles = prepared.items.titles(range(min(n, len(prepared.items))))
    return [
        Example(query_id=f"title-{row}", query=title, user_id=None, timestamp=None, labels=(), history=())
        for row, title in enumerate(titles)
    ]
