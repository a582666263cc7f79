"""The log keeps its promises: what is named exists, and causes come before effects."""

from datetime import timedelta

import polars as pl
import pytest

from corpus.events import Event, EventType
from corpus.synthetic.log import EVENT_SCHEMA

KEY = ["search_id", "item_id"]


def of_type(events: pl.DataFrame, kind: EventType) -> pl.DataFrame:
    return events.filter(pl.col("type") == kind.value)


def test_the_log_has_the_columns_of_an_event(events):
    assert dict(events.schema) == EVENT_SCHEMA
    assert set(EVENT_SCHEMA) == set(Event.__dataclass_fields__)
    assert set(events["type"].unique()) == {str(kind) for kind in EventType}


def test_every_event_says_who_in_which_session_and_search(events):
    assert not any(events[name].null_count() for name in ("timestamp", "user_id", "session_id", "search_id"))
    assert events.group_by("session_id").agg(pl.col("user_id").n_unique())["user_id"].max() == 1
    assert events.group_by("search_id").agg(pl.col("session_id").n_unique())["session_id"].max() == 1


def test_searches_have_queries_and_no_item_and_the_rest_the_other_way_round(events):
    searches = of_type(events, EventType.SEARCH)
    rest = events.filter(pl.col("type") != "search")
    assert searches["query"].null_count() == 0
    assert searches["item_id"].null_count() == searches["position"].null_count() == len(searches)
    assert rest["query"].null_count() == len(rest)
    assert rest["item_id"].null_count() == rest["position"].null_count() == 0


def test_every_search_shows_distinct_items_of_the_catalogue_in_stock(events, synthetic_store):
    shown = of_type(events, EventType.IMPRESSION)
    per_search = shown.group_by("search_id").agg(pl.col("item_id").n_unique(), pl.col("position").sort())
    assert per_search["item_id"].unique().to_list() == [synthetic_store.config.results_per_search]
    assert per_search["position"].unique().to_list() == [list(range(1, synthetic_store.config.results_per_search + 1))]
    in_stock = synthetic_store.frame("items").filter("in_stock")["item_id"].implode()
    assert shown["item_id"].is_in(in_stock).all()


@pytest.mark.parametrize(
    ("cause", "effect"),
    [
        (EventType.IMPRESSION, EventType.CLICK),
        (EventType.CLICK, EventType.ADD_TO_CART),
        (EventType.ADD_TO_CART, EventType.PURCHASE),
    ],
)
def test_every_effect_follows_its_cause_at_the_same_position(events, cause, effect):
    effects = of_type(events, effect)
    pairs = effects.join(of_type(events, cause), on=KEY, how="left", suffix="_cause")
    assert len(pairs) == len(effects) > 0
    assert (pairs["position"] == pairs["position_cause"]).all()
    assert (pairs["timestamp"] > pairs["timestamp_cause"]).all()


def test_a_search_is_over_before_its_shopper_searches_again(events):
    spans = events.group_by("search_id").agg(
        pl.col("user_id").first(), begin=pl.col("timestamp").min(), end=pl.col("timestamp").max()
    )
    following = spans.sort("user_id", "begin").with_columns(after=pl.col("begin").shift(-1).over("user_id"))
    assert following.select((pl.col("after") > pl.col("end")).all()).item()


def test_the_log_is_in_order_of_time_within_its_days(events, synthetic_store):
    config = synthetic_store.config
    assert events["timestamp"].is_sorted()
    assert events["timestamp"].min() >= config.start
    assert events["timestamp"].max() < config.start + timedelta(days=config.days)


def test_purchases_have_the_price_of_the_catalogue(events, synthetic_store):
    sold = of_type(events, EventType.PURCHASE).join(synthetic_store.frame("items"), on="item_id", suffix="_item")
    assert (sold["price"] == sold["price_item"]).all()
    assert (sold["quantity"] == 1).all()
    assert events.filter(pl.col("type") != "purchase")["price"].null_count() == len(events) - len(sold)
