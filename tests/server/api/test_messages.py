from datetime import UTC, datetime

from corpus.events import EventType
from corpus.items import Item
from server.api.messages import EVENT_TYPES, REASON_NUMBERS, item_message, item_of, result_messages
from server.api.requests import ITEM_FIELDS
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.stages.ranking import DegradationReason, Hit

ITEM = Item(
    item_id="i-1",
    title="Trail shoe",
    description="",
    brand="acme",
    category=("shoes", "trail"),
    price=0.0,
    currency="EUR",
    in_stock=False,
    attributes={"colour": ("red", "blue"), "width": ()},
    image_uri="https://example.com/i-1.png",
    updated_at=datetime(2026, 3, 1, 12, 0, 0, 7, tzinfo=UTC),
)


def test_an_item_survives_the_way_to_the_client_and_back():
    assert item_of(pb.Item.FromString(item_message(ITEM, ITEM_FIELDS).SerializeToString())) == ITEM


def test_an_item_of_which_little_is_known_does_too():
    bare = Item(item_id="i-2", title="Boot")
    message = item_message(bare, ITEM_FIELDS)
    assert {field.name for field, _ in message.ListFields()} == {"item_id", "title"}
    assert item_of(message) == bare


def test_only_the_fields_asked_for_are_written():
    message = item_message(ITEM, frozenset({"item_id", "price"}))
    assert {field.name for field, _ in message.ListFields()} == {"item_id", "price"}


def test_a_result_carries_what_is_known_of_it_and_nothing_else():
    hit = Hit(
        item=ITEM,
        rank=3,
        score=1.5,
        retrieval_score=0.5,
        dense_score=0.25,
        lexical_score=None,
        behaviour_score=0.125,
        rerank_score=2.0,
        click_probability=0.75,
        cart_probability=None,
        purchase_probability=0.0,
    )
    (message,) = result_messages([hit], frozenset({"item_id"}))
    assert {field.name: value for field, value in message.ListFields() if field.name != "item"} == {
        "rank": 3,
        "score": 1.5,
        "retrieval_score": 0.5,
        "dense_score": 0.25,
        "behaviour_score": 0.125,
        "rerank_score": 2.0,
        "click_probability": 0.75,
        "purchase_probability": 0.0,
    }


def test_the_contract_names_every_event_type_and_every_reason():
    assert set(EVENT_TYPES) == set(pb.EventType.values()) - {0}
    assert set(EVENT_TYPES.values()) == set(EventType)
    assert all(pb.EventType.Name(number) == f"EVENT_TYPE_{kind.name}" for number, kind in EVENT_TYPES.items())
    assert set(REASON_NUMBERS) == set(DegradationReason)
    assert set(REASON_NUMBERS.values()) == set(pb.DegradationReason.values()) - {0}
