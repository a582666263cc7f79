"""What the learned blend knows about a candidate: the one piece of code that says so, for training and serving alike.

Text models cannot count. How often an item is chosen after this query, what this shopper's earlier choices have to do
with it, and how its price compares, are numbers; trees read them beside both stages' scores. A number that is not
known is NaN, which the trees treat as a case of its own; a missing history is not a history of zeros.

``FEATURE_VERSION`` and the names are part of a blend's fingerprint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from corpus.columns import ItemColumns, TextColumn
from corpus.events import EventType, HistoryEvent
from corpus.items import Item, ItemTable
from rerank.meanings import compare_words
from rerank.tastes import compare_history
from retrieval.arrays import FloatArray, IntArray, look_up
from retrieval.candidates import Candidates
from retrieval.event_log.behaviour import Behaviour
from retrieval.event_log.query_log import Chosen
from retrieval.event_log.related_items import relatedness
from retrieval.event_log.traits import Traits

FEATURE_VERSION = 3

FEATURES = (
    # the first stage
    "retrieval",  # fused score
    "retrieval_rank",  # from 0
    "dense",  # cosine
    "dense_gap",  # to the best candidate's
    "lexical",  # BM25 as a share of the best candidate's
    # the log, about this query and queries like it
    "like_queries_share",  # kernel estimate of the share of searches like this one that chose it
    "query_share",  # share of this very query's choices, smoothed
    "query_count",  # log of the weight of its choices after this query
    "query_total",  # log of the weight of all choices after this query: how far the shares can be trusted
    "query_lift",  # share of the item's choices that came after this query
    # the log, about the query's words; see ``rerank.meanings``
    "words_title",
    "words_title_weakest",
    "words_category",
    "words_brand",
    "words_traits",
    "words_traits_weakest",
    # the log, about the item
    "popularity",  # log of the weight of all its choices
    "popularity_gap",  # to the most popular candidate's
    "click_rate",  # log of its clicks over those that the positions where it was shown let expect
    "trend",  # log ratio of its recent choices to all of them: is it coming or going?
    # this shopper
    "history_events",  # how many events with an item the history holds
    "related_total",  # to the history's items, by common shoppers, less the candidates' mean
    "related_strongest",
    "related_latest",
    "brand_affinity",  # share of the history's items that have its brand
    "taste",  # how much oftener the history's items have the item's brand and attributes than everybody's choices do
    "taste_strongest",  # the property of which that is most true
    "taste_beyond_brand",  # of the attributes alone
    "taste_title",  # how much oftener than usual the history's titles have the words of the item's title, in the mean
    "taste_title_shared",  # the sum over the words that they have oftener
    "taste_title_strongest",  # the word of which that is most true
    "category_affinity",  # of the levels of its category path, the mean share of the history's items that have them
    "chosen_before",  # events of the history on this very item
    # price
    "price",  # log
    "price_to_query",  # log ratio to what is usually chosen after this query, else to the candidates' median
    "price_to_shopper",  # log ratio to the median of the history's items
    "in_stock",
)
RERANK_FEATURES = (
    "rerank",  # the cross-encoder's score
    "rerank_gap",  # to the best candidate's
    "rerank_rank",  # from 0
)

_OF_HISTORY = (
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
)
_SMOOTHING = 2.0  # choices of nothing added to a query's, as two clicks of two are no certainty
_MAX_HISTORY = 50  # events that are looked at, as many as training data keeps


class FeatureExtractor:
    """Computes the features of one query's candidates. Safe for several threads."""

    def __init__(self, items: ItemTable, columns: ItemColumns, behaviour: Behaviour) -> None:
        """Join what features are computed from.

        Args:
            items: The catalogue.
            columns: Its properties.
            behaviour: Its tables.
        """
        self._join(items, columns, behaviour, behaviour.traits)

    def _join(self, items: ItemTable, columns: ItemColumns, behaviour: Behaviour, traits: Traits) -> None:
        self._behaviour = behaviour
        self._columns = columns
        self._row_of = items.row_of
        self._traits = traits

    def with_changes(
        self, items: ItemTable, columns: ItemColumns, behaviour: Behaviour, changed: Mapping[int, Item]
    ) -> "FeatureExtractor":
        """Return an extractor over the catalogue after live updates.

        Args:
            items: The catalogue now.
            columns: Its properties now.
            behaviour: Tables with a place for every row.
            changed: The rows that this extractor does not know as they are now.
        """
        after = object.__new__(type(self))
        traits = replace(behaviour.traits, changed=self._traits.changed).with_changes(changed)
        after._join(items, columns, behaviour, traits)
        return after

    def features(self, query: str, history: Sequence[HistoryEvent], candidates: Candidates) -> FloatArray:
        """Compute everything that is known before the cross-encoder has read anything.

        Args:
            query: The normalised query.
            history: The shopper's earlier events, newest first.
            candidates: What the first stage found.
        Returns:
            float32 (n, ``len(FEATURES)``).
        """
        if not len(candidates):
            return np.empty((0, len(FEATURES)), dtype=np.float32)
        chosen = self._behaviour.queries.chosen(query)
        known = self._history_rows(history)
        columns = (
            self._of_retrieval(candidates)
            | self._of_query(chosen, candidates)
            | self._of_words(query, candidates.rows)
            | self._of_shopper(known, candidates.rows)
            | self._of_price(chosen, known, candidates.rows)
        )
        return np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)

    def _history_rows(self, history: Sequence[HistoryEvent]) -> IntArray:
        """Return the rows of the newest events on known items, newest first, repetitions kept."""
        told = [event for event in history[:_MAX_HISTORY] if event.item_id and event.type is not EventType.IMPRESSION]
        rows = [self._row_of(event.item_id) for event in told if event.item_id]
        return np.array([row for row in rows if row is not None], dtype=np.int64)

    def _of_retrieval(self, candidates: Candidates) -> dict[str, FloatArray]:
        best = np.nanmax(candidates.lexical, initial=0.0)
        share = candidates.lexical / best if best > 0 else np.full(len(candidates), np.nan, dtype=np.float32)
        return {
            "retrieval": candidates.scores,
            "retrieval_rank": np.arange(len(candidates), dtype=np.float32),
            "dense": candidates.dense,
            "dense_gap": candidates.dense - candidates.dense.max(initial=-1.0),
            "lexical": np.nan_to_num(share, nan=0.0),
        }

    def _of_query(self, chosen: Chosen, candidates: Candidates) -> dict[str, FloatArray]:
        order = np.argsort(chosen.rows)
        count = look_up(chosen.rows[order], chosen.weights[order], candidates.rows).astype(np.float32)
        popularity = self._behaviour.popularity[candidates.rows]
        log_popularity = np.log1p(popularity)
        return {
            "like_queries_share": candidates.behaviour,
            "query_share": count / (chosen.total + _SMOOTHING),
            "query_count": np.log1p(count),
            "query_total": np.full(len(count), np.log1p(chosen.total), dtype=np.float32),
            "query_lift": count / (popularity + _SMOOTHING),
            "popularity": log_popularity,
            "popularity_gap": log_popularity - log_popularity.max(initial=0.0),
            "click_rate": np.log(self._behaviour.click_rate[candidates.rows]),
            "trend": np.log1p(self._behaviour.recent[candidates.rows]) - log_popularity,
        }

    def _of_words(self, query: str, rows: IntArray) -> dict[str, FloatArray]:
        meaning = compare_words(self._behaviour.words, self._traits, query, rows)
        return {
            "words_title": meaning.title,
            "words_title_weakest": meaning.title_weakest,
            "words_category": meaning.category,
            "words_brand": meaning.brand,
            "words_traits": meaning.traits,
            "words_traits_weakest": meaning.traits_weakest,
        }

    def _of_shopper(self, history: IntArray, rows: IntArray) -> dict[str, FloatArray]:
        unknown = np.full(len(rows), np.nan, dtype=np.float32)
        events = np.full(len(rows), len(history), dtype=np.float32)
        if not len(history):
            return {"history_events": events, "chosen_before": events} | dict.fromkeys(_OF_HISTORY, unknown)
        related = relatedness(self._behaviour.related, _distinct(history), rows)
        taste = compare_history(self._traits, history, rows)
        return {
            "history_events": events,
            "related_total": related.total - related.total.mean(),
            "related_strongest": related.strongest,
            "related_latest": related.latest,
            "brand_affinity": _affinity(self._columns.texts["brand"], history, rows),
            "taste": taste.total,
            "taste_strongest": taste.strongest,
            "taste_beyond_brand": taste.beyond_brand,
            "taste_title": taste.title,
            "taste_title_shared": taste.title_shared,
            "taste_title_strongest": taste.title_strongest,
            "category_affinity": _affinity(self._columns.category, history, rows),
            "chosen_before": (rows[:, None] == history[None]).sum(axis=1).astype(np.float32),
        }

    def _of_price(self, chosen: Chosen, history: IntArray, rows: IntArray) -> dict[str, FloatArray]:
        price = self._log_prices(rows)
        usual = _weighted_median(self._log_prices(chosen.rows), chosen.weights)
        if np.isnan(usual):
            usual = _median(price)
        return {
            "price": price,
            "price_to_query": price - np.float32(usual),
            "price_to_shopper": price - np.float32(_median(self._log_prices(history))),
            "in_stock": self._columns.in_stock[rows].astype(np.float32),
        }

    def _log_prices(self, rows: IntArray) -> FloatArray:
        price = self._columns.price[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(price > 0, np.log(price), np.nan).astype(np.float32)


def rerank_features(scores: FloatArray) -> FloatArray:
    """Return the features of the cross-encoder's scores.

    Args:
        scores: float32 (n,); NaN where it read nothing.
    Returns:
        float32 (n, ``len(RERANK_FEATURES)``), NaN where it read nothing.
    """
    known = ~np.isnan(scores)
    features = np.full((len(scores), len(RERANK_FEATURES)), np.nan, dtype=np.float32)
    read = scores[known]
    if len(read):
        ranks = np.empty(len(read), dtype=np.float32)
        ranks[np.argsort(-read, kind="stable")] = np.arange(len(read))
        features[known] = np.stack([read, read - read.max(), ranks], axis=1)
    return features


def _affinity(column: TextColumn, history: IntArray, rows: IntArray) -> FloatArray:
    """Return the share of the history's items that have an item's value, of several values the mean; float32 (n,).

    NaN for an item without a value.
    """
    mine, times = np.unique(history, return_counts=True)
    position, codes = column.entries(mine)
    known, places = np.unique(codes, return_inverse=True)
    counts = np.bincount(places, weights=times[position], minlength=len(known))
    item, theirs = column.entries(rows)
    n_values = np.bincount(item, minlength=len(rows))
    total = np.bincount(item, weights=look_up(known, counts, theirs), minlength=len(rows))
    return np.where(n_values > 0, total / np.maximum(n_values, 1) / len(history), np.nan).astype(np.float32)


def _distinct(rows: IntArray) -> IntArray:
    """Drop repetitions; what comes first stays first."""
    return np.array(list(dict.fromkeys(rows.tolist())), dtype=np.int64)


def _median(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    known = ~np.isnan(values)
    values, weights = values[known], weights[known]
    if not len(values):
        return float("nan")
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
