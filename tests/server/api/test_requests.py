import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import InputError, NotImplementedField
from corpus.events import EventType
from retrieval.filtering.facets import FacetSpec
from retrieval.filtering.filters import Comparison
from server.api.messages import timestamp_message
from server.api.requests import SERVED, InvalidRequest, SearchCall, read_events, read_search
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2 as pb

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = ServerConfig()


def read(**fields: object) -> SearchCall:
    return read_search(pb.SearchRequest(**{"query": "shoe", **fields}), CONFIG, now=NOW)  # type: ignore[arg-type]


def faults(**fields: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    return {violation.field: violation.description for violation in caught.value.violations}


def event(**fields: object) -> pb.UserEvent:
    return pb.UserEvent(**{"type": pb.EVENT_TYPE_CLICK, "user_id": "ada", "item_id": "i-1", **fields})  # type: ignore[arg-type]


def event_faults(*events: pb.UserEvent) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read_events(pb.RecordEventsRequest(events=events), CONFIG, now=NOW)
    return {violation.field: violation.description for violation in caught.value.violations}


def test_a_bare_query_gets_every_default():
    call = read(query="  Trail&amp;Road  SHOES ")
    assert call.task.query == "trail&road shoes"
    assert (call.task.shopper, call.task.events) == (None, None)
    assert (call.task.retrieval_depth, call.task.rerank_depth) == (CONFIG.retrieval_depth, CONFIG.rerank_depth)
    assert (call.page_size, call.offset, call.page_token) == (10, 0, None)
    assert {"item_id", "title", "attributes"} <= call.item_fields


@pytest.mark.parametrize(
    "query", ["", "   ", "\x00\x07\n", "\u200b\u202e", "x" * 513, "x" * 10_000], ids=lambda q: f"{len(q)} characters"
)
def test_a_query_without_visible_characters_or_with_too_many_is_refused(query):
    found = faults(query=query)
    assert list(found) == ["query"]
    assert "expected a query" in found["query"]


def test_the_longest_query_is_served():
    assert len(read(query="x" * 512).task.query) == 512


def test_control_characters_become_spaces():
    assert read(query="red\x00shoe\x07").task.query == "red shoe"


@pytest.mark.parametrize("page_size", [0, -1, 101, 10**9])
def test_page_sizes_outside_the_limits_are_refused(page_size):
    assert faults(page_size=page_size) == {"page_size": f"expected 1 to 100, got {page_size}"}


@pytest.mark.parametrize("page_size", [1, 100])
def test_page_sizes_at_the_limits_are_served(page_size):
    assert read(page_size=page_size).page_size == page_size


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [("retrieval_depth", 0, "1 to 1000"), ("retrieval_depth", 1001, "1 to 1000"), ("rerank_depth", 201, "0 to 200")],
)
def test_depths_outside_the_limits_are_refused(name, value, limits):
    assert faults(params=pb.SearchParams(**{name: value})) == {f"params.{name}": f"expected {limits}, got {value}"}


def test_a_rerank_depth_of_zero_is_a_choice_and_no_default():
    assert read(params=pb.SearchParams(rerank_depth=0)).task.rerank_depth == 0


def test_all_faults_are_reported_at_once():
    found = faults(query="", page_size=0, offset=-1, user_id="", params=pb.SearchParams(retrieval_depth=0))
    assert set(found) == {"query", "page_size", "offset", "user_id", "params.retrieval_depth"}


@pytest.mark.parametrize("user_id", ["", "x" * 129, "a\nb", "a\x00", "\u202eabc", " "])
def test_ids_of_wrong_length_or_with_unprintable_characters_are_refused_and_not_repeated(user_id):
    found = faults(user_id=user_id)
    assert list(found) == ["user_id"]
    assert not user_id.strip() or user_id not in found["user_id"]


def test_the_user_goes_before_the_visitor():
    assert read(user_id="ada", visitor_id="ada").task.shopper == "user:ada"
    assert read(visitor_id="ada").task.shopper == "visitor:ada"
    assert read(user_id="x" * 128).task.shopper == "user:" + "x" * 128


@pytest.mark.parametrize("name", ["user_id", "visitor_id"])
def test_a_history_in_the_request_excludes_ids(name):
    assert list(faults(user_context=pb.UserContext(), **{name: "ada"})) == ["user_context"]


def test_an_empty_history_in_the_request_is_a_history():
    assert read(user_context=pb.UserContext()).task.events == ()


