"""From what a build knows to the bundle's manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path

from pydantic import JsonValue

from corpus.config import Section
from corpus.live_log import Held
from indexer.bundle import ENCODER_FOLDER, RERANKER_FOLDER
from indexer.engines import tokenizer_digest
from indexer.manifest import BlendEntry, BundleManifest, RerankerEntry, RetrieverEntry
from indexer.models import TrainedModels
from indexer.verify import hash_files
from retrieval.passages import PASSAGE_VERSION
from retrieval.retriever import Retriever
from retrieval.vectors.index_tuning import Tuned

# whose releases decide a bundle's bytes or what it answers
PACKAGES = (
    "tandem-search",
    "faiss-cpu",
    "faiss-gpu",
    "lightgbm",
    "nncf",
    "numpy",
    "openvino",
    "polars",
    "scipy",
    "sentence-transformers",
    "tantivy",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build knows when only the manifest is missing."""

    version: str
    parent: str | None
    folder: Path
    models: TrainedModels
    config: Mapping[str, Section | None]
    retriever: Retriever
    item_encoder_fingerprint: str
    tuned: Tuned
    n_recall_queries: int
    data_fingerprint: str
    held: Held


def describe(built: Built) -> BundleManifest:
    """Hash every file and write down where the bundle comes from."""
    encoder = built.retriever.encoder
    return BundleManifest(
        version=built.version,
        parent=built.parent,
        created_at=datetime.now(UTC).replace(microsecond=0),
        n_items=len(built.retriever.vector_index),
        dim=encoder.dim,
        retriever=RetrieverEntry(
            version=built.models.retriever_folder.name,
            fingerprint=built.models.retriever.fingerprint,
            encoder_fingerprint=encoder.fingerprint,
            item_encoder_fingerprint=built.item_encoder_fingerprint,
            tokenizer_sha256=tokenizer_digest(built.folder / ENCODER_FOLDER),
            item_fields=built.models.retriever.config.item_fields,
            passage_version=PASSAGE_VERSION,
            weights=built.retriever.weights,
            n_logged_queries=0 if built.retriever.query_log is None else len(built.retriever.query_log),
        ),
        reranker=_reranker_entry(built),
        blend=_blend_entry(built),
        config={name: _json(section) for name, section in built.config.items()},
        ann_recall=built.tuned.chosen.recall,
        tuning=built.tuned.curve,
        n_recall_queries=built.n_recall_queries,
        data_fingerprint=built.data_fingerprint,
        live_log=built.held.log,
        live_sequence=built.held.sequence,
        live_as_of=built.held.as_of,
        packages=_packages(),
        files=hash_files(built.folder),
    )


def _reranker_entry(built: Built) -> RerankerEntry | None:
    info, folder = built.models.reranker, built.models.reranker_folder
    if info is None or folder is None:
        return None
    return RerankerEntry(
        version=folder.name,
        fingerprint=info.fingerprint,
        retriever_fingerprint=info.retriever_fingerprint,
        tokenizer_sha256=tokenizer_digest(built.folder / RERANKER_FOLDER),
        item_fields=info.config.item_fields,
        passage_version=PASSAGE_VERSION,
        score_weights=info.score_weights,
    )


def _blend_entry(built: Built) -> BlendEntry | None:
    info, folder = built.models.blend, built.models.blend_folder
    if info is None or folder is None:
        return None
    return BlendEntry(
        version=folder.name,
        fingerprint=info.fingerprint,
        reranker_fingerprint=info.reranker_fingerprint,
        n_features=len(info.features) + len(info.rerank_features),
    )


def _json(section: Section | None) -> JsonValue:
    return None if section is None else section.model_dump(mode="json")


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = package_version(name)
        except PackageNotFoundError:
            continue
    return found
