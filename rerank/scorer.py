"""Runs the cross-encoder over pairs, and the folder that an exported one lives in.

An exported folder holds ``openvino_model.xml`` and ``.bin`` (the graph), ``tokenizer.json`` and ``reranker.json``.
Opening one needs no torch; exporting one does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from corpus.config import Section
from corpus.errors import ArtefactError
from rerank.config import RerankerConfig
from rerank.heads import N_HEADS, weight_array
from rerank.inputs import PairTokenizer, TokenArray, assemble
from rerank.model_info import MODEL_FOLDER, RerankerModelInfo
from rerank.probabilities import ProbabilityMap, probabilities
from retrieval.arrays import FloatArray
from retrieval.engines.batches import batches_by_length
from retrieval.engines.engine import Engine, TokenBatch

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["fp32", "int8"]
RERANKER_FILE = "reranker.json"
BATCH_TOKENS = 2048  # padded tokens per run: enough to fill the cores; twice as many are no faster, and take 48 MB more


class RerankerInfo(Section):
    """What an exported reranker was made from; the content of ``reranker.json``."""

    fingerprint: str  # of the trained version
    retriever_fingerprint: str
    precision: Precision
    config: RerankerConfig
    score_weights: dict[str, float]
    head_weights: dict[str, float]  # ranking value = sum of the heads' logits times these
    probability_maps: dict[str, ProbabilityMap]  # head -> from its logit to a probability


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Inputs to score, not yet padded; two parallel sequences."""

    prefixes: Sequence[TokenArray]  # [CLS] query [SEP] (history [SEP])
    passages: Sequence[TokenArray]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each input, without padding."""
        return [len(prefix) + len(passage) + 1 for prefix, passage in zip(self.prefixes, self.passages, strict=True)]

    @property
    def n_tokens(self) -> int:
        """Tokens of all inputs, without padding."""
        return sum(self.lengths)

    def take(self, positions: Sequence[int]) -> "Pairs":
        """Return some of the inputs."""
        return Pairs(prefixes=[self.prefixes[p] for p in positions], passages=[self.passages[p] for p in positions])


class PairScorer:
    """Scores pairs through any engine; higher is better."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PairTokenizer,
        head_weights: Mapping[str, float],
        probability_maps: Mapping[str, ProbabilityMap] = MappingProxyType({}),
        *,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Join an engine and its tokenizer.

        Args:
            engine: Answers float32 (n, 3), the heads' logits.
            tokenizer: Knows the separator and the padding.
            head_weights: What each head's logit counts in the ranking value.
            probability_maps: From a head's logit to a probability; without, it stays unknown.
            batch_tokens: Most padded tokens in one run; a longer pair runs alone.
        """
        self.engine = engine
        self.tokenizer = tokenizer
        self._head_weights = weight_array(head_weights)
        self._probability_maps = probability_maps
        self._batch_tokens = batch_tokens

    @property
    def backlog(self) -> int:
        """How many tokens it would read for others, before it reads anything that is asked for now."""
        return 0

    @property
    def busy_s(self) -> float:
        """For how long it has been at its present run for others; 0 where nobody shares it."""
        return 0.0

    def patience_s(self, n_tokens: int) -> float:
        """How long a search should wait for so many tokens to be read, whatever its deadline, in seconds.

        Finite where a model is far slower than it has been: were everybody to wait as long as he can, there would soon
        be no room for anybody else.
        """
        return math.inf

    def recall(self, pairs: Pairs, logits: FloatArray) -> list[int]:
        """Fill in what is known already; return the positions of all other pairs, ascending: here of all.

        Args:
            pairs: What is to be read.
            logits: float32 (n, 3), to be filled in.
        """
        return list(range(len(pairs.passages)))

    def score(self, pairs: Pairs) -> FloatArray:
        """Return the values to rank pairs by: float32 (n,), in the order of the pairs."""
        return self.ranking_values(self.heads(pairs))

    def heads(self, pairs: Pairs) -> FloatArray:
        """Run the model over pairs, in batches of like length.

        Returns:
            float32 (n, 3), the logits of ``rerank.heads.HEADS``, in the order of the pairs. In fp32 a pair's logits do
            not depend on its batch (to 1e-5).
        """
        logits = np.empty((len(pairs.passages), N_HEADS), dtype=np.float32)
        for positions in batches_by_length(pairs.lengths, self._batch_tokens):
            batch = self.batch(pairs, positions)
            logits[positions] = self.engine.run(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return logits

    def heads_by(self, pairs: Pairs, deadline: float) -> FloatArray:
        """Run the model over pairs, as ``heads`` does, but wait for others no longer than until a deadline.

        Args:
            pairs: What is to be read.
            deadline: On the clock of ``time.monotonic``.
        Raises:
            DeadlineExceeded: If others share the model, and it was not done by then.
        """
        return self.heads(pairs)

    def ranking_values(self, logits: FloatArray) -> FloatArray:
        """Join the logits of the heads that count to one value per pair: float32 (..., 3) to (...)."""
        counting = self._head_weights > 0  # an untaught head may answer anything, and 0 · inf would be NaN
        values: FloatArray = logits[..., counting] @ self._head_weights[counting]
        return values

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Return calibrated probabilities of click, cart and purchase: float32 (n, 3) to (n, 3), NaN where unknown."""
        return probabilities(logits, self._probability_maps)

    def batch(self, pairs: Pairs, positions: Sequence[int]) -> TokenBatch:
        """Pad some of the pairs into one batch."""
        return assemble(
            [pairs.prefixes[p] for p in positions],
            [pairs.passages[p] for p in positions],
            separator_id=self.tokenizer.separator_id,
            padding_id=self.tokenizer.padding_id,
        )


