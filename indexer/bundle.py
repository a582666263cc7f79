"""A bundle in memory: everything that one version of the server answers from."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from corpus.columns import ItemColumns
from corpus.errors import ArtefactError, BundleCorrupt, ModelIndexMismatch, UpdatesRefused
from corpus.items import ItemTable
from corpus.prepared import Exposure, Pairs, Prepared, Split, in_rows
from indexer.config import BuildConfig
from indexer.engines import get_encoder, get_item_encoder, get_reranker
from indexer.manifest import BundleManifest, read_manifest
from indexer.verify import verify_bundle
from rerank.features import FeatureExtractor
from rerank.inputs import PassageTokens
from rerank.reranker import Reranker
from retrieval.config import RetrieverConfig
from retrieval.engines.encoder import TextEncoder
from retrieval.event_log.behaviour import Behaviour
from retrieval.event_log.suggestions import SUGGESTIONS_FILE, Suggestions
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.retriever import Retriever
from retrieval.vectors.vector_index import VectorIndex, open_vectors

ITEMS_FILE = "items.parquet"
VECTORS_FILE = "vectors.npy"  # float32 (n_items, dim), as embedded: what the next index is built from
VECTOR_INDEX_FILE = "vector.index"
LEXICAL_FOLDER = "lexical"
PASSAGES_FOLDER = "passages"
ENCODER_FOLDER = "encoder"
ITEM_ENCODER_FOLDER = "item_encoder"  # only where the query encoder's graph cannot stand for it
RERANKER_FOLDER = "reranker"
BEHAVIOUR_FOLDER = "behaviour"
BLEND_FOLDER = "blend"

T = TypeVar("T", Pairs, Exposure)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened bundle."""

    manifest: BundleManifest
    folder: Path
    items: ItemTable
    columns: ItemColumns  # of the items
    stage: RetrieverConfig  # settings of the first stage that it was built with
    behaviour: Behaviour
    retriever: Retriever
    reranker: Reranker | None  # None: built before any reranker was trained
    suggestions: Suggestions  # none in a bundle that was built before there were any

    def before(self, split: Split, prepared: Prepared) -> "Bundle":
        """Return the bundle as it would have answered before a split: the tables of behaviour count the splits before.

        A bundle's own tables hold all that the store knows, also the very choices that an evaluation asks for.

        Args:
            split: What is to be judged.
            prepared: Where the choices are; an item that this bundle lacks is left out.
        """
        behaviour = Behaviour.build(
            _in_rows_of(self.items, prepared.items, prepared.pairs_before(split)),
            _in_rows_of(self.items, prepared.items, prepared.exposure_before(split)),
            self.retriever.encoder,
            self.stage.behaviour,
            items=self.items,
        )
        return self.with_behaviour(behaviour)

    def with_behaviour(self, behaviour: Behaviour) -> "Bundle":
        """Return the same models and indexes over other tables of behaviour, in both stages.

        Args:
            behaviour: Over the same catalogue, its queries embedded by the same encoder.
        """
        reranker = self.reranker
        if reranker is not None and reranker.blend is not None:
            extractor = FeatureExtractor(self.items, self.columns, behaviour)
            reranker = reranker.with_blend(reranker.blend.with_extractor(extractor))
        return replace(
            self, behaviour=behaviour, retriever=self.retriever.with_query_log(behaviour.queries), reranker=reranker
        )


def _in_rows_of(items: ItemTable, others: ItemTable, columns: T) -> T:
    """Translate pairs or exposure from the rows of another catalogue."""
    if items.ids == others.ids:
        return columns
    rows = np.array([-1 if (row := items.row_of(item_id)) is None else row for item_id in others.ids], dtype=np.int64)
    return in_rows(columns, rows)


