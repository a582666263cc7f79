"""From a head's logit to the probability that the shopper clicks, adds or buys: fitted once, applied with numpy.

The loss leaves the logits' scale to the drawn lists, in which positives are far more frequent than among the candidates
that are served. So each head gets a rising map, fitted on what the retriever shows for validation searches: Platt
scaling (Platt 1999), or isotonic regression (Zadrozny & Elkan 2002) where that predicts unseen searches better. A map
is stored as plain numbers, so that serving needs no more than numpy.

The probabilities hold for searches like those of the validation split, which led to at least one choice.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from corpus.config import Section
from rerank.heads import HEADS
from retrieval.arrays import FloatArray, IntArray

logger = logging.getLogger(__name__)

N_BINS = 15  # Guo et al. 2017, section 5
N_FOLDS = 5
LEAST_CHOSEN = 10  # searches with a choice: fewer tell no rate

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Platt(Section):
    """A sigmoid: temperature 1 / slope, and a bias."""

    kind: Literal["platt"] = "platt"
    slope: float = Field(ge=0)
    intercept: float

    def apply(self, logits: npt.ArrayLike) -> Numbers:
        """Map logits to probabilities, float64 of the same shape; NaN stays NaN."""
        return sigmoid(self.slope * np.asarray(logits, dtype=np.float64) + self.intercept)


class Isotonic(Section):
    """Straight lines between knots, level beyond them."""

    kind: Literal["isotonic"] = "isotonic"
    logits: tuple[float, ...] = Field(min_length=1)  # rising
    probabilities: tuple[float, ...]  # never falling, as many

    def apply(self, logits: npt.ArrayLike) -> Numbers:
        """Map logits to probabilities, float64 of the same shape; NaN stays NaN."""
        found: Numbers = np.interp(np.asarray(logits, dtype=np.float64), self.logits, self.probabilities)
        return found


ProbabilityMap = Annotated[Platt | Isotonic, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What fitting found."""

    maps: dict[str, ProbabilityMap]  # head -> map; a head without one has no known probability
    metrics: dict[str, float]  # expected calibration errors per head, before and after


def sigmoid(logits: Numbers) -> Numbers:
    """Return 1 / (1 + exp(-logit)), without overflow."""
    halves: Numbers = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return halves


def probabilities(logits: FloatArray, maps: Mapping[str, ProbabilityMap]) -> FloatArray:
    """Map the heads' logits to probabilities that form a funnel: click ≥ cart ≥ purchase.

    Args:
        logits: float32 (n, 3); NaN where not scored.
        maps: Head → its map.
    Returns:
        float32 (n, 3); NaN where a logit is NaN or a head has no map.
    """
    found = np.full(logits.shape, np.nan)
    for column, head in enumerate(HEADS):
        if head in maps:
            found[:, column] = maps[head].apply(logits[:, column])
    return _funnel(found).astype(np.float32)


def expected_calibration_error(predicted: npt.ArrayLike, happened: npt.ArrayLike) -> float:
    """Return the mean distance between predicted chance and observed rate over 15 bins of equal mass.

    Bins of equal width would put nearly all candidates, which have small chances, into the first one.

    Args:
        predicted: (n,) probabilities.
        happened: (n,) 0 or 1.
    Source: Guo et al. 2017, eq. 3, with the bins of Nixon et al. 2019, "Measuring calibration in deep learning".
    """
    chances, outcomes = (np.asarray(values, dtype=np.float64) for values in (predicted, happened))
    bins = np.array_split(np.argsort(chances, kind="stable"), N_BINS)
    return float(sum(abs((chances[bin] - outcomes[bin]).sum()) for bin in bins) / max(len(chances), 1))


