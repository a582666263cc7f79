from datetime import timedelta

import grpc
import pytest

from corpus.events import EventType, HistoryEvent
from server.api.messages import timestamp_message
from server.api.status import violations_of
from server.pb.tandem.search.v1 import search_pb2 as pb
from tests.server.callers import NOW, failure, purchase

QUERY = "red acme shoe"


# searching


def test_a_search_answers_with_items_scores_timings_and_versions(client, bundle):
    response = client.search(f"{QUERY} of ours")  # that nobody else asked this server for: a new ranking
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
    assert set(after.stage_timings_ms) == {"present"}


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
