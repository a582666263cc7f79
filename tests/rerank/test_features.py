from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import log, log1p

import numpy as np
import pytest

from corpus.columns import ItemColumns
from corpus.events import EventType, HistoryEvent
from corpus.items import Item, ItemTable
from rerank.features import FEATURES, RERANK_FEATURES, FeatureExtractor, rerank_features
from retrieval.candidates import Candidates
from retrieval.config import BehaviourConfig
from retrieval.event_log.behaviour import Behaviour
from retrieval.event_log.query_log import QueryLog
from retrieval.event_log.traits import Traits
from retrieval.event_log.word_log import WordLog
from retrieval.ragged import Ragged

NAN = float("nan")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def item(row: int, **fields: object) -> Item:
    return Item(item_id=f"i-{row}", title=f"item {row}", **fields)  # type: ignore[arg-type]


CATALOGUE = (
    item(0, brand="Acme", category=("shoes", "boot"), price=10.0, in_stock=True),
    item(1, brand="acme", category=("shoes", "sandal"), price=20.0, in_stock=False),
    item(2, brand="kiri", category=("shoes", "boot"), price=40.0),
    item(3, brand=None, category=(), price=None, in_stock=True),
    item(4, brand="solo", category=("garden",), price=80.0, in_stock=True),
    item(5, brand="acme", category=("garden", "boot"), price=0.0, in_stock=True),
)


def behaviour(
    *,
    queries: dict[str, dict[int, float]] | None = None,
    popularity: tuple[float, ...] = (6, 2, 0, 0, 8, 1),
    recent: tuple[float, ...] = (3, 2, 0, 0, 1, 0),
    click_rate: tuple[float, ...] = (NAN, 1.0, 2.0, 0.5, NAN, 4.0),
    related: dict[int, dict[int, float]] | None = None,
    items: tuple[Item, ...] = CATALOGUE,
) -> Behaviour:
    """Tables with what each query led to, and what belongs to each item."""
    queries, related = queries or {}, related or {}
    pairs = [(number, row, weight) for number, rows in enumerate(queries.values()) for row, weight in rows.items()]
    choices = (
        np.array([number for number, _, _ in pairs], dtype=np.int64),
        np.array([row for _, row, _ in pairs], dtype=np.int64),
        np.array([weight for _, _, weight in pairs], dtype=np.float32),
    )
    log_of_queries = QueryLog.build(
        list(queries),
        np.eye(max(len(queries), 1), dtype=np.float32)[: len(queries)],
        choices,
        BehaviourConfig(),
    )
    parts = [related.get(row, {}) for row in range(len(popularity))]
    weights = np.array(popularity, dtype=np.float32)
    traits = Traits.build(ItemTable.from_items(items), weights)
    return Behaviour(
        queries=log_of_queries,
        popularity=weights,
        recent=np.array(recent, dtype=np.float32),
        click_rate=np.array(click_rate, dtype=np.float32),
        related=Ragged.join(
            [(np.array(list(part), dtype=np.int32), np.array(list(part.values()), dtype=np.float32)) for part in parts]
        ),
        traits=traits,
        words=WordLog.build(list(queries), choices, traits),
    )


def candidates(*rows: int, lexical: tuple[float, ...] | None = None) -> Candidates:
    n = len(rows)
    return Candidates(
        rows=np.array(rows, dtype=np.int64),
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        dense=np.linspace(0.2, 0.8, n, dtype=np.float32),
        lexical=np.array(lexical or [NAN] * n, dtype=np.float32),
        behaviour=np.linspace(0.0, 0.3, n, dtype=np.float32),
    )


def events(*rows: int, kind: EventType = EventType.CLICK) -> tuple[HistoryEvent, ...]:
    return tuple(HistoryEvent(timestamp=NOW, type=kind, item_id=f"i-{row}") for row in rows)


Compute = Callable[..., dict[str, list[float]]]


