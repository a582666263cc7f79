"""The models alone, in this process: reranking by candidates and length, and the encoding of one query."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency_cases import Case, Shape, by_turns, make_case, milliseconds, ratios
from benchmarks.latency_floor import Peaks, floors
from benchmarks.peers.onnx_int8 import open_onnx_int8
from benchmarks.peers.plain_stack import PlainCrossEncoder, PlainEncoder
from corpus.workspace import Workspace, find_version
from indexer.bundle import Bundle
from rerank.model_info import MODEL_FOLDER, RerankerModelInfo
from rerank.reranker import Reranker
from rerank.scorer import PairScorer, load_module, open_torch_scorer
from retrieval.engines.encoder import TextEncoder
from retrieval.model_info import MODEL_FOLDER as RETRIEVER_FOLDER

logger = logging.getLogger(__name__)

PLAIN, ONNX, TANDEM = "plain fp32", "ONNX Runtime int8", "Tandem"
QUERIES_PER_ROUND = 20  # of encoding, which takes a few milliseconds each


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The same weights in every system."""

    reranker: Reranker  # Tandem's, as served
    fp32: PairScorer  # Tandem's inputs through torch
    onnx: PairScorer  # Tandem's inputs through ONNX Runtime
    plain: PlainCrossEncoder
    encoder: TextEncoder  # Tandem's, as served
    onnx_encoder: TextEncoder
    plain_encoder: PlainEncoder
    rerank_shape: Shape
    encoder_shape: Shape


def open_models(workspace: Workspace, bundle: Bundle, cache: Path) -> Models:
    """Open the models that a bundle was built from in every system.

    Args:
        workspace: Holds the trained models.
        bundle: With a reranker.
        cache: Where exported graphs are kept.
    """
    from retrieval.engines.torch_engine import open_tower

    entry, reranker = bundle.manifest.reranker, bundle.reranker
    if entry is None or reranker is None:
        raise ValueError("expected a bundle with a reranker")
    version = find_version(workspace.rerankers, entry.version, marker="model.json")
    first = find_version(workspace.retrievers, bundle.manifest.retriever.version, marker="model.json")
    info = RerankerModelInfo.load(version)
    exported = open_onnx_int8(load_module(version / MODEL_FOLDER), cache / f"reranker-{info.fingerprint[:16]}")
    tower, tokenizer = open_tower(first / RETRIEVER_FOLDER, "query", dim=bundle.stage.dim)
    encoder = open_onnx_int8(tower, cache / f"encoder-{bundle.manifest.retriever.fingerprint[:16]}")
    return Models(
        reranker=reranker,
        fp32=open_torch_scorer(version, device="cpu"),
        onnx=PairScorer(exported, reranker.tokenizer, info.head_weights),
        plain=PlainCrossEncoder(version),
        encoder=bundle.retriever.encoder,
        onnx_encoder=TextEncoder(tokenizer, encoder, bundle.retriever.encoder.info),
        plain_encoder=PlainEncoder(first, max_tokens=bundle.stage.max_query_tokens, dim=bundle.stage.dim),
        rerank_shape=Shape.of(version / MODEL_FOLDER),
        encoder_shape=Shape.of(first / RETRIEVER_FOLDER),
    )


def measure_reranking(
    models: Models,
    queries: Sequence[str],
    peaks: Peaks,
    *,
    candidates: Sequence[int],
    tokens: Sequence[int],
    rounds: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Time the cross-encoder; each round reads another made-up case, the same in all systems.

    Tandem and ONNX Runtime are given tokenised passages, as a bundle holds them, and tokenise the query; the plain
    stack is given texts.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for length in tokens:
        for n in candidates:
            cases = [
                make_case(models.reranker, queries[number % len(queries)], n=n, tokens=length, rng=rng)
                for number in range(rounds)
            ]
            seconds = by_turns(_rerankers(models, cases), rounds)
            logger.info("rerank %d of %d tokens: %s", n, length, _shown(seconds))
            lengths = np.concatenate([case.lengths for case in cases])
            least = floors(lengths, models.rerank_shape, peaks, n_calls=rounds)
            rows += _rows(seconds, least, candidates=n, tokens=length, mean_tokens=round(float(lengths.mean()), 1))
    return rows


def measure_encoding(models: Models, queries: Sequence[str], peaks: Peaks, *, rounds: int) -> list[dict[str, Any]]:
    """Time the encoding of one query at a time."""
    some = list(queries[:QUERIES_PER_ROUND])
    lengths = np.array([len(models.encoder.tokenizer.encode(query).ids) for query in some], dtype=np.int64)

    def one_by_one(encode: Callable[[Sequence[str]], object]) -> Callable[[int], object]:
        return lambda _: [encode([query]) for query in some]

    seconds = by_turns(
        {
            PLAIN: one_by_one(models.plain_encoder.encode),
            ONNX: one_by_one(models.onnx_encoder.encode),
            TANDEM: one_by_one(models.encoder.encode),
        },
        rounds,
    )
    each = {name: [value / len(some) for value in values] for name, values in seconds.items()}
    logger.info("encoding one query: %s", _shown(each))
    least = floors(lengths, models.encoder_shape, peaks, n_calls=len(some))
    precision = models.encoder.info.precision
    return _rows(each, least, precision=precision, mean_tokens=round(float(lengths.mean()), 1))


def _rerankers(models: Models, cases: Sequence[Case]) -> dict[str, Callable[[int], object]]:
    own = models.reranker

    def through(scorer: PairScorer) -> Callable[[int], object]:
        def run(number: int) -> object:
            case = cases[number]
            own.tokenizer.prefix(case.query, (), own.name_of, own.config)  # a request's own share of the work
            return scorer.score(case.pairs)

        return run

    return {
        PLAIN: lambda number: models.plain.score(cases[number].first, cases[number].texts),
        ONNX: through(models.onnx),
        TANDEM: through(own.scorer),
    }


def _rows(seconds: dict[str, list[float]], least: dict[str, float], **about: object) -> list[dict[str, Any]]:
    return [
        {
            **about,
            "system": name,
            "ms": asdict(milliseconds(taken)),
            "times_faster": {other: asdict(ratios(seconds[other], taken)) for other in (PLAIN, ONNX) if name == TANDEM},
            "floor": least,
        }
        for name, taken in seconds.items()
    ]


def _shown(seconds: dict[str, list[float]]) -> dict[str, str]:
    return {name: f"{1e3 * float(np.median(taken)):.1f} ms" for name, taken in seconds.items()}
