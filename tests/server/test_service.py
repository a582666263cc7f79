import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from corpus.errors import UnknownItem
from corpus.events import Event, EventType, HistoryEvent
from retrieval.filters import Comparison
from server.admin import IndexAdminService
from server.messages import timestamp_message
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.requests import SERVED
from server.service import CODES, SearchService, refusing_the_rest
from server.status import violations_of
from server.wishes import Boost, Pin

NOW = datetime.now(UTC)
QUERY = "red acme shoe"
numbers = itertools.count()


@pytest.fixture
def shopper() -> str:
    """An id that no other test uses."""
    return f"shopper-{next(numbers)}"


def failure(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def purchase(user_id: str | None, item_id: str, *, hours_ago: float = 1) -> Event:
    return Event(
        timestamp=NOW - timedelta(hours=hours_ago),
        user_id=user_id,
        session_id=None,
        type=EventType.PURCHASE,
        item_id=item_id,
    )


# searching


def test_a_search_answers_with_items_scores_timings_and_versions(client, bundle):
    response = client.search(QUERY)
    assert [hit.rank for hit in response.results] == list(range(1, 11))
    assert len({hit.item.item_id for hit in response.results}) == 10
    for hit in response.results:
        row = bundle.items.row_of(hit.item.item_id)
        assert hit.item == bundle.items.item(row)
        assert hit.retrieval_score is not None
        assert hit.rerank_score is not None
        assert hit.click_probability is not None
        assert hit.purchase_probability is not None
        assert hit.click_probability >= hit.purchase_probability > 0
        assert hit.cart_probability is None  # the store's log knows no carts
    scores = [hit.score for hit in response.results]
    assert scores == sorted(scores, reverse=True)
    assert response.total_size == 60
    assert response.index_version == "v1"
    assert response.model_versions == {
        "retriever": bundle.manifest.retriever.fingerprint,
        "reranker": bundle.manifest.reranker.fingerprint,
        "blend": "",  # this bundle has none
    }
    assert set(response.stage_timings_ms) == {"wait", "history", "retrieve", "filter", "rerank", "present"}
    assert response.degraded == ()


def test_the_query_is_normalised_as_in_training(client):
    shouted = client.search("  RED\tacme&#32;SHOE\x00")
    assert [hit.score for hit in shouted.results] == [hit.score for hit in client.search(QUERY).results]


def test_words_that_no_item_has_still_answer(client):
    response = client.search("zzz qqq 鞋子 \U0001f45f")
    assert len(response.results) == 10
    assert all(hit.lexical_score is None for hit in response.results)


@pytest.mark.parametrize("query", ['"', "AND OR NOT", "title:(", "*", "a:b^3~2 -c +d [x TO y}", "'; DROP TABLE events"])
def test_query_syntax_is_text(client, query):
    assert len(client.search(query).results) == 10


def test_an_unknown_user_is_anonymous(client, shopper):
    known = [hit.score for hit in client.search(QUERY).results]
    assert [hit.score for hit in client.search(QUERY, user_id=shopper).results] == known


def test_events_of_unknown_items_in_the_request_change_nothing(client):
    ghosts = [HistoryEvent(timestamp=NOW, type=EventType.CLICK, item_id="no such item")]
    anonymous = [hit.score for hit in client.search(QUERY).results]
    assert [hit.score for hit in client.search(QUERY, events=ghosts).results] == anonymous


def test_a_read_mask_leaves_out_what_was_not_asked_for(stub):
    response = stub.Search(pb.SearchRequest(query=QUERY, page_size=1, read_mask={"paths": ["price"]}))
    assert {field.name for field, _ in response.results[0].item.ListFields()} == {"item_id", "price"}


def test_depths_are_obeyed(client):
    response = client.search(QUERY, retrieval_depth=7, rerank_depth=3, page_size=100)
    assert (response.total_size, len(response.results)) == (7, 7)
    assert sum(hit.rerank_score is not None for hit in response.results) == 3


# paging


def test_pages_join_to_the_whole_ranking(client):
    whole = client.search(QUERY, page_size=100)
    assert whole.next_page_token == ""
    page = client.search(QUERY, page_size=25)
    search_id, hits = page.search_id, list(page.results)
    while page.next_page_token:
        page = client.search(QUERY, page_size=25, page_token=page.next_page_token)
        hits += page.results
        assert (page.search_id, page.total_size) == (search_id, 60)
    assert [hit.rank for hit in hits] == list(range(1, 61))
    assert [hit.item.item_id for hit in hits] == [hit.item.item_id for hit in whole.results]


def test_a_page_stays_as_it_was_while_the_history_changes(client, shopper):
    first = client.search(QUERY, user_id=shopper, page_size=5)
    before = client.search(QUERY, user_id=shopper, page_size=5, page_token=first.next_page_token)
    client.record_events([purchase(shopper, f"i-{n}") for n in range(20, 28)])
    after = client.search(QUERY, user_id=shopper, page_size=5, page_token=first.next_page_token)
    assert [hit.score for hit in after.results] == [hit.score for hit in before.results]
    assert set(after.stage_timings_ms) == {"wait", "present"}


def test_an_offset_skips_results(client):
    whole = client.search(QUERY, page_size=20)
    response = client.search(QUERY, offset=7, page_size=5)
    assert [hit.rank for hit in response.results] == [8, 9, 10, 11, 12]
    assert [hit.item.item_id for hit in response.results] == [hit.item.item_id for hit in whole.results[7:12]]
    following = client.search(QUERY, page_size=3, page_token=response.next_page_token)
    assert [hit.rank for hit in following.results] == [13, 14, 15]


@pytest.mark.parametrize("offset", [60, 2**31 - 1])
def test_an_offset_beyond_the_ranking_answers_with_an_empty_page(client, offset):
    response = client.search(QUERY, offset=offset)
    assert (response.results, response.total_size, response.next_page_token) == ((), 60, "")


def test_a_token_of_another_query_is_refused(client, stub):
    token = client.search(QUERY).next_page_token
    error = failure(lambda: stub.Search(pb.SearchRequest(query="blue boot", page_token=token)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(error)[0].field == "page_token"
    assert "another request" in error.details()


def test_an_expired_token_is_refused(store, serving, tmp_path):
    with serving(store, page_ttl_s=1e-9, history_path=str(tmp_path / "h")) as (_, client):
        token = client.search(QUERY).next_page_token
        with pytest.raises(Exception, match="expired"):
            client.search(QUERY, page_token=token)


# events and histories


def test_recorded_events_change_the_next_search_of_that_shopper_only(client, shopper):
    anonymous = [hit.rerank_score for hit in client.search(QUERY).results]
    recorded = client.record_events([purchase(shopper, "i-03"), purchase(shopper, "i-44", hours_ago=2)])
    assert (recorded.n_recorded, recorded.n_already_known, recorded.unknown_item_ids) == (2, 0, ())
    assert [hit.rerank_score for hit in client.search(QUERY, user_id=shopper).results] != anonymous
    assert [hit.rerank_score for hit in client.search(QUERY, user_id=shopper + "x").results] == anonymous


def test_a_recorded_history_counts_like_the_same_one_in_the_request(client, shopper):
    client.record_events([purchase(shopper, "i-03", hours_ago=1), purchase(shopper, "i-44", hours_ago=2)])
    events = [
        HistoryEvent(timestamp=NOW - timedelta(hours=hours), type=EventType.PURCHASE, item_id=item_id)
        for item_id, hours in (("i-03", 1), ("i-44", 2))
    ]
    looked_up = client.search(QUERY, user_id=shopper).results
    assert [hit.score for hit in client.search(QUERY, events=events).results] == [hit.score for hit in looked_up]


def test_a_visitor_has_a_history_too_and_a_user_goes_before(client, shopper):
    client.record_events([purchase(None, "i-03")], visitor_id=shopper)
    anonymous = [hit.score for hit in client.search(QUERY).results]
    assert [hit.score for hit in client.search(QUERY, visitor_id=shopper).results] != anonymous
    both = client.search(QUERY, visitor_id=shopper, user_id=shopper + "-signed-in")
    assert [hit.score for hit in both.results] == anonymous


def test_events_of_unknown_items_are_kept_and_reported(client, shopper):
    events = [purchase(shopper, "i-03"), purchase(shopper, "gone"), purchase(shopper, "gone", hours_ago=3)]
    recorded = client.record_events(events)
    assert (recorded.n_recorded, recorded.unknown_item_ids) == (3, ("gone",))
    assert client.record_events(events).n_already_known == 3


def test_one_bad_event_keeps_all_from_being_written(client, stub, shopper):
    good = pb.UserEvent(type=pb.EVENT_TYPE_CLICK, user_id=shopper, item_id="i-03", timestamp=timestamp_message(NOW))
    error = failure(
        lambda: stub.RecordEvents(pb.RecordEventsRequest(events=[good, pb.UserEvent(type=pb.EVENT_TYPE_CLICK)]))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in violations_of(error)} == {"events[1].user_id", "events[1].item_id"}
    assert stub.RecordEvents(pb.RecordEventsRequest(events=[good])).n_recorded == 1


def test_the_largest_calls_fit(client, stub, shopper):
    identifier = "x" * 128
    big = pb.UserEvent(
        type=pb.EVENT_TYPE_CLICK,
        user_id=shopper,
        visitor_id=identifier,
        session_id=identifier,
        search_id=identifier,
        item_id=identifier,
        query="\U0001f45f" * 512,
    )
    events = [pb.UserEvent(**{}) for _ in range(100)]
    for number, event in enumerate(events):
        event.CopyFrom(big)
        event.timestamp.CopyFrom(timestamp_message(NOW - timedelta(seconds=number)))
    assert stub.RecordEvents(pb.RecordEventsRequest(events=events)).n_recorded == 100
    history = [pb.HistoryEvent(type=pb.EVENT_TYPE_CLICK, item_id=identifier, query="\U0001f45f" * 512)] * 200
    assert stub.Search(pb.SearchRequest(query=QUERY, user_context={"events": history})).total_size == 60


# errors


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"query": ""}, "query"),
        ({"query": "\x00\x07"}, "query"),
        ({"query": "x" * 10_240}, "query"),
        ({"query": QUERY, "page_size": 0}, "page_size"),
        ({"query": QUERY, "page_size": 10**9}, "page_size"),
        ({"query": QUERY, "user_id": "a\nb"}, "user_id"),
        ({"query": QUERY, "page_token": "x" * 5000}, "page_token"),
        ({"query": QUERY, "params": {"retrieval_depth": 10**9}}, "params.retrieval_depth"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_requests_are_invalid_arguments_that_name_the_field(stub, client, fields, fault):
    error = failure(lambda: stub.Search(pb.SearchRequest(**fields)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in violations_of(error)] == [fault]
    assert "Traceback" not in error.details()
    assert len(client.search(QUERY).results) == 10


def test_a_field_that_is_not_served_is_unimplemented_and_named(stub, monkeypatch):
    monkeypatch.setitem(SERVED, "SearchRequest", frozenset({"query"}))
    error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY, explain=True)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert [violation.field for violation in violations_of(error)] == ["explain"]


def test_an_item_that_the_catalogue_lacks_is_not_found_and_named(stub, client):
    error = failure(lambda: stub.Search(pb.SearchRequest(similar_to_item_id="unknown")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert [violation.field for violation in violations_of(error)] == ["similar_to_item_id"]
    with pytest.raises(UnknownItem) as caught:
        client.search("", similar_to_item_id="unknown")
    assert caught.value.field == "similar_to_item_id"


@pytest.mark.parametrize("servicer", [SearchService, IndexAdminService])
def test_every_call_of_the_contract_is_served(servicer):
    contract = pb.DESCRIPTOR.services_by_name[servicer.__name__]
    assert {method.name for method in contract.methods} <= {
        name for name, method in vars(servicer).items() if getattr(method, "__name__", "") == name
    }


def test_a_call_that_a_service_does_not_define_is_unimplemented_and_named(loop):
    @refusing_the_rest
    class SearchService(search_pb2_grpc.SearchServiceServicer):
        async def Search(self, request, context):
            return pb.SearchResponse(total_size=7)

    async def answers() -> tuple[int, grpc.aio.AioRpcError]:
        server = grpc.aio.server()
        search_pb2_grpc.add_SearchServiceServicer_to_server(SearchService(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            answer = await stub.Search(pb.SearchRequest())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Embed(pb.EmbedRequest())
        await server.stop(None)
        return answer.total_size, caught.value

    size, error = loop.run(answers())
    assert size == 7
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "SearchService.Embed is not served by this version"


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xfe", b"\xff\xff\xff", b"\x0a\xff\xff\xff\x7f"])
@pytest.mark.parametrize("method", ["Search", "RecordEvents"])
def test_bytes_that_are_no_message_are_an_invalid_argument(channel, method, data):
    call = channel.unary_unary(
        f"/tandem.search.v1.SearchService/{method}", request_serializer=bytes, response_deserializer=bytes
    )
    error = failure(lambda: call(data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in error.details()


def test_a_message_beyond_all_limits_is_refused(stub, client):
    error = failure(lambda: stub.Search(pb.SearchRequest(query="x" * (2 << 20))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(client.search(QUERY).results) == 10


def test_a_deadline_too_short_to_present_anything_costs_no_work(store, serving, tmp_path, monkeypatch):
    with serving(store, reserve_ms=3_600_000.0, history_path=str(tmp_path / "h")) as (server, _):
        monkeypatch.setattr(server._service.pipeline, "search", lambda *_: pytest.fail("searched"))
        with grpc.insecure_channel(server.address) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY), timeout=60))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            error = failure(lambda: stub.RecordEvents(pb.RecordEventsRequest(), timeout=60))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_unexpected_error_shows_nothing_and_leaves_the_server_up(store, serving, tmp_path, monkeypatch, caplog):
    with serving(store, history_path=str(tmp_path / "h")) as (server, client):
        with monkeypatch.context() as patch:

            def fail(_query: str, _k: int, **_options: object) -> None:
                raise RuntimeError("secret path /etc/shadow")

            patch.setattr(server._service.pipeline.bundle.retriever, "retrieve", fail)
            with grpc.insecure_channel(server.address) as channel:
                stub = search_pb2_grpc.SearchServiceStub(channel)
                error = failure(lambda: stub.Search(pb.SearchRequest(query=QUERY), timeout=60))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in error.details()
        assert [record.message for record in caplog.records] == ["unexpected error"]
        assert len(client.search(QUERY).results) == 10


def test_events_that_cannot_be_written_are_refused_as_unavailable(store, serving, tmp_path, caplog):
    with serving(store, history_path=str(tmp_path / "h")) as (server, client):
        server._histories._writer.execute("PRAGMA query_only = ON")  # as a disk that went read-only
        with grpc.insecure_channel(server.address) as channel:
            stub = search_pb2_grpc.SearchServiceStub(channel)
            event = pb.UserEvent(type=pb.EVENT_TYPE_CLICK, user_id="ada", item_id="i-01")
            error = failure(lambda: stub.RecordEvents(pb.RecordEventsRequest(events=[event]), timeout=60))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert str(tmp_path) not in error.details()
        assert str(tmp_path) in caplog.text
        assert len(client.search(QUERY, user_id="ada").results) == 10


def test_every_error_of_the_tree_has_a_code():
    def tree(kind):
        return [kind, *itertools.chain.from_iterable(tree(child) for child in kind.__subclasses__())]

    from corpus.errors import TandemError

    for kind in tree(TandemError):
        assert any(issubclass(kind, row) for row, _ in CODES)
    # a row below one that covers it would never be reached
    for number, (kind, _) in enumerate(CODES):
        assert not any(issubclass(kind, above) for above, _ in CODES[:number])


# what a search may ask of the order


def test_a_client_asks_for_order_boosts_pins_and_exclusions(client):
    plain = client.search(QUERY, page_size=60)
    last = plain.results[-1].item.item_id
    pinned = client.search(QUERY, page_size=60, pins=[Pin(item_id=last, rank=1)], excluded_item_ids=["i-05"])
    assert pinned.results[0].item.item_id == last
    assert len(pinned.results) == 59
    cheapest = client.search(QUERY, page_size=5, order_by="price")
    assert [hit.item.item_id for hit in cheapest.results] == [f"i-{row:02d}" for row in range(5)]
    boost = Boost(condition=Comparison("brand", "=", "solo"), boost=1)
    boosted = client.search(QUERY, page_size=60, boosts=[boost])
    assert max(hit.score for hit in boosted.results) > max(hit.score for hit in plain.results)


def test_pages_of_an_ordered_and_pinned_ranking_join(client):
    wishes = {"order_by": "price desc", "pins": [Pin(item_id="i-07", rank=4), Pin(item_id="i-09", rank=900)]}
    hits, token = [], None
    while token != "":
        page = client.search(QUERY, page_size=7, page_token=token, **wishes)
        hits, token = [*hits, *page.results], page.next_page_token
    descending = [row for row in range(59, -1, -1) if row not in (7, 9)]
    rows = [*descending[:3], 7, *descending[3:], 9]
    assert [hit.item.item_id for hit in hits] == [f"i-{row:02d}" for row in rows]


def test_a_client_asks_for_variety_a_cut_off_and_exact_search(client):
    response = client.search(QUERY, page_size=5, diversity={"max_per_brand": 1}, exact=True)
    assert len({hit.item.brand for hit in response.results}) == 5
    nothing = client.search(QUERY, min_purchase_probability=1.0)
    assert (nothing.results, nothing.no_match, nothing.total_size) == ((), True, 0)
    assert not client.search(QUERY).no_match


def test_a_client_finds_items_alike_and_browses(client):
    alike = client.search("", similar_to_item_id="i-46", page_category=["garden"], page_size=20)
    assert len(alike.results) == 14
    browsed = client.search("", page_category=["Garden"], order_by="price desc", page_size=3)
    assert [hit.item.item_id for hit in browsed.results] == ["i-59", "i-58", "i-57"]
    assert all(hit.dense_score is None for hit in browsed.results)


def test_a_client_has_a_query_corrected(client):
    typed = client.search("red acme sandalz", spell_correction="auto")
    right = client.search("red acme sandal")
    assert typed.corrected_query == "red acme sandal"
    assert [hit.score for hit in typed.results] == [hit.score for hit in right.results]
    assert client.search("red acme sandalz", spell_correction="off").corrected_query == ""


def test_events_of_the_visit_count_first(client, shopper):
    for number, session in ((3, "s-1"), (44, "s-2")):
        event = replace(purchase(shopper, f"i-{number:02d}", hours_ago=number), session_id=session)
        client.record_events([event])
    events = [HistoryEvent(timestamp=NOW, type=EventType.PURCHASE, item_id=item_id) for item_id in ("i-44", "i-03")]
    want = [hit.score for hit in client.search(QUERY, events=events).results]
    assert [hit.score for hit in client.search(QUERY, user_id=shopper, session_id="s-2").results] == want
    assert [hit.score for hit in client.search(QUERY, user_id=shopper, session_id="s-1").results] != want


def test_labels_are_told_beside_the_search_in_the_log(client, caplog):
    with caplog.at_level("DEBUG", logger="server.service"):
        response = client.search(QUERY, labels={"page": "home"})
    told = {record.search_id: record.labels for record in caplog.records if record.message == "search answered"}
    assert told[response.search_id] == {"page": "home"}


def test_a_client_is_told_why(client):
    hits = client.search(QUERY, page_size=60, explain=True, pins=[Pin(item_id="i-59", rank=1)]).results
    assert hits[0].explanation[0].name == "pin"
    for hit in hits:
        assert sum(part.value for part in hit.explanation) == pytest.approx(hit.score, abs=1e-4)
    assert {part.name for hit in hits for part in hit.explanation} == {"pin", "retrieval", "rerank", "unread"}
    assert "the first stage as a whole raises the score by" in hits[1].explanation[0].description
    assert client.search(QUERY).results[0].explanation == ()
