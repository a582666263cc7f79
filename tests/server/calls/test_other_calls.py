"""The smaller calls, over real sockets."""

from datetime import timedelta

import grpc
import numpy as np
import pytest

from corpus.errors import InputError
from corpus.events import Event, EventType, HistoryEvent
from retrieval.passages import passage
from server.api.status import violations_of
from server.client.answers import FailedSearch
from server.pb.tandem.search.v1 import search_pb2 as pb
from tests.server.callers import NOW, purchase
from tests.server.gates import QUERY


def violations(call) -> dict[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return {violation.field: violation.description for violation in violations_of(caught.value)}


def bought(item_id: str, user_id: str | None = None, minutes_ago: float = 1) -> Event:
    return purchase(user_id, item_id, hours_ago=minutes_ago / 60)


# DeleteUser


def test_a_deleted_shopper_is_a_stranger_again(client):
    strangers = [hit.score for hit in client.search(QUERY).results]
    client.record_events([bought("i-03", "calls-1"), bought("i-04", "calls-1")])
    client.record_events([bought("i-05")], visitor_id="calls-1")
    assert [hit.score for hit in client.search(QUERY, user_id="calls-1").results] != strangers
    assert client.delete_user(user_id="calls-1") == 2
    assert [hit.score for hit in client.search(QUERY, user_id="calls-1").results] == strangers
    assert [hit.score for hit in client.search(QUERY, visitor_id="calls-1").results] != strangers
    assert client.delete_user(user_id="calls-1", visitor_id="calls-1") == 1


def test_a_visitor_who_signs_in_brings_the_history_along(client):
    client.record_events([bought("i-03", minutes_ago=5)], visitor_id="calls-2")
    as_visitor = [hit.score for hit in client.search(QUERY, visitor_id="calls-2").results]
    strangers = [hit.score for hit in client.search(QUERY).results]
    assert as_visitor != strangers
    client.record_events([bought("i-03", "calls-2", minutes_ago=5)], visitor_id="calls-2")
    assert [hit.score for hit in client.search(QUERY, user_id="calls-2").results] == as_visitor
    assert [hit.score for hit in client.search(QUERY, visitor_id="calls-2").results] == strangers


def test_whom_to_forget_must_be_said(stub):
    assert violations(lambda: stub.DeleteUser(pb.DeleteUserRequest())) == {
        "user_id": "expected user_id, visitor_id or both, got neither"
    }
    assert violations(lambda: stub.DeleteUser(pb.DeleteUserRequest(user_id="", visitor_id="\n"))).keys() == {
        "user_id",
        "visitor_id",
    }


# BatchSearch


def test_searches_of_a_batch_are_answered_as_alone_and_fail_alone(client):
    alone = client.search(QUERY, page_size=3)
    token = alone.next_page_token
    first, bad, second = client.batch_search(
        [
            (QUERY, {"page_size": 3}),
            ("", {"page_size": 0}),
            (QUERY, {"page_size": 3, "page_token": token}),
        ]
    )
    assert [(hit.item.item_id, hit.score) for hit in first.results] == [
        (hit.item.item_id, hit.score) for hit in alone.results
    ]
    assert [hit.rank for hit in second.results] == [4, 5, 6]
    assert second.search_id == alone.search_id != first.search_id
    assert isinstance(bad, FailedSearch)
    assert (bad.code, bad.fields) == (3, ("query", "page_size"))
    assert "expected 1 to 100, got 0" in bad.message


def test_a_search_of_a_batch_that_finds_no_place_fails_alone(store, serving, tmp_path):
    with serving(store, max_waiting_searches=2, history_path=str(tmp_path / "h")) as (_, client):
        codes = [getattr(one, "code", 0) for one in client.batch_search([(QUERY, {})] * 4)]
        assert sorted(codes) == [0, 0, 8, 8]
        assert client.search(QUERY).total_size == 60


def test_the_size_of_a_batch_is_bounded(stub):
    assert violations(lambda: stub.BatchSearch(pb.BatchSearchRequest())) == {
        "requests": "expected 1 to 20, got 0; split the call"
    }
    too_many = pb.BatchSearchRequest(requests=[pb.SearchRequest(query=QUERY)] * 21)
    assert violations(lambda: stub.BatchSearch(too_many))["requests"].startswith("expected 1 to 20, got 21")


# Suggest


def test_a_beginning_is_completed_by_what_others_searched(client, bundle):
    known = bundle.suggestions.complete("", 50)
    assert {suggestion.query for suggestion in known} == {"black sandal", "red turntable"}
    assert client.suggest("") == tuple(known)
    assert [suggestion.query for suggestion in client.suggest("  RED")] == ["red turntable"]
    assert client.suggest("red ")[0].query == "red turntable"
    assert [suggestion.query for suggestion in client.suggest("xyz ", page_size=5)] == []
    assert len(client.suggest("", page_size=1)) == 1


def test_a_shoppers_own_searches_come_first_and_are_nobody_elses(client):
    def searched(query: str, minutes_ago: float) -> Event:
        time = NOW - timedelta(minutes=minutes_ago)
        return Event(timestamp=time, user_id="calls-4", session_id=None, type=EventType.SEARCH, query=query)

    client.record_events(
        [searched("red turntable", 3), searched("Red Herring", 2), searched("blue", 1), searched("red ink", 4)]
    )
    own = client.suggest("rèd", user_id="calls-4")
    assert [(suggestion.query, int(suggestion.score)) for suggestion in own] == [
        ("red herring", 5),
        ("red turntable", 5),
        ("red ink", 5),
    ]
    assert [suggestion.query for suggestion in client.suggest("red", visitor_id="calls-4")] == ["red turntable"]
    client.delete_user(user_id="calls-4")
    assert [int(suggestion.score) for suggestion in client.suggest("red", user_id="calls-4")] == [4]


def test_every_fault_of_a_beginning_is_named(stub):
    request = pb.SuggestRequest(query="x" * 513, page_size=51, user_id="")
    assert violations(lambda: stub.Suggest(request)).keys() == {"query", "page_size", "user_id"}
    assert violations(lambda: stub.Suggest(pb.SuggestRequest(page_size=0))) == {"page_size": "expected 1 to 50, got 0"}


# Rerank


def test_items_are_ordered_as_the_search_that_finds_them_orders_them(client):
    events = [HistoryEvent(timestamp=NOW, type=EventType.PURCHASE, item_id="i-03")]
    found = client.search(QUERY, events=events, page_size=100, retrieval_depth=60, rerank_depth=60).results
    given = [hit.item.item_id for hit in sorted(found, key=lambda hit: hit.item.item_id)]
    ordered = client.rerank(QUERY, [*given, "gone", given[0]], events=events)
    assert [item.item_id for item in ordered.results] == [hit.item.item_id for hit in found]
    assert [item.rank for item in ordered.results] == list(range(1, 61))
    np.testing.assert_allclose([i.rerank_score for i in ordered.results], [h.rerank_score for h in found], rtol=1e-4)
    np.testing.assert_allclose(
        [item.purchase_probability for item in ordered.results], [hit.purchase_probability for hit in found], rtol=1e-4
    )
    assert ordered.unknown_item_ids == ("gone",)
    assert (ordered.index_version, ordered.degraded) == ("v1", ())


def test_a_few_items_of_which_none_matches_are_all_ordered_also_for_a_recorded_shopper(client):
    client.record_events([bought("i-03", "calls-3")])
    strangers = client.rerank("zzz", ["i-40", "i-41", "i-42"])
    known = client.rerank("zzz", ["i-40", "i-41", "i-42"], user_id="calls-3")
    assert {item.item_id for item in strangers.results} == {"i-40", "i-41", "i-42"}
    assert [item.rerank_score for item in known.results] != [item.rerank_score for item in strangers.results]


def test_items_of_which_the_catalogue_has_none_are_no_order(client):
    assert client.rerank(QUERY, ["gone"]).results == ()


def test_every_fault_of_an_order_is_named(stub):
    request = pb.RerankRequest(query=" ", user_id="", item_ids=["", "x" * 129, "fine"])
    request.user_context.SetInParent()
    assert violations(lambda: stub.Rerank(request)).keys() == {
        "query",
        "user_id",
        "user_context",
        "item_ids[0]",
        "item_ids[1]",
    }
    request = pb.RerankRequest(query=QUERY, item_ids=["x"] * 201)
    assert violations(lambda: stub.Rerank(request)) == {"item_ids": "expected 1 to 200, got 201"}
    assert violations(lambda: stub.Rerank(pb.RerankRequest(query=QUERY))) == {"item_ids": "expected 1 to 200, got 0"}


# Embed


def test_embeddings_are_those_that_searches_compare(client, bundle):
    hit = client.search(QUERY, page_size=1).results[0]
    queries = client.embed([f"  {QUERY.upper()}", *["boot"] * 20], "query")
    text = passage(hit.item, bundle.stage.item_fields)
    items = client.embed([text], "item")
    assert queries.shape == (21, bundle.manifest.dim)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1.0, rtol=1e-5)
    assert queries[0] @ items[0] == pytest.approx(hit.dense_score, abs=1e-4)
    np.testing.assert_array_equal(queries[1], queries[20])


def test_every_fault_of_texts_to_embed_is_named(stub, client):
    request = pb.EmbedRequest(role=pb.EMBED_ROLE_ITEM, texts=["fine", "\u200b", "x" * 8193])
    assert violations(lambda: stub.Embed(request)) == {
        "texts[1]": "expected a text with at least one visible character, got none",
        "texts[2]": "expected at most 8,192 characters, got 8,193; shorten it",
    }
    assert violations(lambda: stub.Embed(pb.EmbedRequest())).keys() == {"role", "texts"}
    with pytest.raises(InputError) as caught:
        client.embed(["x" * 513], "query")
    assert caught.value.field == "texts[0]"
