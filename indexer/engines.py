"""Both models inside a bundle: how they get in, and how they are opened again, for either engine.

``openvino``: exported graphs; opening them needs no torch. ``torch``: copies of the trained folders, for machines
where torch has a GPU.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from corpus.items import ItemTable
from corpus.prepared import Example
from indexer.config import BuildConfig, EngineName
from rerank.history import item_names
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.model_info import MODEL_FILE, MODEL_FOLDER, RerankerModelInfo
from rerank.quantisation import calibration_batches
from rerank.reranker import Reranker, join_reranker, open_reranker
from rerank.scorer import export_reranker, open_torch_scorer
from retrieval.arrays import IntArray
from retrieval.config import RetrieverConfig
from retrieval.engines.encoder import TextEncoder, export_encoder, open_encoder, open_torch_encoder
from retrieval.model_info import MODEL_FOLDER as RETRIEVER_FOLDER

TOKENIZER_FILE = "tokenizer.json"
LIVE_TOKEN_BUDGET = 256  # per run while searches wait for the same engine: some 10 ms of MiniLM on two cores


def get_encoder(
    folder: Path, engine: EngineName, *, max_tokens: int, dim: int | None, n_threads: int | None
) -> TextEncoder:
    """Open the query tower that ``put_query_encoder`` wrote."""
    if engine == "torch":
        return open_torch_encoder(folder, role="query", max_tokens=max_tokens, dim=dim)
    return open_encoder(folder, n_threads=n_threads)


def put_item_encoder(
    model_dir: Path,
    out: Path,
    config: BuildConfig,
    stage: RetrieverConfig,
    *,
    texts: Sequence[str],
    exported: Path | None,
) -> None:
    """Write the item tower into a bundle, for live updates, unless what the query tower left there can stand for it.

    Args:
        model_dir: A retriever version's folder.
        out: Where to write; must not exist.
        config: Engine and precisions.
        stage: Settings of the first stage, resolved.
        texts: Passages to trace with; at least one.
        exported: Folder of the exported encoder that embedded the catalogue, if it was one.
    """
    if exported is not None:
        shutil.copytree(exported, out)
        return
    if config.engine == "torch" or _towers_are_one(config, stage):
        return
    # fp32 whatever the query encoder's precision: what is embedded later must compare with what was embedded by torch
    export_encoder(
        model_dir / RETRIEVER_FOLDER,
        out,
        role="item",
        precision="fp32",
        calibration_texts=texts,
        max_tokens=stage.max_item_tokens,
        dim=stage.dim,
    )


def get_item_encoder(
    query_folder: Path,
    folder: Path,
    config: BuildConfig,
    *,
    stage: RetrieverConfig,
    query_encoder: TextEncoder,
    fingerprint: str,
    n_threads: int | None,
) -> TextEncoder | None:
    """Open the item tower, by whichever way it got into the bundle; None if it did not.

    Args:
        query_folder: Where ``put_query_encoder`` wrote.
        folder: Where ``put_item_encoder`` wrote, if it did.
        config: Engine and precision.
        stage: Settings of the first stage, resolved.
        query_encoder: As opened: its engine serves both where towers are shared.
        fingerprint: Of the encoder that embedded the catalogue, for which fp32 stands where that computed in bf16.
        n_threads: Threads of an engine of its own.
    """
    if folder.is_dir():
        encoder = open_encoder(folder, n_threads=n_threads)
        if config.item_precision != "bf16":
            return encoder
        info = encoder.info.model_copy(update={"fingerprint": fingerprint})
        return encoder.reading(info, token_budget=LIVE_TOKEN_BUDGET)
    if config.engine == "torch":
        return open_torch_encoder(
            query_folder,
            role="item",
            max_tokens=stage.max_item_tokens,
            dim=stage.dim,
            precision="bf16" if config.item_precision == "bf16" else "fp32",
        )
    if not _towers_are_one(config, stage):
        return None
    info = query_encoder.info.model_copy(
        update={"max_tokens": stage.max_item_tokens, "fingerprint": fingerprint, "role": "item"}
    )
    return query_encoder.reading(info, token_budget=LIVE_TOKEN_BUDGET)


def _towers_are_one(config: BuildConfig, stage: RetrieverConfig) -> bool:
    return config.encoder_precision == "fp32" and stage.towers == "shared"


def put_reranker(
    model_dir: Path,
    out: Path,
    config: BuildConfig,
    *,
    items: ItemTable,
    passage_tokens: PassageTokens,
    searches: Sequence[tuple[Example, IntArray]],
) -> None:
    """Write the cross-encoder into a bundle.

    Args:
        model_dir: A reranker version's folder.
        out: Where to write; must not exist.
        config: Engine and precision.
        items: The catalogue, or at least the items of the searches' histories.
        passage_tokens: Its passages, tokenised by this reranker's tokenizer.
        searches: Real searches with their candidates' rows, for tracing and calibration; at least one.
    """
    if config.engine == "torch":
        shutil.copytree(model_dir / MODEL_FOLDER, out / MODEL_FOLDER)
        shutil.copy2(model_dir / MODEL_FILE, out / MODEL_FILE)
        return
    tokenizer = PairTokenizer.load(model_dir / MODEL_FOLDER)
    info = RerankerModelInfo.load(model_dir)
    batches = calibration_batches(tokenizer, passage_tokens, item_names(items), info.config, searches)
    export_reranker(model_dir, out, precision=config.reranker_precision, calibration=batches)


def get_reranker(
    folder: Path, engine: EngineName, passage_tokens: PassageTokens, items: ItemTable, *, n_threads: int | None
) -> Reranker:
    """Open the cross-encoder that ``put_reranker`` wrote."""
    if engine == "torch":
        info = RerankerModelInfo.load(folder)
        return join_reranker(open_torch_scorer(folder), passage_tokens, items, info.config, info.score_weights)
    return open_reranker(folder, passage_tokens, items, n_threads=n_threads)


def tokenizer_digest(folder: Path) -> str:
    """Return the SHA-256 (hexadecimal) over every ``tokenizer.json`` below a folder, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(TOKENIZER_FILE)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