@pytest.fixture
def compute() -> Compute:
    """Features by name, of a query, a history and candidates over the catalogue above."""

    def compute(
        found: Candidates,
        *,
        query: str = "boot",
        history: tuple[HistoryEvent, ...] = (),
        items: tuple[Item, ...] = CATALOGUE,
        **tables: object,
    ) -> dict[str, list[float]]:
        table = ItemTable.from_items(items)
        extractor = FeatureExtractor(table, ItemColumns.of(table), behaviour(items=items, **tables))  # type: ignore[arg-type]
        matrix = extractor.features(query, history, found)
        assert matrix.dtype == np.float32
        assert matrix.shape == (len(found), len(FEATURES))
        return dict(zip(FEATURES, matrix.T.tolist(), strict=True))

    return compute


def same(got: list[float], *want: float) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_first_stage_gives_scores_ranks_and_gaps(compute: Compute):
    got = compute(candidates(4, 0, 2, lexical=(NAN, 8.0, 2.0)))
    same(got["retrieval"], 0.9, 0.7, 0.5)
    same(got["retrieval_rank"], 0, 1, 2)
    same(got["dense"], 0.2, 0.5, 0.8)
    same(got["dense_gap"], -0.6, -0.3, 0)
    same(got["lexical"], 0, 1, 0.25)
    same(got["like_queries_share"], 0, 0.15, 0.3)


def test_without_lexical_hits_all_share_nothing(compute: Compute):
    same(compute(candidates(4, 0))["lexical"], 0, 0)


def test_choices_after_this_query_are_smoothed_shares(compute: Compute):
    got = compute(candidates(4, 0, 2), queries={"boot": {0: 3.0, 1: 1.0, 2: 2.0}, "pan": {4: 5.0}})
    # six choices in all, and two of nothing added
    same(got["query_share"], 0, 3 / 8, 2 / 8)
    same(got["query_count"], 0, log1p(3), log1p(2))
    same(got["query_total"], *[log1p(6)] * 3)
    same(got["query_lift"], 0, 3 / (6 + 2), 2 / (0 + 2))


def test_words_of_other_queries_speak_for_what_was_chosen_after_them(compute: Compute):
    got = compute(candidates(0, 2, 3), query="red boot", queries={"boot sale": {0: 3.0, 5: 1.0}})
    # of the choices of items with a brand, one more for each, acme has 12 and kiri has 1 of 22
    acme = log((4 + 2 * 12 / 22) / ((4 + 2) * 12 / 22))
    kiri = log((0 + 2 * 1 / 22) / ((4 + 2) * 1 / 22))
    same(got["words_brand"], acme, kiri, NAN)
    assert got["words_title"][0] > got["words_title"][1] == 0  # every title has the word "item"
    assert got["words_category"][0] > 0
    assert got["words_traits_weakest"][1] <= got["words_brand"][1]
    same(compute(candidates(0), query="red", queries={"boot": {0: 3.0}})["words_title"], NAN)


def test_a_query_seen_once_is_no_certainty(compute: Compute):
    got = compute(candidates(4, 0), queries={"boot": {0: 1.0}})
    same(got["query_share"], 0, 1 / 3)


def test_a_query_never_seen_has_counts_of_nothing(compute: Compute):
    for tables in ({}, {"queries": {"pan": {4: 5.0}}}):
        got = compute(candidates(4, 0), **tables)
        for name in ("query_share", "query_count", "query_total", "query_lift"):
            same(got[name], 0, 0)


def test_popularity_and_trend_are_told_on_a_logarithmic_scale(compute: Compute):
    got = compute(candidates(0, 1, 2))
    same(got["popularity"], log(7), log(3), 0)
    same(got["popularity_gap"], 0, log(3 / 7), log(1 / 7))
    same(got["trend"], log(4 / 7), 0, 0)


def test_click_rates_are_told_on_a_logarithmic_scale_and_are_unknown_of_what_was_never_shown(compute: Compute):
    got = compute(candidates(3, 0, 5, 1))
    same(got["click_rate"], log(0.5), NAN, log(4), 0)


