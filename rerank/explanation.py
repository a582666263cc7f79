"""Why a candidate has its score: what each part of what is known added to it. The parts sum to the score.

A blend's trees are taken apart exactly: the Shapley values of their features, summed within a handful of names that a
merchandiser understands, beside what every candidate begins with.
Source: Lundberg & Lee 2017, A Unified Approach to Interpreting Model Predictions; Lundberg et al. 2020, From local
explanations to global understanding with explainable AI for trees (the exact values for trees).
"""

from typing import Any

import numpy as np

from rerank.features import FEATURES, RERANK_FEATURES
from rerank.parts import BASE, RERANK, RETRIEVAL, UNREAD, Parts
from retrieval.arrays import FloatArray
from retrieval.candidates import Candidates

GROUPS = {
    RETRIEVAL: ("retrieval", "retrieval_rank"),
    "words": (
        "lexical",
        "words_title",
        "words_title_weakest",
        "words_category",
        "words_brand",
        "words_traits",
        "words_traits_weakest",
    ),
    "meaning": ("dense", "dense_gap"),
    "query": ("like_queries_share", "query_share", "query_count", "query_total", "query_lift"),
    "popularity": ("popularity", "popularity_gap", "click_rate", "trend"),
    "taste": (
        "history_events",
        "related_total",
        "related_strongest",
        "related_latest",
        "brand_affinity",
        "taste",
        "taste_strongest",
        "taste_beyond_brand",
        "taste_title",
        "taste_title_shared",
        "taste_title_strongest",
        "category_affinity",
        "chosen_before",
    ),
    "price": ("price", "price_to_query", "price_to_shopper", "in_stock"),
    RERANK: RERANK_FEATURES,
}


def explain_trees(booster: Any, features: FloatArray) -> Parts:  # noqa: ANN401 - lightgbm stays in ``rerank.blend``
    """Return what each group of features added to a model's predictions.

    Args:
        booster: A ``lightgbm.Booster`` over ``FEATURES``, and ``RERANK_FEATURES`` behind them if there are more.
        features: float32 (n, n_features).
    """
    n, width = features.shape
    values = np.zeros((n, width + 1))
    if n:
        values = booster.predict(features, num_iteration=None, num_threads=1, pred_contrib=True)  # the last is the base
    names = (FEATURES + RERANK_FEATURES)[:width]
    places = {name: [names.index(each) for each in group if each in names] for name, group in GROUPS.items()}
    parts = {name: values[:, of_group].sum(axis=1).astype(np.float32) for name, of_group in places.items() if of_group}
    return parts | {BASE: values[:, -1].astype(np.float32)}


def explain_sum(
    candidates: Candidates, rerank: FloatArray, final: FloatArray, weights: dict[str, float], n_read: int
) -> Parts:
    """Return what both stages added to the scores of a reranker without a blend.

    Args:
        candidates: In the order of retrieval.
        rerank: float32 (n,), of the cross-encoder, for the first ``n_read``.
        final: float32 (n,), the scores.
        weights: As the reranker has them.
        n_read: Candidates that the cross-encoder read.
    """
    retrieval = candidates.scores.astype(np.float32)
    if n_read == 0:
        return {RETRIEVAL: retrieval}
    read = np.arange(len(candidates)) < n_read
    own = np.where(read, np.float32(weights["retrieval"]) * retrieval, retrieval)
    opinion = np.where(read, np.float32(weights["rerank"]) * np.where(read, rerank, 0), 0).astype(np.float32)
    return {RETRIEVAL: own, RERANK: opinion, UNREAD: np.where(read, 0, final - retrieval).astype(np.float32)}
