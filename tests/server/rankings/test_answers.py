"""Repeated searches: what they are answered with, what they cost, and what ends them."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from corpus.events import Event, EventType, HistoryEvent
from corpus.items import Item
from indexer.publish import publish
from rerank.scorer import PairScorer
from server.client import SearchResponse, TandemAdmin
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from tests.server.conftest import copy_bundle
from tests.server.gates import QUERY, Gate
from tests.server.scraping import scrape, value

NOW = datetime.now(UTC)
BOUGHT = HistoryEvent(timestamp=NOW - timedelta(hours=1), type=EventType.PURCHASE, item_id="i-03")
CLICKED = HistoryEvent(timestamp=NOW - timedelta(hours=2), type=EventType.CLICK, item_id="i-44")
SPECIFIC = {
    "user_context": pb.UserContext(events=[pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id="i-03")]),
    "page_size": 7,
    "facet_specs": [pb.FacetSpec(field="brand")],
    "boost_specs": [pb.BoostSpec(condition='brand = "acme"', boost=0.5)],
    "pins": [pb.Pin(item_id="i-20", rank=2)],
    "diversity": pb.DiversitySpec(strength=0.3),
    "excluded_item_ids": ["i-01"],
    "filter": "price > 1",
    "explain": True,
}


@pytest.fixture
def running(own_store, serving):
    with serving(own_store) as (server, client):
        yield server, client


@pytest.fixture
def fresh(running):
    return running[1]


@pytest.fixture
def fresh_stub(running):
    with grpc.insecure_channel(running[0].address) as channel:
        yield search_pb2_grpc.SearchServiceStub(channel)


def is_repeated(answer: SearchResponse) -> bool:
    """Tell whether an answer was there before."""
    return "repeat" in answer.stage_timings_ms


def shown(answer: SearchResponse) -> list[tuple[str, float, int]]:
    return [(hit.item.item_id, hit.score, hit.rank) for hit in answer.results]


def record(client, user_id: str, *item_ids: str, hours_ago: int = 1, session_id: str | None = None) -> None:
    at = NOW - timedelta(hours=hours_ago)
    client.record_events(
        [
            Event(timestamp=at, user_id=user_id, session_id=session_id, type=EventType.PURCHASE, item_id=item_id)
            for item_id in item_ids
        ]
    )


@pytest.mark.parametrize("fields", [{}, SPECIFIC], ids=["plain", "specific"])
def test_the_same_search_is_answered_alike_without_being_made_again(running, fresh_stub, fields):
    first, second = (fresh_stub.Search(pb.SearchRequest(query=QUERY, **fields)) for _ in range(2))
    assert {timing.stage for timing in first.stage_timings} >= {"retrieve", "rerank", "present"}
    assert {timing.stage for timing in second.stage_timings} == {"history", "repeat"}  # not even the page is cut again
    assert first.search_id != second.search_id
    assert len(first.results) == fields.get("page_size", 10)
    for each in (first, second):
        assert each.next_page_token
        for name in ("search_id", "next_page_token", "stage_timings"):
            each.ClearField(name)
    assert first == second
    samples = scrape(running[0])
    for name in ("hits", "misses"):
        assert value(samples, f"tandem_cache_{name}_total", cache="ranking") == 1
    assert value(samples, "tandem_cache_bytes", cache="ranking") > 2_500


OTHERS = (
    {"query": "blue boot"},
    {"events": [BOUGHT]},
    {"events": [CLICKED, BOUGHT]},
    {"retrieval_depth": 40},
    {"rerank_depth": 3},
    {"filter": "price > 1"},
    {"facets": ["brand"]},
    {"order_by": "price"},
    {"excluded_item_ids": ["i-01"]},
    {"diversity": {"strength": 0.5}},
    {"min_purchase_probability": 0.001},
    {"exact": True},
    {"spell_correction": "auto"},
    {"similar_to_item_id": "i-05"},
    {"explain": True},
)


def test_a_search_that_differs_in_anything_is_made_and_then_repeated(fresh):
    for options in ({}, *OTHERS):
        search = {"query": QUERY, **options}
        assert [is_repeated(fresh.search(**search)) for _ in range(2)] == [False, True], options


def test_searches_that_mean_the_same_share_a_ranking(fresh):
    first = fresh.search(QUERY, user_id="one")
    assert not is_repeated(first)
    same = (
        fresh.search(f"  {QUERY.upper()} ", visitor_id="another"),
        fresh.search(QUERY, session_id="s", labels={"page": "home"}, rerank_depth=30),
        fresh.search(QUERY, events=[]),
        fresh.search(QUERY, item_fields=["title"]),
    )
    for answer in same:
        assert is_repeated(answer)
        assert shown(answer) == shown(first)
    assert same[-1].results[0].item.price is None
    assert len({answer.search_id for answer in (first, *same)}) == 5


def test_a_page_of_another_size_or_place_is_cut_from_the_same_ranking(fresh):
    whole = fresh.search(QUERY, page_size=20)
    part = fresh.search(QUERY, page_size=5, offset=7)
    assert is_repeated(part)
    assert shown(part) == shown(whole)[7:12]


def test_only_another_page_with_reasons_waits_for_a_thread(fresh):
    whole = fresh.search(QUERY, page_size=20, explain=True)
    part = fresh.search(QUERY, page_size=5, offset=7, explain=True)
    assert {"repeat", "wait", "present"} <= set(part.stage_timings_ms)  # trees are asked why
    assert [hit.explanation for hit in part.results] == [hit.explanation for hit in whole.results[7:12]]
    plain = [fresh.search(QUERY, page_size=5, offset=offset) for offset in (0, 7)]
    assert [set(answer.stage_timings_ms) & {"wait", "present"} for answer in plain] == [
        {"wait", "present"},
        {"present"},
    ]


def test_pages_that_count_brands_are_their_own(fresh):
    for size in (5, 6):
        answer = fresh.search(QUERY, page_size=size, diversity={"max_per_brand": 1})
        assert not is_repeated(answer)


def test_pages_follow_on_a_repeated_search(fresh):
    whole = fresh.search(QUERY, page_size=30)
    first = fresh.search(QUERY, page_size=10, user_id="somebody")
    assert is_repeated(first)
    second = fresh.search(QUERY, page_size=10, user_id="somebody", page_token=first.next_page_token)
    third = fresh.search(QUERY, page_size=10, user_id="somebody", page_token=second.next_page_token)
    assert [*shown(first), *shown(second), *shown(third)] == shown(whole)
    assert first.search_id == second.search_id == third.search_id != whole.search_id
    with pytest.raises(Exception, match="another request"):
        fresh.search(QUERY, page_size=10, user_id="somebody else", page_token=first.next_page_token)


def test_a_history_decides_whatever_its_times_and_whoever_brings_it(fresh):
    record(fresh, "ada", "i-03")
    made = fresh.search(QUERY, user_id="ada")
    assert not is_repeated(made)
    assert is_repeated(fresh.search(QUERY, user_id="ada"))
    brought = fresh.search(QUERY, events=[replace(BOUGHT, timestamp=NOW - timedelta(days=30))])
    assert is_repeated(brought)
    assert shown(brought) == shown(made)


def test_an_event_changes_the_next_search_of_its_shopper_alone(fresh):
    record(fresh, "ada", "i-03")
    before = [fresh.search(QUERY, user_id=user_id) for user_id in ("ada", "bob")]
    record(fresh, "ada", "i-44")
    after = [fresh.search(QUERY, user_id=user_id) for user_id in ("ada", "bob")]
    assert [is_repeated(answer) for answer in after] == [False, True]
    assert shown(after[0]) != shown(before[0])
    assert shown(after[1]) == shown(before[1])


def test_a_deleted_shopper_is_answered_as_a_stranger(fresh):
    stranger = fresh.search(QUERY)
    record(fresh, "ada", "i-03", "i-44")
    theirs = fresh.search(QUERY, user_id="ada")
    assert shown(theirs) != shown(stranger)
    assert fresh.delete_user(user_id="ada") == 2
    after = fresh.search(QUERY, user_id="ada")
    assert is_repeated(after)  # of the stranger's
    assert shown(after) == shown(stranger)


def test_what_is_kept_names_neither_shopper_nor_query(running):
    server, client = running
    record(client, "canaryada", "i-03")
    token = client.search("canaryquery shoe", user_id="canaryada", filter='brand != "canarybrand"').next_page_token
    kept = [ranking for ranking, _ in server._service.rankings._kept.values()]
    said = [repr((ranking.key, ranking.name, replace(ranking.window, items=None))) for ranking in kept]
    assert len(said) == 1
    said.append(repr(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))))
    assert [text for text in said if "canary" in text] == []
    assert "a-canary" in repr(replace(kept[0].window, items=None, corrected_query="a-canary"))  # a repr tells all


def test_the_visit_s_events_come_first_in_the_key_as_in_the_history(fresh):
    record(fresh, "ada", "i-03", hours_ago=2, session_id="now")
    record(fresh, "ada", "i-44", hours_ago=1, session_id="before")
    assert not is_repeated(fresh.search(QUERY, user_id="ada"))
    assert not is_repeated(fresh.search(QUERY, user_id="ada", session_id="now"))
    assert is_repeated(fresh.search(QUERY, user_id="ada", session_id="before"))  # the newest first, as without it


def test_an_update_is_seen_by_the_next_search(running):
    server, client = running
    item = client.search(QUERY).results[0].item
    with TandemAdmin(server.admin_address) as admin:
        cheaper = replace(item, price=0.5, in_stock=False)
        admin.upsert_items([cheaper])
        answer = client.search(QUERY)
        assert not is_repeated(answer)
        assert {hit.item.item_id: hit.item for hit in answer.results}[item.item_id] == cheaper
        assert is_repeated(client.search(QUERY))
        admin.delete_items([item.item_id])
        assert item.item_id not in {found for found, _, _ in shown(client.search(QUERY, page_size=100))}
        admin.upsert_items([Item(item_id="new", title=QUERY)])
        assert "new" in {found for found, _, _ in shown(client.search(QUERY, page_size=100))}


def test_another_version_answers_itself(own_store, running, loop):
    server, client = running
    assert client.search(QUERY).index_version == "v1"
    copy_bundle(own_store, "v1", "v2")
    publish(own_store.bundles, "v2")
    loop.run(server.reload())
    answer = client.search(QUERY)
    assert (is_repeated(answer), answer.index_version) == (False, "v2")


def test_a_degraded_answer_is_given_once(running, monkeypatch):
    _, client = running

    def fail(_self, _pairs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(PairScorer, "heads", fail)
        assert client.search(QUERY).degraded
    answer = client.search(QUERY)
    assert (is_repeated(answer), answer.degraded) == (False, ())
    assert is_repeated(client.search(QUERY))


def test_an_answer_without_the_history_is_nobody_else_s(running, monkeypatch):
    server, client = running
    assert not is_repeated(client.search(QUERY))
    with monkeypatch.context() as patch:
        patch.setattr(server._histories, "history", lambda shopper: 1 / 0)
        answer = client.search(QUERY, user_id="ada")
    assert answer.degraded  # though a stranger's full answer was there
    assert not is_repeated(answer)
    assert is_repeated(client.search(QUERY))


def test_a_repeated_search_takes_no_place_and_tells_no_pace(own_store, serving, monkeypatch):
    with (
        serving(own_store, max_waiting_searches=2) as (server, client),
        grpc.insecure_channel(server.address) as channel,
    ):
        record(client, "ada", "i-03")
        for shopper in (None, "ada"):
            client.search(QUERY, user_id=shopper)
        searches = server._service._searches
        pace_s = searches._pace_s
        gate = Gate(server, monkeypatch)
        waiting = search_pb2_grpc.SearchServiceStub(channel).Search.future(pb.SearchRequest(query="hose"), timeout=60)
        assert gate.entered.acquire(timeout=60)
        for shopper in (None, "ada"):
            assert is_repeated(client.search(QUERY, user_id=shopper))
        assert (searches.n_inside, searches._pace_s) == (1, pace_s)
        gate.open()
        assert len(waiting.result().results) == 10


def test_searches_of_a_batch_are_repeated_like_others(running):
    server, client = running
    record(client, "ada", "i-03")
    asked = [(QUERY, {}), (QUERY, {"user_id": "ada"}), ("hose", {"page_size": 3})]
    made, again = client.batch_search(asked), client.batch_search(asked)
    assert [is_repeated(answer) for answer in (*made, *again)] == [False] * 3 + [True] * 3
    assert [shown(answer) for answer in again] == [shown(answer) for answer in made]
    n_hits = server._runtime.caches[0].n_hits
    client.batch_search(asked)
    assert server._runtime.caches[0].n_hits == n_hits  # nor was any query embedded ahead


def test_switched_off_every_search_is_made(own_store, serving):
    with serving(own_store, repeat_ttl_s=0.0) as (_, client):
        record(client, "ada", "i-03")
        for shopper in (None, "ada"):
            first, second = (client.search(QUERY, user_id=shopper, page_size=5) for _ in range(2))
            assert not is_repeated(second)
            assert set(second.stage_timings_ms) == {"wait", "history", "filter", "retrieve", "rerank", "present"}
            assert shown(first) == shown(second)
            page = client.search(QUERY, user_id=shopper, page_size=5, page_token=second.next_page_token)
            assert [hit.rank for hit in page.results] == [6, 7, 8, 9, 10]
