"""``model.json``: what is known about one trained version of the blend. Reading it needs no lightgbm."""

from pathlib import Path

from pydantic import Field, ValidationError

from corpus.config import Section
from corpus.errors import ArtefactError
from rerank.config import BlendConfig
from rerank.features import FEATURE_VERSION, FEATURES, RERANK_FEATURES

BLEND_FILE = "model.json"  # written last: its presence marks a finished version
FIRST_FILE = "first.txt"
SECOND_FILE = "second.txt"
FORMAT_VERSION = 2


class BlendInfo(Section):
    """The content of ``model.json``."""

    format_version: int = FORMAT_VERSION
    fingerprint: str  # SHA-256 over both models, the features they read and the reach, hexadecimal
    feature_version: int
    features: tuple[str, ...]
    rerank_features: tuple[str, ...]
    retriever_fingerprint: str  # whose candidates it learned from
    channels: str  # ``retrieval.first_stage.channel_digest`` of the settings that those candidates were scored by
    reranker_fingerprint: str  # whose scores it learned from
    data_fingerprint: str
    config: BlendConfig
    n_searches: int = Field(ge=0)  # that it learned from
    n_reranked: int = Field(ge=0)  # of which the cross-encoder read so many
    reach: float | None = None  # see ``rerank.pruning``; None: the cross-encoder reads all up to the depth
    n_trees: tuple[int, int]  # of the first and the second model
    metrics: dict[str, float]  # cross-validated
    importance: dict[str, float]  # share of the total gain by feature, of both models
    seed: int
    packages: dict[str, str]


def read_blend_info(folder: Path) -> BlendInfo:
    """Read ``model.json``.

    Raises:
        ArtefactError: If it is missing, broken, or of other features than this release computes.
    """
    path = folder / BLEND_FILE
    try:
        info = BlendInfo.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtefactError(
            f"expected a trained blend in {folder}, got {type(exc).__name__} on {BLEND_FILE}; run `tandem train blend`"
        ) from exc
    found = (info.format_version, info.feature_version, info.features, info.rerank_features)
    if found != (FORMAT_VERSION, FEATURE_VERSION, FEATURES, RERANK_FEATURES):
        raise ArtefactError(
            f"expected a blend of this release's {len(FEATURES) + len(RERANK_FEATURES)} features, version "
            f"{FEATURE_VERSION}, in {folder}, got one of {len(info.features) + len(info.rerank_features)}, version "
            f"{info.feature_version}; run `tandem train blend`"
        )
    return info