def test_an_anonymous_shopper_is_unknown_not_zero(compute: Compute):
    got = compute(candidates(0, 4), related={0: {4: 0.5}})
    for name in (
        "related_total",
        "related_strongest",
        "related_latest",
        "brand_affinity",
        "category_affinity",
        "taste",
    ):
        same(got[name], NAN, NAN)
    same(got["price_to_shopper"], NAN, NAN)
    same(got["history_events"], 0, 0)
    same(got["chosen_before"], 0, 0)


def test_a_history_relates_to_candidates_by_common_shoppers(compute: Compute):
    related = {2: {0: 0.5, 4: 0.1}, 1: {0: 0.25}}
    got = compute(candidates(0, 4, 5), history=events(1, 2, 1), related=related)
    # each of the history's items counts once: totals .75, .1, 0 with mean .85 / 3
    mean = 0.85 / 3
    same(got["related_total"], 0.75 - mean, 0.1 - mean, 0 - mean)
    same(got["related_strongest"], 0.5, 0.1, 0)
    same(got["related_latest"], 0.25, 0, 0)
    same(got["history_events"], 3, 3, 3)


def test_brand_affinity_is_the_share_of_the_history_whatever_the_case(compute: Compute):
    got = compute(candidates(5, 2, 3, 4), history=events(0, 1, 2, 3))
    same(got["brand_affinity"], 2 / 4, 1 / 4, NAN, 0)


def test_category_affinity_is_the_mean_over_the_levels_of_the_path(compute: Compute):
    got = compute(candidates(2, 1, 4, 5, 3), history=events(0, 0, 1, 4))
    # roots: shoes 3 of 4, garden 1; leaves: shoes/boot 2, shoes/sandal 1. garden/boot is not shoes/boot
    same(got["category_affinity"], (3 / 4 + 2 / 4) / 2, (3 / 4 + 1 / 4) / 2, 1 / 4, (1 / 4 + 0) / 2, NAN)


def test_taste_is_how_much_oftener_than_usual_the_history_has_what_the_item_has(compute: Compute):
    got = compute(candidates(5, 2, 3, 4), history=events(0, 1, 2, 3))
    # choices, each item with one more: acme 7 + 3 + 2 = 12, kiri 1, solo 9, of 22; three of the history have a brand
    usual = {"acme": 12 / 22, "kiri": 1 / 22, "solo": 9 / 22}
    lift = {
        brand: log((n + 2 * usual[brand]) / (5 * usual[brand])) for brand, n in (("acme", 2), ("kiri", 1), ("solo", 0))
    }
    same(got["taste"], lift["acme"], lift["kiri"], NAN, lift["solo"])
    same(got["taste_strongest"], lift["acme"], lift["kiri"], NAN, lift["solo"])
    same(got["taste_beyond_brand"], 0, 0, NAN, 0)


def test_events_on_the_very_item_are_counted(compute: Compute):
    got = compute(candidates(0, 1, 2), history=events(1, 0, 1, 1))
    same(got["chosen_before"], 1, 3, 0)


def test_what_was_merely_shown_and_what_nobody_knows_is_no_history(compute: Compute):
    searched = HistoryEvent(timestamp=NOW, type=EventType.SEARCH, query="boot")
    shown = events(0, 1, kind=EventType.IMPRESSION)
    got = compute(candidates(0, 4), history=(searched, *shown, *events(2, 99)))
    same(got["history_events"], 1, 1)
    same(got["chosen_before"], 0, 0)


def test_no_feature_hangs_on_when_something_happened(compute: Compute):
    """Answers to repeated searches live on it: see ``server.rankings.ranking_keys``."""
    now = events(0, 1, 2, 1)
    before = tuple(replace(event, timestamp=NOW - timedelta(days=day)) for day, event in enumerate(now, 1))
    got, want = (compute(candidates(0, 4, 5), history=history) for history in (before, now))
    for name in FEATURES:
        same(got[name], *want[name])


def test_a_history_of_unknown_items_is_no_history(compute: Compute):
    unknown = compute(candidates(0, 4), history=events(77, 99), related={0: {4: 0.5}})
    assert repr(unknown) == repr(compute(candidates(0, 4), related={0: {4: 0.5}}))