def export_reranker(
    model_version_dir: Path, out_dir: Path, *, precision: Precision, calibration: Sequence[TokenBatch]
) -> RerankerInfo:
    """Write a trained version as an OpenVINO graph.

    Args:
        model_version_dir: A finished version folder (``model/`` and ``model.json``).
        out_dir: Folder to write.
        precision: ``int8`` quantises weights and activations.
        calibration: The store's own pairs (see ``rerank.quantisation``), from which int8 learns the activations'
            ranges; at least one batch, which is also what the model is traced with.
    Returns:
        What was written to ``reranker.json``.
    Raises:
        ArtefactError: If the version folder is not a finished one.
        ConfigError: If there is no calibration batch.
    """
    from retrieval.engines.export import export_openvino
    from retrieval.quiet import quiet_libraries

    info = RerankerModelInfo.load(model_version_dir)
    tokenizer = PairTokenizer.load(model_version_dir / MODEL_FOLDER)
    module = load_module(model_version_dir / MODEL_FOLDER)
    with quiet_libraries():
        export_openvino(module, out_dir, precision=precision, calibration=calibration)
    exported = RerankerInfo(
        fingerprint=info.fingerprint,
        retriever_fingerprint=info.retriever_fingerprint,
        precision=precision,
        config=info.config,
        score_weights=info.score_weights,
        head_weights=info.head_weights,
        probability_maps=info.probability_maps,
    )
    tokenizer.save(out_dir)
    (out_dir / RERANKER_FILE).write_text(exported.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return exported


def open_scorer(folder: Path, *, n_threads: int | None = None) -> PairScorer:
    """Open a folder written by ``export_reranker``; needs no torch.

    Raises:
        ArtefactError: If a file is missing or broken.
    """
    from retrieval.engines.engine import OpenVinoEngine

    info = read_info(folder)
    engine = OpenVinoEngine.load(folder, n_threads=n_threads)
    return PairScorer(engine, PairTokenizer.load(folder), info.head_weights, info.probability_maps)


def open_torch_scorer(model_version_dir: Path, *, device: str | None = None) -> PairScorer:
    """Open a trained version with torch, on the GPU where there is one and no device is named.

    Raises:
        ArtefactError: If the version folder is not a finished one.
    """
    from retrieval.engines.torch_engine import TorchEngine

    info = RerankerModelInfo.load(model_version_dir)
    folder = model_version_dir / MODEL_FOLDER
    engine = TorchEngine(load_module(folder), device)
    return PairScorer(engine, PairTokenizer.load(folder), info.head_weights, info.probability_maps)


def read_info(folder: Path) -> RerankerInfo:
    """Read ``reranker.json``.

    Raises:
        ArtefactError: If it is missing or broken.
    """
    try:
        return RerankerInfo.model_validate_json((folder / RERANKER_FILE).read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtefactError(
            f"expected an exported reranker in {folder}, got {type(exc).__name__} on {RERANKER_FILE}; build it again"
        ) from exc


def load_module(folder: Path) -> "nn.Module":
    """Load a trained model as a torch module with the engines' three inputs and an output of (n, 3), to infer only."""
    from rerank.cross_encoder import CrossEncoder, load_classifier
    from rerank.first_token import read_first_token
    from retrieval.quiet import quiet_libraries

    with quiet_libraries():
        return CrossEncoder(read_first_token(load_classifier(str(folder)))).eval()
