"""``model.json``: what a finished retriever version says about itself. Read by serving, so no torch here."""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from corpus.config import Section
from corpus.errors import ArtefactError
from retrieval.config import FusionConfig, RetrieverConfig
from retrieval.fusion import FusionReport, FusionWeights
from retrieval.passages import PASSAGE_VERSION

MODEL_FILE = "model.json"  # written last: its presence marks a finished version
MODEL_FOLDER = "model"  # the SentenceTransformer folder inside a version
FORMAT_VERSION = 2


class FusionInfo(Section):
    """The channels' weights, and how they were found."""

    weights: FusionWeights
    fitted: FusionReport | None = None  # None: there was nothing to fit them on

    def resolved(self, config: FusionConfig) -> FusionWeights:
        """Return the weights to use: those that the configuration names, else those found."""
        return FusionWeights(
            dense=self.weights.dense if config.dense_weight is None else config.dense_weight,
            behaviour=self.weights.behaviour if config.behaviour_weight is None else config.behaviour_weight,
        )


class RetrieverModelInfo(Section):
    """The content of ``model.json``."""

    format_version: int = FORMAT_VERSION
    fingerprint: str  # SHA-256 over weights, tokenizer and the way passages are written
    base_model: str  # as configured
    dim: int  # width of an embedding
    config: RetrieverConfig  # resolved: everything that made this model
    data_fingerprint: str  # of the prepared data that it was trained on
    n_pairs: int  # training pairs
    n_steps: int  # optimiser steps taken
    seed: int
    metrics: dict[str, float]  # on validation queries against the sampled catalogue
    fusion: FusionInfo
    packages: dict[str, str]  # versions of the libraries that trained it


def load_retriever_info(folder: Path) -> RetrieverModelInfo:
    """Read the ``model.json`` of a version's folder.

    Raises:
        ArtefactError: If it is missing, broken or of another format version.
    """
    path = folder / MODEL_FILE
    try:
        info = RetrieverModelInfo.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ArtefactError(
            f"expected a finished retriever at {path}, found none; run `tandem train retriever`"
        ) from exc
    except (ValidationError, UnicodeDecodeError) as exc:
        raise ArtefactError(f"expected a retriever's description at {path}, got: {exc}; train it again") from exc
    if info.format_version != FORMAT_VERSION:
        raise ArtefactError(
            f"expected format version {FORMAT_VERSION} in {path}, got {info.format_version}; "
            "train the retriever with this version of Tandem"
        )
    return info


def fingerprint_model(model: Path, config: RetrieverConfig) -> str:
    """Return the SHA-256 over weights, tokenizer and all that decides what text they read."""
    reading = [PASSAGE_VERSION, config.item_fields, config.max_query_tokens, config.max_item_tokens]
    digest = hashlib.sha256(json.dumps(reading).encode())
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        digest.update(path.relative_to(model).as_posix().encode() + content.digest())
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write by write-and-rename, so that the file is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