def test_only_the_newest_fifty_events_are_looked_at(compute: Compute):
    got = compute(candidates(0, 1), history=events(*[0] * 50, *[1] * 9))
    same(got["history_events"], 50, 50)
    same(got["chosen_before"], 50, 0)


def test_prices_compare_with_what_is_usually_chosen_after_the_query(compute: Compute):
    # prices 10, 20, 40 with weights 3, 1, 3: half of the weight of 7 is reached at 20; the item without one is left out
    got = compute(candidates(0, 2, 3, 5), queries={"boot": {0: 3.0, 1: 1.0, 2: 3.0, 3: 9.0}})
    same(got["price"], log(10), log(40), NAN, NAN)  # a price of 0 is no price
    same(got["price_to_query"], log(10 / 20), log(40 / 20), NAN, NAN)


def test_the_weighted_median_follows_the_weights(compute: Compute):
    got = compute(candidates(0), queries={"boot": {0: 1.0, 1: 1.0, 4: 3.0}})
    same(got["price_to_query"], log(10 / 80))


def test_prices_compare_with_the_candidates_where_the_query_has_no_usual_price(compute: Compute):
    for tables in ({}, {"queries": {"boot": {3: 4.0}}}):
        got = compute(candidates(0, 1, 4, 3), **tables)
        same(got["price_to_query"], log(10 / 20), 0, log(80 / 20), NAN)


def test_prices_compare_with_the_median_of_the_history(compute: Compute):
    got = compute(candidates(2, 3), history=events(0, 1, 4, 3))
    same(got["price_to_shopper"], log(40 / 20), NAN)
    same(compute(candidates(2), history=events(3))["price_to_shopper"], NAN)


def test_stock_is_yes_no_or_unknown(compute: Compute):
    same(compute(candidates(0, 1, 2))["in_stock"], 1, 0, NAN)


def test_a_catalogue_of_titles_alone_has_features(compute: Compute):
    bare = tuple(item(row) for row in range(6))
    got = compute(candidates(0, 4), history=events(1, 4), items=bare, queries={"boot": {0: 1.0}})
    for name in ("brand_affinity", "category_affinity", "price", "price_to_query", "price_to_shopper", "in_stock"):
        same(got[name], NAN, NAN)
    same(got["chosen_before"], 0, 1)


@pytest.mark.parametrize("history", [(), events(0, 1)])
def test_no_candidates_have_no_features(compute: Compute, history: tuple[HistoryEvent, ...]):
    got = compute(candidates(), history=history, queries={"boot": {0: 1.0}}, related={0: {1: 0.5}})
    assert got == {name: [] for name in FEATURES}


def test_all_features_are_numbers_or_unknown_never_infinite(compute: Compute):
    got = compute(
        candidates(*range(6), lexical=(1, 2, NAN, NAN, 0, 3)),
        history=events(5, 3, 2),
        queries={"boot": {0: 1.0, 5: 2.0}},
        related={5: {3: 0.5}, 3: {5: 0.5}},
    )
    assert not np.isinf(np.array(list(got.values()))).any()


def test_the_cross_encoders_scores_give_gaps_and_ranks_and_unread_are_unknown():
    got = rerank_features(np.array([0.5, NAN, 2.0, 1.0, 0.5], dtype=np.float32))
    assert got.dtype == np.float32
    columns = dict(zip(RERANK_FEATURES, got.T.tolist(), strict=True))
    same(columns["rerank"], 0.5, NAN, 2.0, 1.0, 0.5)
    same(columns["rerank_gap"], -1.5, NAN, 0, -1.0, -1.5)
    same(columns["rerank_rank"], 2, NAN, 0, 1, 3)  # of equals the earlier is better


@pytest.mark.parametrize("n", [0, 3])
def test_where_nothing_was_read_all_is_unknown(n: int):
    got = rerank_features(np.full(n, NAN, dtype=np.float32))
    assert got.shape == (n, len(RERANK_FEATURES))
    assert np.isnan(got).all()
