"""A catalogue's embeddings: in which precision, by which engine, and whether they are as good as the trained ones.

A reduced precision embeds several times as many items per second, with numbers that differ a little from those that
training saw; those of two precisions are never mixed in one index, since the cache keeps each encoder's apart by its
fingerprint. Before a catalogue is embedded so, a sample of it is embedded both ways and compared.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from corpus.errors import ArtefactError
from corpus.items import ItemTable
from corpus.prepared import Example
from corpus.workspace import Workspace
from indexer.checks import check_embeddings, check_recall, depth_in_sample, recalls
from indexer.config import BuildConfig
from indexer.kept_exports import keep_int8_export, kept_folder
from retrieval.config import RetrieverConfig
from retrieval.engines.encoder import TextEncoder, open_torch_encoder, read_encoder_info
from retrieval.passages import passage_texts
from retrieval.texts import Texts
from retrieval.vectors.embeddings import EmbedReport, count_missing, embed_items

if TYPE_CHECKING:
    from indexer.ray_embedding import PortableEncoder

logger = logging.getLogger(__name__)

N_COMPARED_ITEMS = 2048  # drawn by chance, beside those that validation searches led to
FEW_ITEMS = 2 * N_COMPARED_ITEMS  # up to so many the comparison would cost as much as it saves
SPEEDUP = 3.5  # of a reduced precision over torch fp32, about; benchmarks/results/build.md

Reduced = Literal["int8", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedCatalogue:
    """The catalogue's embeddings, and whose they are."""

    report: EmbedReport
    fingerprint: str  # of the item encoder, precision included
    precision: Literal["fp32", "int8", "bf16"]
    exported: Path | None  # folder of the item encoder, if it is an exported one: int8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Towers:
    """A trained retriever's towers, opened as they are needed."""

    model_dir: Path
    stage: RetrieverConfig
    exported: Path  # folder of exported item towers

    def item(self, precision: Literal["fp32", "bf16"] = "fp32") -> TextEncoder:
        """Open the item tower with torch."""
        return open_torch_encoder(
            self.model_dir,
            role="item",
            max_tokens=self.stage.max_item_tokens,
            dim=self.stage.dim,
            precision=precision,
        )

    def query(self) -> TextEncoder:
        """Open the query tower with torch."""
        return open_torch_encoder(
            self.model_dir, role="query", max_tokens=self.stage.max_query_tokens, dim=self.stage.dim
        )

    def int8_folder(self, trained: TextEncoder) -> Path:
        """Return where the int8 export of the item tower is kept."""
        return kept_folder(self.exported, trained)

    def int8(self, trained: TextEncoder, texts: Texts, n_calibration: int) -> TextEncoder:
        """Open the item tower in int8; the first call exports it, and all later ones find it."""
        return keep_int8_export(
            self.exported,
            self.model_dir,
            trained,
            role="item",
            calibration_texts=lambda: texts.take(texts.sample(n_calibration)),
            max_tokens=self.stage.max_item_tokens,
            dim=self.stage.dim,
            bulk=True,
        )

    def portable(self, precision: Literal["fp32", "int8", "bf16"], trained: TextEncoder) -> "PortableEncoder":
        """Read the files of the item tower, for other machines."""
        from indexer.ray_embedding import PortableEncoder

        if precision == "int8":
            return PortableEncoder.read(self.int8_folder(trained), exported=True, max_tokens=self.stage.max_item_tokens)
        return PortableEncoder.read(
            self.model_dir,
            exported=False,
            max_tokens=self.stage.max_item_tokens,
            dim=self.stage.dim,
            precision=precision,
        )