def context(*events: pb.HistoryEvent) -> dict[str, pb.UserContext]:
    return {"user_context": pb.UserContext(events=events)}


def test_a_history_in_the_request_is_ordered_newest_first():
    given = [
        pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id="old", timestamp=timestamp_message(NOW - timedelta(days=2))),
        pb.HistoryEvent(type=pb.EVENT_TYPE_PURCHASE, item_id="now"),
        pb.HistoryEvent(type=pb.EVENT_TYPE_SEARCH, query="Red", timestamp=timestamp_message(NOW - timedelta(days=1))),
        pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id="now too"),
    ]
    events = read(**context(*given)).task.events
    assert events is not None
    assert [each.item_id or each.query for each in events] == ["now", "now too", "red", "old"]
    assert [each.type for each in events][:2] == [EventType.PURCHASE, EventType.CLICK]
    assert events[0].timestamp == NOW


def test_faults_of_a_history_in_the_request_are_numbered():
    found = faults(
        **context(
            pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id="i-1"),
            pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK),
            pb.HistoryEvent(item_id="i-1"),
            pb.HistoryEvent(type=pb.EVENT_TYPE_SEARCH),
            pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id="i-1", timestamp=Timestamp(seconds=10**15)),
        )
    )
    assert set(found) == {
        "user_context.events[1].item_id",
        "user_context.events[2].type",
        "user_context.events[3].query",
        "user_context.events[4].timestamp",
    }


def test_a_history_in_the_request_is_bounded():
    one = pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id="i-1")
    assert len(read(**context(*[one] * 200)).task.events or ()) == 200
    assert faults(**context(*[one] * 201)) == {
        "user_context.events": "expected at most 200 events, got 201; send the newest"
    }


def test_offset_and_page_token_exclude_each_other():
    assert list(faults(offset=3, page_token="abc")) == ["offset"]
    assert read(page_token="abc").page_token == "abc"
    assert read(page_token="", offset=3).page_token is None


def test_a_filter_and_facets_are_read():
    call = read(filter="price < 5", facet_specs=[pb.FacetSpec(field="brand", limit=3)])
    assert call.task.filter == Comparison("price", "<", 5)
    assert call.task.facets == (FacetSpec(field="brand", limit=3),)
    assert (read(filter="").task.filter, read().task.facets) == (None, ())


def test_faults_of_filter_and_facets_are_reported_with_the_others():
    assert set(faults(filter="price <", facet_specs=[pb.FacetSpec(field="price")], page_size=0)) == {
        "filter",
        "facet_specs[0].interval_bounds",
        "page_size",
    }


def test_a_read_mask_chooses_item_fields():
    assert read(read_mask={"paths": ["title", "price"]}).item_fields == {"item_id", "title", "price"}
    assert read(read_mask={"paths": ["*"]}).item_fields == read().item_fields


@pytest.mark.parametrize("path", ["colour", "item.title", "attributes.red", ""])
def test_a_read_mask_of_other_fields_is_refused(path):
    assert list(faults(read_mask={"paths": ["title", path]})) == ["read_mask"]


def test_pages_of_one_search_have_one_digest_and_other_searches_another():
    first = read(user_id="ada", page_size=5, offset=2).digest
    assert read(user_id="ada", page_size=7, page_token="abc").digest == first
    assert read(user_id="bob").digest != first
    assert read(query="shoes", user_id="ada").digest != first
    assert read(user_id="ada", params=pb.SearchParams(rerank_depth=3)).digest != first
    assert read(user_id="ada", filter="price < 5").digest != first
    assert read(user_id="ada", facet_specs=[pb.FacetSpec(field="brand")]).digest != first


def test_every_field_of_the_contract_is_served():
    for message in (pb.SearchRequest, pb.SearchParams):
        assert set(message.DESCRIPTOR.fields_by_name) == SERVED[message.DESCRIPTOR.name]


def test_a_field_that_is_not_served_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(SERVED, "SearchParams", frozenset({"exact"}))
    with pytest.raises(NotImplementedField, match=r"^params\.rerank_depth is not served") as caught:
        read(params=pb.SearchParams(exact=True, rerank_depth=3))
    assert caught.value.field == "params.rerank_depth"


