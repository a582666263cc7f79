"""``model.json``: what is known about one trained version of the reranker. Written last, so it marks a finished one."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.errors import ArtefactError
from rerank.config import RerankerConfig
from rerank.probabilities import ProbabilityMap

MODEL_FILE = "model.json"
MODEL_FOLDER = "model"  # the transformers folder beside it
FORMAT_VERSION = 2


class _Versioned(BaseModel):
    """What every format has, read before the rest, whose fields depend on it."""

    format_version: int


class RerankerModelInfo(BaseModel):
    """A trained reranker's identity, origin, metrics and score weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format_version: int = FORMAT_VERSION
    fingerprint: str  # SHA-256 of weights, tokenizer and everything that shapes the input, hexadecimal
    retriever_fingerprint: str  # whose candidates it was trained on
    data_fingerprint: str
    base_model: str
    teacher_fingerprint: str | None = None  # of the version that a student learned from
    config: RerankerConfig  # resolved
    score_weights: dict[str, float]  # final score = rerank · "rerank" + retrieval score · "retrieval"
    heads: tuple[str, ...]  # those that the data could teach; the others' outputs mean nothing
    head_weights: dict[str, float]  # ranking value = sum of the heads' logits times these; 0 for untaught heads
    probability_maps: dict[str, ProbabilityMap]  # head -> from its logit to a probability; none: unknown
    metrics: dict[str, float]  # on validation, of the best epoch
    n_parameters: int
    seed: int
    packages: dict[str, str]  # name -> version

    @classmethod
    def load(cls, folder: Path) -> "RerankerModelInfo":
        """Read ``model.json`` of a version folder.

        Raises:
            ArtefactError: If it is missing, broken or of another format version.
        """
        path = folder / MODEL_FILE
        try:
            content = path.read_bytes()
            found = _Versioned.model_validate_json(content).format_version
            if found != FORMAT_VERSION:
                raise ArtefactError(f"expected reranker format {FORMAT_VERSION} in {path}, got {found}; train it anew")
            return cls.model_validate_json(content)
        except (OSError, ValidationError) as exc:
            raise ArtefactError(
                f"expected a trained reranker in {folder}, got {type(exc).__name__} on {MODEL_FILE}; "
                "run `tandem train reranker`"
            ) from exc

    def save(self, folder: Path) -> None:
        """Write ``model.json`` by write-and-rename, so that it is there whole or not at all."""
        part = folder / f"{MODEL_FILE}.part"
        part.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(folder / MODEL_FILE)
