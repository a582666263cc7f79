"""Text to embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from corpus.config import Section
from retrieval.arrays import FloatArray
from retrieval.engine import Engine

Role = Literal["query", "item"]
Precision = Literal["fp32", "int8"]
ENCODER_FILE = "encoder.json"


class EncoderInfo(Section):
    """What identifies an encoder; the content of ``encoder.json``."""

    dim: int
    max_tokens: int
    fingerprint: str
    precision: Precision
    role: Role


class TextEncoder:
    """Turns texts into embeddings through any engine."""

    def __init__(self, tokenizer: object, engine: Engine, info: EncoderInfo) -> None:
        self.info = info

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.info.dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of all that decides an embedding's numbers."""
        return self.info.fingerprint

    def encode(self, texts: Sequence[str], *, progress: str | None = None) -> FloatArray:
        """Embed texts: float32 (n, dim), L2-normalised, C-contiguous, in the order of the texts."""
        raise NotImplementedError


def open_torch_encoder(model_dir: Path, *, role: Role, max_tokens: int) -> TextEncoder:
    """Open one tower of a SentenceTransformer folder with torch."""
    raise NotImplementedError


def export_encoder(
    model_dir: Path,
    out_dir: Path,
    *,
    role: Role,
    precision: Precision,
    calibration_texts: Sequence[str],
    max_tokens: int,
) -> EncoderInfo:
    """Write one tower as an OpenVINO graph that ends in L2-normalised embeddings."""
    raise NotImplementedError


def open_encoder(folder: Path, *, n_threads: int | None = None) -> TextEncoder:
    """Open a folder written by ``export_encoder``; needs no torch."""
    raise NotImplementedError
