"""The query tower of a bundle: in which precision it is served, and whether it is as good as the trained one.

int8 reads one query about twice as fast as fp32, in a third of the memory: for so few tokens the time goes into
reading the weights.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from corpus.errors import ArtefactError
from corpus.prepared import Example
from indexer.checks import check_embeddings, check_recall, depth_in_sample, recalls
from indexer.config import BuildConfig
from indexer.kept_exports import keep_int8_export, kept_folder
from retrieval.arrays import FloatArray
from retrieval.config import RetrieverConfig
from retrieval.engines.encoder import TextEncoder, export_encoder, open_encoder, open_torch_encoder
from retrieval.model_info import MODEL_FOLDER

logger = logging.getLogger(__name__)

SETTING = "build.encoder_precision"
N_COMPARED_ITEMS = 65_536  # drawn by chance, beside those that validation searches led to; most catalogues have fewer
SEED = 13


def put_query_encoder(
    model_dir: Path,
    out: Path,
    config: BuildConfig,
    stage: RetrieverConfig,
    *,
    kept: Path,
    queries: Sequence[str],
    judged: Sequence[Example],
    vectors: FloatArray,
) -> Literal["fp32", "int8"]:
    """Write the query tower into a bundle, in the configured precision.

    Args:
        model_dir: A retriever version's folder.
        out: Where to write; must not exist.
        config: Engine and precision.
        stage: Settings of the first stage, resolved.
        kept: Folder of exports that are made once.
        queries: Real ones, for tracing and calibration; at least one.
        judged: Searches of the validation split, to compare precisions on; may be empty.
        vectors: The catalogue's embeddings, float32 (n_items, dim).
    Returns:
        The precision that was chosen.
    Raises:
        ArtefactError: If what was exported is not as good as the trained tower, in fp32 or in a precision that is
            configured by name.
    """
    model = model_dir / MODEL_FOLDER
    if config.engine == "torch":
        shutil.copytree(model, out)
        return "fp32"
    max_tokens, dim = stage.max_query_tokens, stage.dim
    trained = open_torch_encoder(model, role="query", max_tokens=max_tokens, dim=dim)
    if config.encoder_precision != "fp32":
        try:
            encoder = keep_int8_export(
                kept, model, trained, role="query", calibration_texts=lambda: queries, max_tokens=max_tokens, dim=dim
            )
            check_query_encoder(encoder, trained, queries, judged, vectors)
        except ArtefactError as exc:
            # the next build calibrates anew, perhaps on a longer log
            shutil.rmtree(kept_folder(kept, trained), ignore_errors=True)
            if config.encoder_precision == "int8":
                raise
            logger.warning("queries are encoded in fp32 instead: %s", exc)
        else:
            shutil.copytree(kept_folder(kept, trained), out)
            return "int8"
    export_encoder(
        model, out, role="query", precision="fp32", calibration_texts=queries, max_tokens=max_tokens, dim=dim
    )
    encoder = open_encoder(out)
    check_embeddings(_name(encoder), encoder.encode(queries), trained.encode(queries), setting=SETTING)
    return "fp32"


def check_query_encoder(
    encoder: TextEncoder, trained: TextEncoder, queries: Sequence[str], judged: Sequence[Example], vectors: FloatArray
) -> None:
    """Refuse a query encoder in a reduced precision that is not as good as the trained tower.

    Recall is that of the labelled items among those and others drawn by chance, to a depth as far down these as 100
    items are down the catalogue.

    Args:
        encoder: As it is to be served.
        trained: The query tower in fp32.
        queries: Real ones, at least one.
        judged: Searches with labels; with few of them only the embeddings themselves are compared.
        vectors: The catalogue's embeddings, float32 (n_items, dim).
    Raises:
        ArtefactError: If the mean cosine is too low, or more recall is lost than chance explains.
    """
    asked = [example.query for example in judged] or queries  # others than it was calibrated on, if there are any
    row_of = {query: row for row, query in enumerate(dict.fromkeys(asked))}  # each is encoded once
    ours, theirs = encoder.encode(list(row_of)), trained.encode(list(row_of))
    rows = [row_of[query] for query in asked]
    check_embeddings(_name(encoder), ours[rows], theirs[rows], setting=SETTING)
    liked: dict[int, set[int]] = {}
    for example in judged:
        if items := {label.row for label in example.labels if label.weight > 0}:
            liked.setdefault(row_of[example.query], set()).update(items)
    if not liked:
        return
    n_items = len(vectors)
    drawn = np.random.default_rng(SEED).choice(n_items, min(n_items, N_COMPARED_ITEMS), replace=False)
    sample = np.unique(np.concatenate([drawn, *(sorted(items) for items in liked.values())]).astype(np.int64))
    wanted = [np.searchsorted(sample, sorted(items)) for items in liked.values()]
    sampled, depth = np.asarray(vectors[sample]), depth_in_sample(len(sample), n_items)
    by_ours, by_theirs = (recalls(found[list(liked)], sampled, wanted, depth) for found in (ours, theirs))
    logger.info("%s: recall lost %.4f on %d queries", _name(encoder), float(np.mean(by_theirs - by_ours)), len(liked))
    check_recall(_name(encoder), by_ours, by_theirs, setting=SETTING)


def _name(encoder: TextEncoder) -> str:
    return f"query embeddings in {encoder.info.precision}"
