from datetime import UTC, datetime

import pytest

from corpus.errors import (
    BadPageToken,
    DeadlineExceeded,
    InputError,
    NotImplementedField,
    Overloaded,
    TandemError,
)
from corpus.events import Event, EventType, HistoryEvent
from server.client import TandemClient

NOW = datetime.now(UTC)


def test_errors_come_back_as_what_they_were(client):
    with pytest.raises(InputError, match="at least one visible character") as caught:
        client.search("")
    assert caught.value.field == "query"
    with pytest.raises(BadPageToken):
        client.search("shoe", page_token="nonsense")
    with pytest.raises(DeadlineExceeded):
        client.search("shoe", timeout_s=0.0)
    impression = Event(timestamp=NOW, user_id="ada", session_id=None, type=EventType.IMPRESSION, item_id="i-01")
    with pytest.raises(NotImplementedField) as refused:
        client.record_events([impression])
    assert refused.value.field == "events[0].type"


def test_a_full_server_is_overloaded(store, serving, tmp_path):
    settings = {"max_waiting_searches": 0, "history_path": str(tmp_path / "h")}
    with serving(store, **settings) as (_, client), pytest.raises(Overloaded, match="call again"):
        client.search("shoe")


def test_nobody_at_the_address_is_said_with_the_remedy():
    with TandemClient("127.0.0.1:1", timeout_s=10) as client, pytest.raises(TandemError, match="`tandem serve`"):
        client.search("shoe")


def test_an_empty_history_is_sent_as_one(client):
    # ids and a history exclude each other, even if the history is empty
    with pytest.raises(InputError) as caught:
        client.search("shoe", user_id="ada", events=[])
    assert caught.value.field == "user_context"


def test_every_field_of_an_event_arrives(client, shared_server):
    event = Event(
        timestamp=NOW,
        user_id="client-test",
        session_id="s",
        type=EventType.PURCHASE,
        query="red shoe",
        item_id="i-01",
        position=3,
        search_id="q",
        price=9.5,
        quantity=2,
    )
    assert client.record_events([event], visitor_id="v").n_recorded == 1
    row = (
        shared_server[0]
        ._histories._reader.execute(
            "SELECT type, query, item_id, session_id, position, search_id, price, quantity FROM events "
            "WHERE session_id = 's' AND search_id = 'q'"
        )
        .fetchone()
    )
    assert row == ("purchase", "red shoe", "i-01", "s", 3, "q", 9.5, 2)


def test_item_fields_and_depths_are_passed_on(client):
    response = client.search("shoe", item_fields=["price"], retrieval_depth=9, rerank_depth=0, page_size=4, offset=2)
    assert (response.total_size, len(response.results), response.results[0].rank) == (9, 4, 3)
    assert response.results[0].item.title == ""
    assert response.results[0].item.price is not None
    assert response.results[0].rerank_score is None
    assert response.results[0].purchase_probability is None


def test_a_history_of_searches_is_passed_on(client):
    events = [HistoryEvent(timestamp=NOW, type=EventType.SEARCH, query="Boot")]
    assert len(client.search("shoe", events=events).results) == 10