def fit_calibration(logits: FloatArray, chosen: Flags, queries: IntArray, heads: tuple[str, ...]) -> Calibration:
    """Fit a map per head, and tell what it mends on searches that it was not fitted on.

    Args:
        logits: float32 (n, 3) of candidates.
        chosen: bool (n, 3), whether the shopper chose them so.
        queries: int64 (n,), which search each candidate belongs to: candidates of one search share a fold.
        heads: Those that were trained. One that too few searches have a choice of gets no map.
    """
    maps: dict[str, ProbabilityMap] = {}
    unseen = np.full(logits.shape, np.nan)  # predictions for each fold by maps that were fitted on the others
    for column, head in enumerate(HEADS):
        if head not in heads:
            continue
        n_chosen = len(np.unique(queries[chosen[:, column]]))
        if n_chosen < LEAST_CHOSEN:
            logger.warning(
                "%d validation searches led to a %s among their candidates, %d are needed: its probability is unknown",
                n_chosen,
                head,
                LEAST_CHOSEN,
            )
            continue
        maps[head], unseen[:, column] = _fit_head(logits[:, column].astype(np.float64), chosen[:, column], queries)
    metrics: dict[str, float] = {}
    after = _funnel(unseen)
    for head in maps:
        column = HEADS.index(head)
        before = sigmoid(logits[:, column].astype(np.float64))
        metrics[f"ece_{head}_uncalibrated"] = expected_calibration_error(before, chosen[:, column])
        metrics[f"ece_{head}"] = expected_calibration_error(after[:, column], chosen[:, column])
    return Calibration(maps=maps, metrics=metrics)


def _fit_head(logits: Numbers, chosen: Flags, queries: IntArray) -> tuple[ProbabilityMap, Numbers]:
    """Return the map of the kind with the lower cross-validated log loss, and that kind's predictions for each fold."""
    kinds: tuple[Callable[[Numbers, Flags], ProbabilityMap], ...] = (_fit_platt, _fit_isotonic)
    folds = queries % N_FOLDS
    unseen = np.empty((len(kinds), len(logits)))
    for line, fit in enumerate(kinds):
        for fold in range(N_FOLDS):
            held_out = folds == fold
            unseen[line, held_out] = fit(logits[~held_out], chosen[~held_out]).apply(logits[held_out])
    losses = -np.where(chosen, np.log(unseen), np.log1p(-unseen)).mean(axis=1)
    best = int(np.argmin(losses))  # of equals Platt's, the simpler one
    return kinds[best](logits, chosen), unseen[best]


def _fit_platt(logits: Numbers, chosen: Flags) -> ProbabilityMap:
    from sklearn.linear_model import LogisticRegression

    n_chosen, n = int(chosen.sum()), len(chosen)
    spread = float(logits.std())
    if 0 < n_chosen < n and spread > 0:
        # in units of their spread, the library's mild penalty keeps a perfect separation finite
        model = LogisticRegression().fit((logits[:, None] - logits.mean()) / spread, chosen)
        slope = float(model.coef_[0, 0]) / spread
        if slope > 0:
            return Platt(slope=slope, intercept=float(model.intercept_[0]) - slope * float(logits.mean()))
    return Platt(
        slope=0.0, intercept=float(np.log((n_chosen + 1) / (n - n_chosen + 1)))
    )  # the rate, whatever the logit


def _fit_isotonic(logits: Numbers, chosen: Flags) -> ProbabilityMap:
    from sklearn.isotonic import IsotonicRegression

    least = 1.0 / (len(chosen) + 2)  # Laplace's rule of succession: nothing is certain after n trials
    model = IsotonicRegression(y_min=least, y_max=1.0 - least).fit(logits, chosen.astype(np.float64))
    return Isotonic(logits=tuple(model.X_thresholds_.tolist()), probabilities=tuple(model.y_thresholds_.tolist()))


def _funnel(chances: Numbers) -> Numbers:
    """Lower what exceeds the step before it; unknown steps bound nothing and stay unknown."""
    return np.where(np.isnan(chances), np.nan, np.fmin.accumulate(chances, axis=1))
