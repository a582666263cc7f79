"""Shopper events: what was searched, seen, clicked, put into the cart and bought."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EventType(StrEnum):
    """Kinds of events, weakest evidence of interest first."""

    SEARCH = "search"
    IMPRESSION = "impression"
    CLICK = "click"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"


# grades of the 0-3 scale of judgments that behaviour counts as
GRADES = {EventType.CLICK: 1.0, EventType.ADD_TO_CART: 2.0, EventType.PURCHASE: 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the event log, cleaned.

    Every interaction names an item; a search names a query. An interaction may carry its own query or the
    ``search_id`` of the search that led to it, and then needs no attribution.
    """

    timestamp: datetime  # UTC, timezone-aware
    user_id: str | None
    session_id: str | None
    type: EventType
    query: str | None = None
    item_id: str | None = None
    position: int | None = None  # from 1
    search_id: str | None = None
    price: float | None = None
    quantity: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One earlier event of a shopper, as the reranker reads it."""

    timestamp: datetime  # UTC, timezone-aware
    type: EventType
    item_id: str | None = None
    query: str | None = None
    session_id: str | None = None  # where it is known; training and models do not read it
