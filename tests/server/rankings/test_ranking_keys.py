from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from corpus.events import EventType, HistoryEvent
from retrieval.filtering.facets import FacetSpec
from retrieval.filtering.filters import And, Comparison, Not, Or
from server.rankings.ranking_keys import RankingKeys
from server.stages.ranking import SearchTask
from server.stages.wishes import Boost, Diversity, Order, Pin, Spelling, Wishes

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLICK = HistoryEvent(timestamp=NOW, type=EventType.CLICK, item_id="i-03")
SEARCH = HistoryEvent(timestamp=NOW, type=EventType.SEARCH, query="hose")
RED, CHEAP = Comparison("attributes.colour", "=", "red"), Comparison("price", "<", 50)
TASK = SearchTask(
    query="steel pan",
    events=(CLICK, SEARCH),
    retrieval_depth=40,
    rerank_depth=10,
    filter=And(RED, CHEAP),
    facets=(FacetSpec(field="brand", limit=5),),
    excluded=frozenset({"i-01", "i-02"}),
    wishes=Wishes(
        boosts=(Boost(condition=RED, boost=0.5),),
        pins=(Pin(item_id="i-04", rank=1),),
        diversity=Diversity(strength=0.5, page_size=10, first_page=10),
    ),
)
WISHES = TASK.wishes
VARIED = WISHES.diversity
OTHERS: list[tuple[str, Any]] = [
    ("query", "steel pans"),
    ("spelling", Spelling.AUTO),
    ("similar_to", "i-05"),
    ("category", ("kitchen",)),
    ("category", ("kitchen > pans",)),
    ("category", ("kitchen", "pans")),
    ("events", ()),
    ("events", (CLICK,)),
    ("events", (SEARCH, CLICK)),
    ("events", (replace(CLICK, item_id="i-04"), SEARCH)),
    ("events", (replace(CLICK, type=EventType.PURCHASE), SEARCH)),
    ("events", (CLICK, replace(SEARCH, query="rake"))),
    ("retrieval_depth", 41),
    ("rerank_depth", 11),
    ("filter", None),
    ("filter", RED),
    ("filter", Or(RED, CHEAP)),
    ("filter", Not(And(RED, CHEAP))),
    ("filter", And(RED, Comparison("price", "<=", 50))),
    ("filter", And(RED, Comparison("price", "<", 50.5))),
    ("facets", ()),
    ("facets", (FacetSpec(field="brand", limit=6),)),
    ("facets", (FacetSpec(field="brand", limit=5, excluded_filter_keys=("brand",)),)),
    ("facets", (FacetSpec(field="price", limit=5, interval_bounds=(10.0,)),)),
    ("exact", True),
    ("excluded", frozenset({"i-01"})),
    ("explain", True),
    ("wishes", replace(WISHES, order=Order.PRICE)),
    ("wishes", replace(WISHES, boosts=())),
    ("wishes", replace(WISHES, boosts=(Boost(condition=RED, boost=-0.5),))),
    ("wishes", replace(WISHES, boosts=(Boost(condition=CHEAP, boost=0.5),))),
    ("wishes", replace(WISHES, pins=(Pin(item_id="i-04", rank=2),))),
    ("wishes", replace(WISHES, pins=(Pin(item_id="i-05", rank=1),))),
    ("wishes", replace(WISHES, diversity=None)),
    ("wishes", replace(WISHES, diversity=replace(VARIED, strength=0.6))),
    ("wishes", replace(WISHES, diversity=replace(VARIED, max_per_brand=2))),
    ("wishes", replace(WISHES, diversity=replace(VARIED, max_per_category=2))),
    ("wishes", replace(WISHES, diversity=replace(VARIED, page_size=11))),
    ("wishes", replace(WISHES, diversity=replace(VARIED, first_page=9))),
    ("wishes", replace(WISHES, least_probability=0.1)),
]
WHO_ASKS = {"shopper", "session"}  # what these lead to is the history


@pytest.fixture(scope="module")
def keys() -> RankingKeys:
    return RankingKeys()


def test_the_same_search_has_the_same_short_key(keys):
    again = replace(TASK, events=(replace(CLICK), replace(SEARCH)), filter=And(RED, Comparison("price", "<", 50)))
    assert keys.of(7, TASK) == keys.of(7, again)
    assert len(keys.of(7, TASK)) == 16


@pytest.mark.parametrize(("name", "value"), OTHERS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(OTHERS)])
def test_whatever_changes_a_ranking_changes_its_key(keys, name, value):
    assert getattr(TASK, name) != value
    assert keys.of(7, replace(TASK, **{name: value})) != keys.of(7, TASK)


def test_no_two_of_these_searches_share_a_key(keys):
    assert len({keys.of(7, replace(TASK, **{name: value})) for name, value in OTHERS}) == len(OTHERS)


def test_these_are_all_fields_of_a_search():
    assert {name for name, _ in OTHERS} | WHO_ASKS == {field.name for field in fields(SearchTask)}
    assert {field.name for field in fields(Wishes)} == {"order", "boosts", "pins", "diversity", "least_probability"}


def test_another_snapshot_has_other_keys(keys):
    assert keys.of(8, TASK) != keys.of(7, TASK)


def test_who_asks_and_when_is_not_in_the_key(keys):
    later = tuple(
        replace(event, timestamp=event.timestamp + timedelta(days=2), session_id="s") for event in (CLICK, SEARCH)
    )
    assert keys.of(7, replace(TASK, shopper="user:ada", session="s", events=later)) == keys.of(7, TASK)


def test_excluded_items_have_no_order(keys):
    many = [f"i-{number}" for number in range(50)]
    one, other = (replace(TASK, excluded=frozenset(items)) for items in (many, reversed(many)))
    assert keys.of(7, one) == keys.of(7, other)


def test_texts_cannot_pass_for_one_another(keys):
    def key(*events: HistoryEvent) -> bytes:
        return keys.of(7, replace(TASK, events=events))

    glued = replace(SEARCH, query="hose'), ('search', None, 'rake")
    assert key(glued) != key(SEARCH, replace(SEARCH, query="rake"))
    assert key(replace(CLICK, item_id="None")) != key(replace(CLICK, item_id=None))


def test_keys_are_the_process_s_own(keys):
    assert RankingKeys().of(7, TASK) != keys.of(7, TASK)


def test_a_search_whose_history_is_not_looked_up_has_no_key(keys):
    with pytest.raises(ValueError, match="history is not looked up"):
        keys.of(7, replace(TASK, shopper="user:ada", events=None))