def embed_catalogue(
    model_dir: Path,
    stage: RetrieverConfig,
    items: ItemTable,
    config: BuildConfig,
    *,
    workspace: Workspace,
    into: Path,
    judged: Sequence[Example],
    ray: str | None = None,
) -> EmbeddedCatalogue:
    """Embed a catalogue into a file, in the configured precision.

    Args:
        model_dir: The trained SentenceTransformer folder.
        stage: Settings that it was trained with.
        items: The catalogue, at least one item.
        config: Precision, and how many passages to calibrate int8 on.
        workspace: Where embeddings and exported encoders are cached.
        into: The ``.npy`` file.
        judged: Searches of the validation split, to compare precisions on; may be empty.
        ray: Address of a Ray cluster, or ``local``; None embeds in this process.
    Raises:
        ArtefactError: If a precision that is configured by name is not as good as fp32, or a cache cannot be written.
        DeviceUnavailable: If openvino or nncf is not installed, for int8.
    """
    texts = passage_texts(items, stage.item_fields)
    towers = _Towers(model_dir=model_dir, stage=stage, exported=workspace.item_encoders)
    encoder = trained = towers.item()
    precision = choose_precision(config, trained, texts, workspace.embeddings, towers.int8_folder(trained))
    n_compared = 0
    if precision != "fp32":
        encoder = towers.item("bf16") if precision == "bf16" else towers.int8(trained, texts, config.n_calibration)
        try:
            n_compared = check_item_agreement(encoder, trained, towers.query(), texts, workspace.embeddings, judged)
        except ArtefactError as exc:
            if config.item_precision != "auto":
                raise
            logger.warning("embedding in fp32 instead: %s", exc)
            encoder, precision = trained, "fp32"
    encode_shards = None
    if ray is not None:
        from indexer.ray_embedding import encode_on_ray

        encode_shards = encode_on_ray(ray, towers.portable(precision, trained))
    report = embed_items(encoder, texts, workspace.embeddings, into=into, encode_shards=encode_shards)
    report = replace(report, n_embedded=report.n_embedded + n_compared, n_reused=report.n_reused - n_compared)
    logger.info("embedded %d passages in %s, %d were known", report.n_embedded, precision, report.n_reused)
    return EmbeddedCatalogue(
        report=report,
        fingerprint=encoder.fingerprint,
        precision=precision,
        exported=towers.int8_folder(trained) if precision == "int8" else None,
    )


def choose_precision(
    config: BuildConfig, trained: TextEncoder, texts: Texts, cache: Path, int8_folder: Path
) -> Literal["fp32", "int8", "bf16"]:
    """Return the configured precision, and for ``auto`` the one that is least work.

    Training embeds the catalogue in fp32, to fit the fusion weights and to draw the reranker's lists. What it left in
    the cache is as good as any, so a reduced precision is worth its while only where more than about three and a half
    times as much would have to be embedded in fp32.

    Args:
        config: ``item_precision``.
        trained: The item tower in fp32.
        texts: The catalogue's passages.
        cache: Folder of cached embeddings.
        int8_folder: Where the int8 export is, if there is one.
    """
    if config.item_precision != "auto":
        return config.item_precision
    if len(texts) <= FEW_ITEMS:
        return "fp32"
    import torch

    reduced: Reduced = "bf16" if torch.cuda.is_available() else "int8"
    n_missing = len(texts)
    if reduced == "int8":
        with contextlib.suppress(ArtefactError):  # not exported yet: nothing is embedded either
            n_missing = count_missing(texts, cache, read_encoder_info(int8_folder).fingerprint)
    return "fp32" if count_missing(texts, cache, trained.fingerprint) <= n_missing / SPEEDUP else reduced


def check_item_agreement(
    encoder: TextEncoder,
    trained: TextEncoder,
    queries: TextEncoder,
    texts: Texts,
    cache: Path,
    judged: Sequence[Example],
) -> int:
    """Refuse an item encoder whose embeddings are not as good as those of the trained tower.

    Compared are 2,048 items drawn by chance and those that validation searches led to, embedded both ways through the
    cache, so that the next build finds them there. Recall is that of the labelled items among them, to a depth as far
    down the sample as 100 items are down the catalogue.

    Args:
        encoder: In a reduced precision.
        trained: The item tower in fp32.
        queries: The query tower in fp32.
        texts: The catalogue's passages.
        cache: Folder of cached embeddings.
        judged: Searches with labels; without one only the embeddings themselves are compared.
    Returns:
        How many distinct passages were embedded anew in the reduced precision.
    Raises:
        ArtefactError: If the mean cosine is too low, or more recall is lost than chance explains.
    """
    positives = [[label.row for label in example.labels if label.weight > 0] for example in judged]
    drawn = texts.sample(N_COMPARED_ITEMS)
    rows = np.unique(np.concatenate([drawn, np.array([row for some in positives for row in some], dtype=np.int64)]))
    sample = texts.take(rows)
    theirs = embed_items(trained, sample, cache).vectors
    report = embed_items(encoder, sample, cache)
    ours = report.vectors
    name, setting = f"item embeddings in {encoder.info.precision}", "build.item_precision"
    check_embeddings(name, ours, theirs, setting=setting)
    asked = [(e.query, np.searchsorted(rows, some)) for e, some in zip(judged, positives, strict=True) if some]
    if not asked:
        return report.n_embedded
    vectors, wanted = queries.encode([query for query, _ in asked]), [some for _, some in asked]
    depth = depth_in_sample(len(rows), len(texts))
    by_ours, by_theirs = (recalls(vectors, found, wanted, depth) for found in (ours, theirs))
    logger.info("%s: recall lost %.4f on %d searches", name, float(np.mean(by_theirs - by_ours)), len(asked))
    check_recall(name, by_ours, by_theirs, setting=setting)
    return report.n_embedded
