from dataclasses import replace

import pytest

from corpus.events import EventType, HistoryEvent
from retrieval.filtering.filters import Comparison
from server.stages.wishes import Boost, Pin
from tests.server.callers import NOW, purchase

QUERY = "red acme shoe"


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