def test_an_event_is_read_whole():
    (read_event,) = read_events(
        pb.RecordEventsRequest(
            events=[
                event(
                    type=pb.EVENT_TYPE_PURCHASE,
                    timestamp=timestamp_message(NOW - timedelta(hours=1)),
                    visitor_id="v",
                    session_id="s",
                    search_id="q",
                    query="Red  Shoe",
                    position=2,
                    price=9.5,
                    quantity=3,
                )
            ]
        ),
        CONFIG,
        now=NOW,
    )
    assert read_event.shopper == "user:ada"
    assert read_event.timestamp == NOW - timedelta(hours=1)
    assert (read_event.type, read_event.item_id, read_event.query) == (EventType.PURCHASE, "i-1", "red shoe")
    assert (read_event.session_id, read_event.search_id) == ("s", "q")
    assert (read_event.position, read_event.price, read_event.quantity) == (2, 9.5, 3)


def test_an_event_without_a_time_happened_now():
    (read_event,) = read_events(pb.RecordEventsRequest(events=[event()]), CONFIG, now=NOW)
    assert read_event.timestamp == NOW
    assert (read_event.position, read_event.price, read_event.quantity) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": pb.EVENT_TYPE_UNSPECIFIED}, "type"),
        ({"type": 77}, "type"),
        ({"user_id": None}, "user_id"),
        ({"user_id": "\x00"}, "user_id"),
        ({"visitor_id": ""}, "visitor_id"),
        ({"item_id": None}, "item_id"),
        ({"item_id": "x" * 129}, "item_id"),
        ({"type": pb.EVENT_TYPE_SEARCH, "item_id": None}, "query"),
        ({"type": pb.EVENT_TYPE_SEARCH, "query": " "}, "query"),
        ({"query": "x" * 513}, "query"),
        ({"session_id": ""}, "session_id"),
        ({"search_id": "a\nb"}, "search_id"),
        ({"position": 0}, "position"),
        ({"quantity": 0}, "quantity"),
        ({"price": -0.01}, "price"),
        ({"price": float("nan")}, "price"),
        ({"price": float("inf")}, "price"),
        ({"timestamp": timestamp_message(NOW + timedelta(minutes=6))}, "timestamp"),
        ({"timestamp": timestamp_message(NOW - timedelta(days=365))}, "timestamp"),
        ({"timestamp": Timestamp(seconds=-(10**15))}, "timestamp"),
    ],
)
def test_an_event_at_fault_is_named_by_number_and_field(fields, field):
    assert list(event_faults(event(), event(**fields))) == [f"events[1].{field}"]


def test_a_clock_that_is_a_little_ahead_is_forgiven():
    ahead = timestamp_message(NOW + timedelta(minutes=5))
    assert len(read_events(pb.RecordEventsRequest(events=[event(timestamp=ahead)]), CONFIG, now=NOW)) == 1


@pytest.mark.parametrize("n_events", [0, 101])
def test_too_few_or_too_many_events_are_refused(n_events):
    assert event_faults(*[event()] * n_events) == {
        "events": f"expected 1 to 100 events, got {n_events}; split the call"
    }


def test_impressions_are_refused_by_name_and_not_dropped():
    request = pb.RecordEventsRequest(events=[event(), event(type=pb.EVENT_TYPE_IMPRESSION)])
    with pytest.raises(NotImplementedField, match=r"events\[1\]\.type.*impression"):
        read_events(request, CONFIG, now=NOW)


def test_an_error_about_many_faults_stays_small():
    with pytest.raises(InvalidRequest) as caught:
        read_events(pb.RecordEventsRequest(events=[pb.UserEvent()] * 100), CONFIG, now=NOW)
    error = caught.value
    assert len(str(error)) + sum(len(v.field) + len(v.description) for v in error.violations) < 4096


@given(st.binary(max_size=200))
def test_any_message_is_either_read_or_refused_as_input(data):
    for kind, reader in ((pb.SearchRequest, read_search), (pb.RecordEventsRequest, read_events)):
        try:
            message = kind.FromString(data)
        except Exception:
            continue  # no message: `wire` refuses it
        try:
            reader(message, CONFIG, now=NOW)  # type: ignore[arg-type]
        except InputError as exc:
            assert exc.field is not None


@pytest.mark.parametrize(
    "message",
    [
        pb.SearchRequest,
        pb.SearchParams,
        pb.FacetSpec,
        pb.BoostSpec,
        pb.DiversitySpec,
        pb.Pin,
        pb.UserEvent,
        pb.SuggestRequest,
        pb.RerankRequest,
        pb.EmbedRequest,
    ],
    ids=lambda m: m.DESCRIPTOR.name,
)
def test_the_api_page_names_every_field_of_a_request(message):
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    for name in message.DESCRIPTOR.fields_by_name:
        assert re.search(rf"[`.]{name}[`.]", page), name
