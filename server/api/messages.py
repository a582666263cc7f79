"""Between the public contract's messages and the types that the stages speak."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from corpus.events import Event, EventType, HistoryEvent
from corpus.items import Item
from retrieval.filtering.facets import Facet, FacetValue
from server.pb.tandem.search.v1 import search_pb2
from server.stages.ranking import Degradation, DegradationReason, Hit

EVENT_TYPES = {
    search_pb2.EVENT_TYPE_SEARCH: EventType.SEARCH,
    search_pb2.EVENT_TYPE_IMPRESSION: EventType.IMPRESSION,
    search_pb2.EVENT_TYPE_CLICK: EventType.CLICK,
    search_pb2.EVENT_TYPE_ADD_TO_CART: EventType.ADD_TO_CART,
    search_pb2.EVENT_TYPE_PURCHASE: EventType.PURCHASE,
}
EVENT_NUMBERS = {kind: number for number, kind in EVENT_TYPES.items()}

REASON_NUMBERS = {
    DegradationReason.DEADLINE: search_pb2.DEGRADATION_REASON_DEADLINE,
    DegradationReason.RERANKER_FAILED: search_pb2.DEGRADATION_REASON_RERANKER_FAILED,
    DegradationReason.RERANKER_SLOW: search_pb2.DEGRADATION_REASON_RERANKER_SLOW,
    DegradationReason.HISTORY_UNAVAILABLE: search_pb2.DEGRADATION_REASON_HISTORY_UNAVAILABLE,
    DegradationReason.PROBABILITY_UNKNOWN: search_pb2.DEGRADATION_REASON_PROBABILITY_UNKNOWN,
}


class Timestamped(Protocol):
    """A message with an optional time."""

    timestamp: Timestamp

    def HasField(self, name: str) -> bool:
        """Tell whether a field is set."""
        ...


def moment(timestamp: Timestamp) -> datetime:
    """Return a protobuf time as a UTC datetime, cut to microseconds.

    Raises:
        ValueError: If it is outside the years 1 to 9999.
    """
    return timestamp.ToDatetime(tzinfo=UTC)


def timestamp_message(time: datetime) -> Timestamp:
    """Return a timezone-aware datetime as a protobuf time."""
    seconds, rest = divmod(time - _EPOCH, _SECOND)
    return Timestamp(seconds=seconds, nanos=rest.microseconds * 1000)


def item_message(item: Item, fields: frozenset[str]) -> search_pb2.Item:
    """Write an item, with only the fields named; fields that the catalogue leaves empty stay absent."""
    values: dict[str, Any] = {name: getattr(item, name) for name in fields - _FIELDS_OF_MESSAGES}
    message = search_pb2.Item(**values)
    if "attributes" in fields:
        for name, entries in item.attributes.items():
            message.attributes[name].values.extend(entries)
    if item.updated_at is not None and "updated_at" in fields:
        message.updated_at.CopyFrom(timestamp_message(item.updated_at))
    return message


def item_of(message: search_pb2.Item) -> Item:
    """Read an item."""
    present = {name: getattr(message, name) for name in _OPTIONAL_ITEM_FIELDS if message.HasField(name)}
    if message.HasField("updated_at"):
        present["updated_at"] = moment(message.updated_at)
    return Item(
        item_id=message.item_id,
        title=message.title,
        category=tuple(message.category),
        attributes={name: tuple(entry.values) for name, entry in message.attributes.items()},
        **present,
    )


def result_messages(hits: Sequence[Hit], fields: frozenset[str]) -> list[search_pb2.SearchResult]:
    """Write a page of results."""
    return [
        search_pb2.SearchResult(
            item=item_message(hit.item, fields),
            rank=hit.rank,
            score=hit.score,
            retrieval_score=hit.retrieval_score,
            dense_score=hit.dense_score,
            lexical_score=hit.lexical_score,
            behaviour_score=hit.behaviour_score,
            rerank_score=hit.rerank_score,
            click_probability=hit.click_probability,
            cart_probability=hit.cart_probability,
            purchase_probability=hit.purchase_probability,
            explanation=_explanation(hit),
        )
        for hit in hits
    ]


def _explanation(hit: Hit) -> search_pb2.Explanation | None:
    if not hit.explanation:
        return None
    return search_pb2.Explanation(
        contributions=[
            search_pb2.Contribution(name=part.name, value=part.value, description=part.description)
            for part in hit.explanation
        ]
    )


def facet_messages(facets: Sequence[Facet]) -> list[search_pb2.Facet]:
    """Write the counts of facets."""
    return [
        search_pb2.Facet(
            field=facet.field,
            values=[
                search_pb2.FacetValue(value=value.value, count=value.count, low=value.low, high=value.high)
                for value in facet.values
            ],
        )
        for facet in facets
    ]


def facets_of(messages: Iterable[search_pb2.Facet]) -> tuple[Facet, ...]:
    """Read the counts of facets."""
    return tuple(
        Facet(
            field=message.field,
            values=tuple(
                FacetValue(
                    value=value.value,
                    count=value.count,
                    low=value.low if value.HasField("low") else None,
                    high=value.high if value.HasField("high") else None,
                )
                for value in message.values
            ),
        )
        for message in messages
    )


def degradation_messages(degraded: Sequence[Degradation]) -> list[search_pb2.Degradation]:
    """Write what an answer lacks."""
    return [search_pb2.Degradation(reason=REASON_NUMBERS[d.reason], message=d.message) for d in degraded]


def history_message(event: HistoryEvent) -> search_pb2.HistoryEvent:
    """Write an event of a history that a search brings along."""
    return search_pb2.HistoryEvent(
        type=EVENT_NUMBERS[event.type],
        timestamp=timestamp_message(event.timestamp),
        item_id=event.item_id,
        query=event.query,
    )


def user_event_message(event: Event, visitor_id: str | None) -> search_pb2.UserEvent:
    """Write an event to be remembered."""
    return search_pb2.UserEvent(
        type=EVENT_NUMBERS[event.type],
        timestamp=timestamp_message(event.timestamp),
        user_id=event.user_id,
        visitor_id=visitor_id,
        session_id=event.session_id,
        item_id=event.item_id,
        query=event.query,
        search_id=event.search_id,
        position=event.position,
        price=event.price,
        quantity=event.quantity,
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_FIELDS_OF_MESSAGES = frozenset({"attributes", "updated_at"})
_OPTIONAL_ITEM_FIELDS = ("description", "brand", "price", "currency", "in_stock", "image_uri")
