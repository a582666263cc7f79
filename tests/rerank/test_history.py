from datetime import UTC, datetime, timedelta

import pytest

from corpus.events import EventType, HistoryEvent
from corpus.items import Item, ItemTable
from rerank.history import choose_history, history_text, item_names

NOW = datetime(2026, 5, 1, tzinfo=UTC)
NAMES = {
    "shoe": "red acme running shoe",
    "boot": "nordly leather boot",
    "pan": "steel pan",
    "mug": "coffee mug",
    "hose": "garden hose",
}


def event(kind: EventType, *, item: str | None = None, query: str | None = None, hours: int = 1) -> HistoryEvent:
    return HistoryEvent(timestamp=NOW - timedelta(hours=hours), type=kind, item_id=item, query=query)


def text(events: list[HistoryEvent], query: str = "lamp", n_events: int = 8) -> str:
    return history_text(events, query, NAMES.get, n_events=n_events)


def test_events_are_written_newest_first_with_type_words():
    events = [
        event(EventType.SEARCH, query="warm  boots", hours=1),
        event(EventType.CLICK, item="boot", hours=2),
        event(EventType.ADD_TO_CART, item="pan", hours=3),
        event(EventType.PURCHASE, item="shoe", hours=4),
    ]
    assert text(events) == (
        "searched warm boots; clicked nordly leather boot; added steel pan; bought red acme running shoe"
    )


def test_an_item_appears_once_by_its_strongest_event_at_its_latest_time():
    events = [
        event(EventType.CLICK, item="pan", hours=1),
        event(EventType.CLICK, item="mug", hours=2),
        event(EventType.PURCHASE, item="pan", hours=3),
        event(EventType.CLICK, item="pan", hours=4),
    ]
    assert text(events) == "bought steel pan; clicked coffee mug"


def test_impressions_unknown_items_and_the_same_search_are_left_out():
    events = [
        event(EventType.IMPRESSION, item="pan"),
        event(EventType.CLICK, item="gone"),
        event(EventType.CLICK),
        event(EventType.SEARCH, query="lamp"),
        event(EventType.SEARCH, query="  "),
        event(EventType.SEARCH),
    ]
    assert text(events) == ""


def test_an_old_event_with_the_querys_words_displaces_a_recent_one_without():
    recent = [event(EventType.CLICK, item=name, hours=n) for n, name in enumerate(["pan", "mug", "hose"], start=1)]
    old = event(EventType.CLICK, item="shoe", hours=90)
    assert text([*recent, old], "running shoes", n_events=2) == "clicked steel pan; clicked red acme running shoe"
    assert text([*recent, old], "lamp", n_events=2) == "clicked steel pan; clicked coffee mug"


def test_relevant_events_take_half_of_the_places_at_most_unless_others_are_missing():
    shoes = {f"s{n}": f"shoe number{n}" for n in range(6)}
    events = [event(EventType.CLICK, item=name, hours=n + 1) for n, name in enumerate(["pan", "mug", *shoes])]
    chosen = choose_history(events, "shoe", (NAMES | shoes).get, n_events=4)
    assert [piece.text for piece in chosen] == [
        "clicked shoe number0",
        "clicked shoe number1",
        "clicked steel pan",
        "clicked coffee mug",
    ]
    assert [piece.place for piece in chosen] == [2, 3, 0, 1]
    only_shoes = choose_history(events[2:], "shoe", shoes.get, n_events=4)
    assert len(only_shoes) == 4


def test_of_equally_relevant_events_the_purchase_comes_first():
    names = {"a": "shoe a", "b": "shoe b"}
    events = [event(EventType.CLICK, item="a", hours=1), event(EventType.PURCHASE, item="b", hours=2)]
    assert choose_history(events, "shoe", names.get, n_events=1)[0].text == "bought shoe b"


def test_long_titles_are_cut_to_their_head():
    long = {"x": " ".join(f"w{n}" for n in range(30))}
    chosen = choose_history([event(EventType.CLICK, item="x")], "lamp", long.get, n_events=8)
    assert chosen[0].text == "clicked w0 w1 w2 w3 w4 w5 w6 w7 w8 w9"


@pytest.mark.parametrize("n_events", [0, 1, 3])
def test_no_more_events_than_asked_for(n_events: int):
    events = [event(EventType.CLICK, item=name, hours=n) for n, name in enumerate(NAMES, start=1)]
    assert len(choose_history(events, "shoe pan mug", NAMES.get, n_events=n_events)) == n_events


def test_an_endless_history_is_read_only_in_its_newest_part():
    read: list[str] = []

    def name_of(item_id: str) -> str:
        read.append(item_id)
        return item_id

    events = [event(EventType.CLICK, item=f"i{n}", hours=n + 1) for n in range(10_000)]
    choose_history(events, "lamp", name_of, n_events=8)
    assert len(read) == 200


def test_a_brand_is_named_once():
    items = ItemTable.from_items(
        [
            Item(item_id="1", title="Acme pan", brand="ACME"),
            Item(item_id="2", title="pan", brand="Acme"),
            Item(item_id="3", title="pan"),
        ]
    )
    name_of = item_names(items)
    assert [name_of(item_id) for item_id in ("1", "2", "3", "4")] == ["Acme pan", "Acme pan", "pan", None]