def open_bundle(folder: Path, *, n_threads: int | None = None, verify: bool = True) -> Bundle:
    """Open a bundle for serving.

    Args:
        folder: A bundle version's folder.
        n_threads: Threads of the inference engines; None leaves it to them.
        verify: Check every file's digest first. Pass False only for a bundle that was verified a moment ago.
    Raises:
        BundleCorrupt: If anything in the folder is not what was built; every bad file is named.
        ModelIndexMismatch: If a model and an index in it were built from different encoders.
        DeviceUnavailable: If the bundle's engine or index needs a device that this machine lacks.
    """
    manifest = verify_bundle(folder) if verify else read_manifest(folder)
    build, stage = _sections(manifest)
    helper = ThreadPoolExecutor(1)  # compiling the one model takes about as long as all that comes before the other
    try:
        opening = helper.submit(
            get_encoder,
            folder / ENCODER_FOLDER,
            build.engine,
            max_tokens=stage.max_query_tokens,
            dim=stage.dim,
            n_threads=n_threads,
        )
        items = ItemTable.read(folder / ITEMS_FILE)
        columns = ItemColumns.of(items)
        index = VectorIndex.load(folder / VECTOR_INDEX_FILE, stage.index, open_vectors(folder / VECTORS_FILE))
        _check_sizes(manifest, len(items), len(index))
        lexical = LexicalIndex.open(folder / LEXICAL_FOLDER)
        behaviour = Behaviour.load(folder / BEHAVIOUR_FOLDER, stage.behaviour, n_items=len(items))
        suggestions = Suggestions.load(folder / SUGGESTIONS_FILE)
        reranker = None
        if manifest.reranker is not None:
            _check_reranker(manifest)
            passages = PassageTokens.load(folder / PASSAGES_FOLDER)
            reranker = get_reranker(folder / RERANKER_FOLDER, build.engine, passages, items, n_threads=n_threads)
            if manifest.blend is not None:
                from rerank.blend import open_blend  # lightgbm: a bundle without a blend goes without it

                extractor = FeatureExtractor(items, columns, behaviour)
                reranker = reranker.with_blend(open_blend(folder / BLEND_FOLDER, extractor))
        encoder = opening.result()
        _check_encoder(manifest, encoder.fingerprint, encoder.dim, index.dim)
        retriever = Retriever(encoder, index, lexical, manifest.retriever.weights, behaviour.queries)
    except (BundleCorrupt, ModelIndexMismatch):
        raise
    except ArtefactError as exc:
        raise BundleCorrupt(f"bundle {manifest.version} in {folder} cannot be opened: {exc}") from exc
    finally:
        helper.shutdown()
    return Bundle(
        manifest=manifest,
        folder=folder,
        items=items,
        columns=columns,
        stage=stage,
        behaviour=behaviour,
        retriever=retriever,
        reranker=reranker,
        suggestions=suggestions,
    )


def open_item_encoder(bundle: Bundle, *, n_threads: int | None = None) -> TextEncoder:
    """Open the encoder of an opened bundle's items, for those that change while it is served.

    Raises:
        UpdatesRefused: If the bundle holds none.
        ModelIndexMismatch: If it is not the one that the vectors are from.
    """
    build, _ = _sections(bundle.manifest)
    expected = bundle.manifest.retriever.item_encoder_fingerprint
    encoder = get_item_encoder(
        bundle.folder / ENCODER_FOLDER,
        bundle.folder / ITEM_ENCODER_FOLDER,
        build,
        stage=bundle.stage,
        query_encoder=bundle.retriever.encoder,
        fingerprint=expected,
        n_threads=n_threads,
    )
    if encoder is None:
        raise UpdatesRefused(
            f"expected an item encoder in bundle {bundle.manifest.version}, which was built before live updates "
            "existed; build it again and publish"
        )
    if encoder.fingerprint != expected or encoder.dim != bundle.manifest.dim:
        raise ModelIndexMismatch(
            f"expected the item encoder {expected[:12]} that bundle {bundle.manifest.version} was indexed with, got "
            f"{encoder.fingerprint[:12]}; build the bundle again"
        )
    return encoder


def _sections(manifest: BundleManifest) -> tuple[BuildConfig, RetrieverConfig]:
    try:
        build = BuildConfig.model_validate(manifest.config["build"])
        # JSON has lists where the configuration has tuples
        return build, RetrieverConfig.model_validate(manifest.config["retriever"])
    except (KeyError, ValidationError) as exc:
        raise BundleCorrupt(
            f"expected the settings of this Tandem release in the manifest of bundle {manifest.version}, "
            f"got: {exc}; build the bundle again"
        ) from exc


def _check_encoder(manifest: BundleManifest, fingerprint: str, encoder_dim: int, index_dim: int) -> None:
    expected = manifest.retriever.encoder_fingerprint
    if fingerprint != expected:
        raise ModelIndexMismatch(
            f"expected the encoder {expected[:12]} that bundle {manifest.version} was indexed with, "
            f"got {fingerprint[:12]}; build the bundle again"
        )
    if not encoder_dim == index_dim == manifest.dim:
        raise ModelIndexMismatch(
            f"expected {manifest.dim} dimensions in bundle {manifest.version}, got {encoder_dim} from the encoder and "
            f"{index_dim} in the index; build the bundle again"
        )


def _check_sizes(manifest: BundleManifest, n_items: int, n_vectors: int) -> None:
    if not n_items == n_vectors == manifest.n_items:
        raise ModelIndexMismatch(
            f"expected {manifest.n_items:,} items in bundle {manifest.version}, got {n_items:,} in the catalogue and "
            f"{n_vectors:,} in the index; build the bundle again"
        )


def _check_reranker(manifest: BundleManifest) -> None:
    entry = manifest.reranker
    if entry is not None and entry.retriever_fingerprint != manifest.retriever.fingerprint:
        raise ModelIndexMismatch(
            f"expected a reranker trained on the candidates of retriever {manifest.retriever.fingerprint[:12]}, "
            f"got one of {entry.retriever_fingerprint[:12]}; run `tandem train reranker` and build again"
        )
    blend = manifest.blend
    if entry is not None and blend is not None and blend.reranker_fingerprint != entry.fingerprint:
        raise ModelIndexMismatch(
            f"expected a blend trained on the scores of reranker {entry.fingerprint[:12]}, "
            f"got one of {blend.reranker_fingerprint[:12]}; run `tandem train blend` and build again"
        )
