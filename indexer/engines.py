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
from retrieval.encoder import TextEncoder, export_encoder, open_encoder, open_torch_encoder
from retrieval.model_info import MODEL_FOLDER as RETRIEVER_FOLDER

TOKENIZER_FILE = "tokenizer.json"


def put_encoder(
    model_dir: Path,
    out: Path,
    config: BuildConfig,
    *,
    max_tokens: int,
    dim: int | None,
    queries: Sequence[str],
) -> None:
    """Write the query tower into a bundle.

    Args:
        model_dir: A retriever version's folder.
        out: Where to write; must not exist.
        config: Engine and precision.
        max_tokens: Queries are cut to so many tokens.
        dim: Embeddings are cut to this width; None: the model's.
        queries: Real ones, for tracing and calibration; at least one.
    """
    if config.engine == "torch":
        shutil.copytree(model_dir / RETRIEVER_FOLDER, out)
        return
    export_encoder(
        model_dir / RETRIEVER_FOLDER,
        out,
        role="query",
        precision=config.encoder_precision,
        calibration_texts=queries,
        max_tokens=max_tokens,
        dim=dim,
    )


def get_encoder(
    folder: Path, engine: EngineName, *, max_tokens: int, dim: int | None, n_threads: int | None
) -> TextEncoder:
    """Open the query tower that ``put_encoder`` wrote."""
    if engine == "torch":
        return open_torch_encoder(folder, role="query", max_tokens=max_tokens, dim=dim)
    return open_encoder(folder, n_threads=n_threads)


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
