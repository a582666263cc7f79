"""``tandem train blend``: fit the trees, choose their number by cross-validation, describe the outcome."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from corpus.columns import ItemColumns
from corpus.errors import ConfigError, TooLittleData
from corpus.prepared import Prepared
from corpus.progress import track
from rerank.blend import predict
from rerank.blend_info import BLEND_FILE, FIRST_FILE, SECOND_FILE, BlendInfo
from rerank.blend_lists import BlendList, collect_blend_lists, folds
from rerank.config import BlendConfig
from rerank.features import FEATURE_VERSION, FEATURES, RERANK_FEATURES, FeatureExtractor, rerank_features
from rerank.lightgbm_runtime import lightgbm
from rerank.pruning import fit_reach, pruned, reaches_to_try
from rerank.reranker import Reranker
from retrieval.arrays import FloatArray, IntArray
from retrieval.first_stage import FirstStage

logger = logging.getLogger(__name__)

CUTOFF = 10
GRADE_STEPS = 10  # LightGBM takes whole numbers as labels: grades in tenths, with gains in proportion
MAX_GRADE = 3
PACKAGES = ("lightgbm", "numpy", "scipy")


def train_blend(
    prepared: Prepared,
    first_stage: FirstStage,
    reranker: Reranker,
    config: BlendConfig,
    out: Path,
    *,
    reranker_fingerprint: str,
) -> BlendInfo:
    """Train one version of the blend.

    Args:
        prepared: Its validation split is what the trees learn from.
        first_stage: The tuned retriever, with behaviour of the training split alone.
        reranker: The tuned cross-encoder, without a blend of its own.
        config: How to train.
        out: The version's folder. Afterwards it holds both models and, written last, ``model.json``.
        reranker_fingerprint: Of the trained reranker.
    Raises:
        ConfigError: If the folder holds a finished version.
        TooLittleData: If there are too few validation searches to learn from.
    """
    if (out / BLEND_FILE).exists():
        raise ConfigError(f"expected a folder for a new version, {out} holds a finished one; train into another")
    examples = prepared.examples("valid", limit=config.max_searches, seed=config.seed, part="fitting")
    extractor = FeatureExtractor(prepared.items, ItemColumns.of(prepared.items), first_stage.behaviour)
    lists = collect_blend_lists(examples, first_stage.retriever, extractor, config)
    n_searches = len({entry.query_id for entry in lists})
    if n_searches < config.min_searches:
        raise TooLittleData(
            f"expected at least {config.min_searches} validation searches whose candidates hold a choice, got "
            f"{n_searches} of {len(examples)}; go without a blend, or lower blend.min_searches"
        )
    fold = folds(lists, config.n_folds, config.seed)
    n_read = min(config.max_reranked, len(lists))
    if len(np.unique(fold[:n_read])) < 2:
        raise TooLittleData(
            f"expected searches for several queries, so that some can be held out, got {n_read} of one fold; "
            "go without a blend, or raise blend.max_reranked"
        )
    logger.info("fitting the blend on %d lists of %d searches", len(lists), n_searches)
    first = _fit(lists, [entry.features for entry in lists], None, fold, config, names=FEATURES)
    read, before = lists[:n_read], first.held_out[:n_read]
    rerank_scores = _read(read, before, reranker, config.rerank_depth)
    second = _fit_second(read, before, rerank_scores, fold[:n_read], config)
    metrics = _metrics(lists, first) | _metrics_read(read, before, second, rerank_scores, reranker)
    grades = [entry.grades for entry in read]
    final_of = partial(_final_if_read, read, before, second)
    reach = fit_reach(before, rerank_scores, grades, final_of, max_lost=config.max_lost)
    metrics |= {"pruning_lost": reach.lost, "pruning_n_read": reach.n_read}
    info = BlendInfo(
        fingerprint=_fingerprint(first.booster, second.booster, reach=reach.reach),
        feature_version=FEATURE_VERSION,
        features=FEATURES,
        rerank_features=RERANK_FEATURES,
        retriever_fingerprint=first_stage.fingerprint,
        channels=first_stage.channels,
        reranker_fingerprint=reranker_fingerprint,
        data_fingerprint=prepared.fingerprint,
        config=config,
        n_searches=n_searches,
        n_reranked=n_read,
        reach=reach.reach,
        n_trees=(first.booster.num_trees(), second.booster.num_trees()),
        metrics=metrics,
        importance=_importance(first.booster, second.booster),
        seed=config.seed,
        packages={name: version(name) for name in PACKAGES},
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / FIRST_FILE).write_text(first.booster.model_to_string(), encoding="utf-8")
    (out / SECOND_FILE).write_text(second.booster.model_to_string(), encoding="utf-8")
    part = out / f"{BLEND_FILE}.part"
    part.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    part.replace(out / BLEND_FILE)
    return info


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    booster: lightgbm.Booster  # fitted on all lists
    held_out: list[FloatArray]  # each list's scores by a model that has not seen its query, the start included
    apart: list[lightgbm.Booster]  # that model, of each list
    n_trees: int  # how many of its trees to heed


def _fit(
    lists: Sequence[BlendList],
    features: Sequence[FloatArray],
    start: Sequence[FloatArray] | None,
    fold: IntArray,
    config: BlendConfig,
    *,
    names: tuple[str, ...],
) -> _Fitted:
    """Fit trees on all lists, as many as do best on queries held out.

    Args:
        lists: What to learn from.
        features: One (n, n_features) array per list.
        start: Scores to go on from, one (n,) array per list; None starts from nothing.
        fold: int64 (n_lists,), which fold each list is in.
        config: Of the trees.
        names: Of the features.
    """
    boosters: list[lightgbm.Booster] = []
    n_folds = int(fold.max()) + 1
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(n_folds)]
    usable = [(inside, outside) for inside, outside in parts if len(inside) and len(outside)]
    for inside, outside in track(usable, description="cross-validating the blend"):
        train = _dataset(lists, features, start, inside, names)
        valid = _dataset(lists, features, start, outside, names, reference=train)
        boosters.append(
            lightgbm.train(
                _parameters(config),
                train,
                num_boost_round=config.max_trees,
                valid_sets=[valid],
                callbacks=[lightgbm.early_stopping(config.patience, verbose=False)],
            )
        )
    n_trees = max(1, round(float(np.mean([booster.best_iteration for booster in boosters]))))
    apart = {
        number: booster for booster, (_, outside) in zip(boosters, usable, strict=True) for number in outside.tolist()
    }
    held_out = []
    for number in range(len(lists)):
        # as many trees for all folds: each fold's own best number is chosen by the very lists that are held out
        scores = predict(apart[number], features[number], n_trees=n_trees)
        held_out.append(scores if start is None else scores + start[number])
    everything = np.arange(len(lists))
    booster = lightgbm.train(
        _parameters(config), _dataset(lists, features, start, everything, names), num_boost_round=n_trees
    )
    return _Fitted(
        booster=booster, held_out=held_out, apart=[apart[number] for number in range(len(lists))], n_trees=n_trees
    )


def _fit_second(
    lists: Sequence[BlendList],
    before: Sequence[FloatArray],
    rerank_scores: Sequence[FloatArray],
    fold: IntArray,
    config: BlendConfig,
) -> _Fitted:
    """Fit the model that goes on from the first one's held-out scores once the cross-encoder has read.

    Behind the lists come copies, each read within a reach drawn at random: so the trees know what an unread candidate
    means, whether it is one because of the reach, the depth or a deadline, and one model serves any reach. A model
    fitted anew for each would differ from the others by luck more than by its reach.
    """
    reaches = reaches_to_try(before, rerank_scores) if config.max_lost > 0 else []
    if reaches:
        drawn = np.random.default_rng(config.seed).choice(reaches, len(lists)).tolist()
        read = zip(before, rerank_scores, drawn, strict=True)
        copies = [pruned(scores, rerank, reach) for scores, rerank, reach in read]
        lists, before, fold = [*lists, *lists], [*before, *before], np.tile(fold, 2)
        rerank_scores = [*rerank_scores, *copies]
    features = [
        np.hstack([entry.features, rerank_features(scores)]) for entry, scores in zip(lists, rerank_scores, strict=True)
    ]
    return _fit(lists, features, before, fold, config, names=FEATURES + RERANK_FEATURES)


def _final_if_read(
    lists: Sequence[BlendList], before: Sequence[FloatArray], second: _Fitted, number: int, rerank_scores: FloatArray
) -> FloatArray:
    """Return final scores of a list if the cross-encoder had read just that, by trees that have not seen it."""
    features = np.hstack([lists[number].features, rerank_features(rerank_scores)])
    return before[number] + predict(second.apart[number], features, n_trees=second.n_trees)


def _parameters(config: BlendConfig) -> dict[str, object]:
    return {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [CUTOFF],
        "label_gain": [step / GRADE_STEPS for step in range(MAX_GRADE * GRADE_STEPS + 1)],  # linear, as nDCG is told
        "lambdarank_truncation_level": 2 * CUTOFF,
        "num_leaves": config.n_leaves,
        "min_data_in_leaf": config.min_leaf,
        "learning_rate": config.learning_rate,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _dataset(
    lists: Sequence[BlendList],
    features: Sequence[FloatArray],
    start: Sequence[FloatArray] | None,
    numbers: IntArray,
    names: tuple[str, ...],
    *,
    reference: lightgbm.Dataset | None = None,
) -> lightgbm.Dataset:
    chosen = numbers.tolist()
    grades = np.concatenate([lists[number].grades for number in chosen])
    return lightgbm.Dataset(
        np.concatenate([features[number] for number in chosen]),
        label=np.rint(grades.clip(0, MAX_GRADE) * GRADE_STEPS).astype(np.int32),
        group=[len(lists[number].grades) for number in chosen],
        init_score=None if start is None else np.concatenate([start[number] for number in chosen]).astype(np.float64),
        feature_name=list(names),
        reference=reference,
        params={"verbosity": -1},
    )


def _read(
    lists: Sequence[BlendList], order_by: Sequence[FloatArray], reranker: Reranker, depth: int
) -> list[FloatArray]:
    """Let the cross-encoder read each list's best candidates; NaN for the others, one (n,) array per list."""
    found = []
    for entry, scores in zip(track(lists, description="reading the blend's candidates"), order_by, strict=True):
        best = np.argsort(-scores, kind="stable")[:depth]
        read = np.full(len(scores), np.nan, dtype=np.float32)
        read[best] = reranker.score(entry.query, entry.history, entry.candidates.rows[best])
        found.append(read)
    return found


