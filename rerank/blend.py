"""The learned blend: LambdaMART over both stages' scores and what the event log knows. Imports lightgbm.

Two models in a row. The *first* knows everything but the cross-encoder's opinion; it chooses whom the cross-encoder
reads, and its order is what remains when that fails or time runs out. The *second* adds a correction once the
cross-encoder has spoken: its trees go on boosting from the first one's scores.

    final(item) = first(features) + second(features, rerank features)

Source: Burges 2010, From RankNet to LambdaRank to LambdaMART; Ke et al. 2017, LightGBM.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError
from corpus.events import HistoryEvent
from rerank.blend_info import FIRST_FILE, SECOND_FILE, BlendInfo, read_blend_info
from rerank.explanation import explain_trees
from rerank.features import FEATURES, RERANK_FEATURES, FeatureExtractor, rerank_features
from rerank.lightgbm_runtime import lightgbm
from rerank.parts import Parts, PartsOf, add_parts
from rerank.pruning import worth_reading
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates


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

    @property
    def extractor(self) -> FeatureExtractor:
        """What computes the features."""
        return self._extractor

    def features(self, query: str, history: Sequence[HistoryEvent], candidates: Candidates) -> FloatArray:
        """See ``FeatureExtractor.features``."""
        return self._extractor.features(query, history, candidates)

    def first(self, features: FloatArray) -> FloatArray:
        """Score candidates before the cross-encoder has spoken; float32 (n,), higher is better."""
        return predict(self._first, features)

    def worth_reading(self, first: FloatArray, depth: int | None, *, whole: bool) -> IntArray:
        """Choose whom the cross-encoder reads; int64 (n_read,) positions, the first model's best first.

        Args:
            first: float32 (n,), from ``first``.
            depth: Most candidates to read; None: all.
            whole: Whether to read so many however far the first model puts them behind.
        """
        return worth_reading(first, depth, None if whole else self.info.reach)

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

    def explain(self, features: FloatArray, rerank_scores: FloatArray | None) -> PartsOf:
        """Return what tells what each group of features added to the scores: ``first``'s alone, or ``final``'s.

        Args:
            features: float32 (n, ``len(FEATURES)``).
            rerank_scores: float32 (n,), NaN where the cross-encoder read nothing; None: it has not spoken.
        """
        first, second = self._first, self._second  # all that it keeps of the blend
        if rerank_scores is None:
            return lambda chosen: explain_trees(first, features[chosen])
        joined = np.hstack([features, rerank_features(rerank_scores)])

        def both(chosen: IntArray) -> Parts:
            return add_parts(explain_trees(first, features[chosen]), explain_trees(second, joined[chosen]))

        return both

    def with_extractor(self, extractor: FeatureExtractor) -> "Blend":
        """Return the same models over other tables."""
        return Blend(self._first, self._second, extractor, self.info)


def predict(booster: lightgbm.Booster, features: FloatArray, *, n_trees: int | None = None) -> FloatArray:
    """Run a model on one thread: a request's few hundred rows are not worth waking others.

    Args:
        booster: The model.
        features: float32 (n, n_features).
        n_trees: How many of its trees to heed; None: the best number, where training noted one, else all.
    Returns:
        float32 (n,).
    """
    if not len(features):
        return np.empty(0, dtype=np.float32)
    scores: FloatArray = booster.predict(features, num_iteration=n_trees, num_threads=1).astype(np.float32)
    return scores


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
