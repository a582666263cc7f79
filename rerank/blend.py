"""The learned blend: LambdaMART over both stages' scores and what the event log knows. Imports lightgbm.

Two models in a row. The *first* knows everything but the cross-encoder's opinion; it chooses whom the cross-encoder
reads, and its order is what remains when that fails or time runs out. The *second* adds a correction once the
cross-encoder has spoken: its trees go on boosting from the first one's scores.

    final(item) = first(features) + second(features, rerank features)

Source: Burges 2010, From RankNet to LambdaRank to LambdaMART; Ke et al. 2017, LightGBM.
"""

from collections.abc import Sequence
from pathlib import Path

import lightgbm
import numpy as np
from pydantic import Field, ValidationError

from corpus.config import Section
from corpus.errors import ArtefactError
from corpus.events import HistoryEvent
from rerank.config import BlendConfig
from rerank.features import FEATURE_VERSION, FEATURES, RERANK_FEATURES, FeatureExtractor, rerank_features
from retrieval.arrays import FloatArray
from retrieval.candidates import Candidates

BLEND_FILE = "model.json"  # written last: its presence marks a finished version
FIRST_FILE = "first.txt"
SECOND_FILE = "second.txt"
FORMAT_VERSION = 1


class BlendInfo(Section):
    """The content of ``model.json``."""

    format_version: int = FORMAT_VERSION
    fingerprint: str  # SHA-256 over both models and the features they read, hexadecimal
    feature_version: int
    features: tuple[str, ...]
    rerank_features: tuple[str, ...]
    retriever_fingerprint: str  # whose candidates it learned from
    reranker_fingerprint: str  # whose scores it learned from
    data_fingerprint: str
    config: BlendConfig
    n_searches: int = Field(ge=0)  # that it learned from
    n_reranked: int = Field(ge=0)  # of which the cross-encoder read so many
    n_trees: tuple[int, int]  # of the first and the second model
    metrics: dict[str, float]  # cross-validated
    importance: dict[str, float]  # share of the total gain by feature, of both models
    seed: int
    packages: dict[str, str]


class Blend:
    """Scores candidates by features. Safe for several threads."""

    def __init__(
        self, first: lightgbm.Booster, second: lightgbm.Booster, extractor: FeatureExtractor, info: BlendInfo
    ) -> None:
        """Join both models and the code that computes what they read.

        Args:
            first: Reads ``FEATURES``.
            second: Reads ``FEATURES`` and ``RERANK_FEATURES``.
            extractor: Over the catalogue that candidates come from.
            info: Says what they are.
        """
        self.info = info
        self._first = first
        self._second = second
        self._extractor = extractor

    def features(self, query: str, history: Sequence[HistoryEvent], candidates: Candidates) -> FloatArray:
        """See ``FeatureExtractor.features``."""
        return self._extractor.features(query, history, candidates)

    def first(self, features: FloatArray) -> FloatArray:
        """Score candidates before the cross-encoder has spoken; float32 (n,), higher is better."""
        return predict(self._first, features)

    def final(self, first: FloatArray, features: FloatArray, rerank_scores: FloatArray) -> FloatArray:
        """Score candidates after it has.

        Args:
            first: float32 (n,), from ``first``.
            features: float32 (n, ``len(FEATURES)``).
            rerank_scores: float32 (n,), NaN where the cross-encoder read nothing.
        Returns:
            float32 (n,), higher is better.
        """
        return first + predict(self._second, np.hstack([features, rerank_features(rerank_scores)]))

    def with_extractor(self, extractor: FeatureExtractor) -> "Blend":
        """Return the same models over other tables."""
        return Blend(self._first, self._second, extractor, self.info)


def predict(booster: lightgbm.Booster, features: FloatArray) -> FloatArray:
    """Run a model on one thread: a request's few hundred rows are not worth waking others; float32 (n,)."""
    if not len(features):
        return np.empty(0, dtype=np.float32)
    scores: FloatArray = booster.predict(features, num_threads=1).astype(np.float32)
    return scores


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


def open_blend(folder: Path, extractor: FeatureExtractor) -> Blend:
    """Open a version written by ``rerank.blend_training.train_blend``.

    Raises:
        ArtefactError: If a file is missing or broken.
    """
    info = read_blend_info(folder)
    boosters = []
    for name, width in ((FIRST_FILE, len(FEATURES)), (SECOND_FILE, len(FEATURES) + len(RERANK_FEATURES))):
        try:
            booster = lightgbm.Booster(model_str=(folder / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, lightgbm.basic.LightGBMError) as exc:
            raise ArtefactError(f"expected trees at {folder / name}, got: {exc}; run `tandem train blend`") from exc
        if booster.num_feature() != width:
            raise ArtefactError(
                f"expected trees over {width} features at {folder / name}, got {booster.num_feature()}; "
                "run `tandem train blend`"
            )
        boosters.append(booster)
    return Blend(boosters[0], boosters[1], extractor, info)