def _metrics(lists: Sequence[BlendList], first: _Fitted) -> dict[str, float]:
    return _figures("retrieval", lists, lambda number: lists[number].candidates.scores) | _figures(
        "first", lists, lambda number: first.held_out[number]
    )


def _metrics_read(
    lists: Sequence[BlendList],
    before: Sequence[FloatArray],
    second: _Fitted,
    rerank_scores: Sequence[FloatArray],
    reranker: Reranker,
) -> dict[str, float]:
    """Compare on the lists that the cross-encoder read.

    ``linear`` is the fitted sum of both stages' scores over the candidates that the first trees chose to be read.
    """
    weights = reranker.score_weights

    def linear(number: int) -> FloatArray:
        retrieval = lists[number].candidates.scores
        joined = weights["rerank"] * rerank_scores[number] + weights["retrieval"] * retrieval
        return np.where(np.isnan(joined), retrieval - 1e6, joined).astype(np.float32)

    return (
        _figures("first_where_read", lists, lambda number: before[number])
        | _figures("linear_where_read", lists, linear)
        | _figures("final_where_read", lists, lambda number: second.held_out[number])
    )


def _figures(name: str, lists: Sequence[BlendList], scores_of: Callable[[int], FloatArray]) -> dict[str, float]:
    """Return nDCG@10 with linear gains over each list, and MRR@10 of its items of any grade above the lowest."""
    ndcg, mrr = [], []
    discounts = 1 / np.log2(np.arange(CUTOFF) + 2)
    for number, entry in enumerate(lists):
        order = np.argsort(-scores_of(number), kind="stable")[:CUTOFF]
        ideal = -np.sort(-entry.grades)[:CUTOFF]
        ndcg.append(float(entry.grades[order] @ discounts[: len(order)] / (ideal @ discounts[: len(ideal)])))
        hits = np.flatnonzero(entry.grades[order] > entry.grades.min())
        mrr.append(1 / (1 + int(hits[0])) if len(hits) else 0.0)
    return {f"{name}_ndcg_at_10": float(np.mean(ndcg)), f"{name}_mrr_at_10": float(np.mean(mrr))}


def _fingerprint(*boosters: lightgbm.Booster, reach: float | None) -> str:
    digest = hashlib.sha256(json.dumps([FEATURE_VERSION, FEATURES, RERANK_FEATURES, reach]).encode())
    for booster in boosters:
        digest.update(booster.model_to_string().encode())
    return digest.hexdigest()


def _importance(*boosters: lightgbm.Booster) -> dict[str, float]:
    """Return each feature's share of the gain of all splits."""
    names = FEATURES + RERANK_FEATURES
    gains = np.zeros(len(names))
    for booster in boosters:
        gains[: booster.num_feature()] += booster.feature_importance("gain")
    return dict(zip(names, (gains / max(float(gains.sum()), 1e-9)).round(4).tolist(), strict=True))
