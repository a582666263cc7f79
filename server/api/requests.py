"""Requests, validated: every field is either served or refused by name, and every fault is reported at once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn

from corpus.errors import InputError, NotImplementedField
from corpus.events import EventType, HistoryEvent
from corpus.queries import normalize_query
from server.api.conditions import read_facets, read_filter
from server.api.identifiers import check_identifier
from server.api.messages import EVENT_TYPES, Timestamped, moment
from server.api.status import Violation
from server.api.wish_requests import read_category, read_item_ids, read_labels, read_spelling, read_wishes
from server.config import ServerConfig
from server.histories.contract import ShopperEvent
from server.pb.tandem.search.v1 import search_pb2
from server.stages.ranking import SearchTask

MAX_CONTEXT_EVENTS = 200
MAX_CLOCK_SKEW = timedelta(minutes=5)
MAX_OFFSET = 2**31 - 1
MAX_VIOLATIONS = 20  # in one error, which travels in the trailers of the call: at most 8 KB

# what this version serves; any other field of these messages is refused by its name
SERVED = {
    "SearchRequest": frozenset(
        {
            "query",
            "user_id",
            "user_context",
            "visitor_id",
            "page_size",
            "page_token",
            "offset",
            "filter",
            "order_by",
            "facet_specs",
            "boost_specs",
            "diversity",
            "min_purchase_probability",
            "labels",
            "session_id",
            "spell_correction",
            "similar_to_item_id",
            "page_category",
            "explain",
            "params",
            "read_mask",
            "pins",
            "excluded_item_ids",
        }
    ),
    "SearchParams": frozenset({"retrieval_depth", "rerank_depth", "exact"}),
}
SERVED_TYPES = frozenset({EventType.SEARCH, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE})
ITEM_FIELDS = frozenset(search_pb2.Item.DESCRIPTOR.fields_by_name)


class InvalidRequest(InputError):
    """A request breaks one or more rules.

    Args:
        violations: All of them.
    """

    def __init__(self, violations: list[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations[:3]), field=violations[0].field)
        self.violations = violations[:MAX_VIOLATIONS]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCall:
    """A validated search with the page wanted."""

    task: SearchTask
    page_size: int
    page_token: str | None
    offset: int
    item_fields: frozenset[str]  # of Item
    labels: dict[str, str]  # the caller's own marks, for the log
    digest: bytes  # of everything but labels and paging fields: equal for all pages of one search


class _Limits(NamedTuple):
    low: int
    high: int
    default: int


class _Faults:
    """Gathers the faults of one request."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        self._violations.append(Violation(field=field, description=description))

    def check(self) -> None:
        if self._violations:
            raise InvalidRequest(self._violations)


def read_search(request: search_pb2.SearchRequest, config: ServerConfig, *, now: datetime) -> SearchCall:
    """Validate a search.

    Args:
        request: As received.
        config: Defaults and limits.
        now: The time of the request, timezone-aware.
    Raises:
        NotImplementedField: If a field is set that this version does not serve.
        InvalidRequest: If any field breaks its rule; all such fields are named.
    """
    refuse_unserved(request)
    if request.HasField("params"):
        refuse_unserved(request.params, prefix="params.")
    faults = _Faults()
    similar_to = _identifier(request, "similar_to_item_id", "", faults)
    needs_query = not (request.HasField("similar_to_item_id") or request.page_category)
    query = _query(request.query, "query", faults) if request.query.strip() or needs_query else ""
    shopper = _shopper(request, "", faults)
    events = None
    if request.HasField("user_context"):
        if request.HasField("user_id") or request.HasField("visitor_id"):
            faults.add("user_context", "expected either user_context or ids of the shopper, got both; leave one out")
        events = _context(request.user_context.events, faults, now=now)
    page_size = _within(request, "page_size", _Limits(1, config.max_page_size, config.default_page_size), faults)
    offset = _within(request, "offset", _Limits(0, MAX_OFFSET, 0), faults)
    retrieval_depth = _Limits(1, config.max_retrieval_depth, config.retrieval_depth)
    rerank_depth = _Limits(0, config.max_rerank_depth, config.rerank_depth)
    task = SearchTask(
        query=query,
        spelling=read_spelling(request.spell_correction, faults.add),
        similar_to=similar_to,
        category=read_category(request.page_category, faults.add),
        shopper=shopper,
        session=_identifier(request, "session_id", "", faults),
        events=events,
        retrieval_depth=_within(request.params, "retrieval_depth", retrieval_depth, faults, prefix="params."),
        rerank_depth=_within(request.params, "rerank_depth", rerank_depth, faults, prefix="params."),
        filter=read_filter(request.filter, config, faults.add),
        facets=read_facets(request.facet_specs, config, faults.add),
        excluded=read_item_ids(
            request.excluded_item_ids, "excluded_item_ids", most=config.max_excluded_items, add_fault=faults.add
        ),
        wishes=read_wishes(request, config, faults.add, page_size=page_size, offset=offset),
        exact=request.params.exact,
        explain=request.explain,
    )
    # an empty token is what the last page brings, and what a client sends that copies fields blindly
    page_token = request.page_token or None
    if page_token is not None and request.HasField("offset"):
        faults.add("offset", "expected either offset or page_token, got both; leave one out")
    item_fields = _item_fields(request.read_mask.paths, faults)
    labels = read_labels(request.labels, config, faults.add)
    faults.check()
    return SearchCall(
        task=task,
        page_size=page_size,
        page_token=page_token,
        offset=offset,
        item_fields=item_fields,
        labels=labels,
        digest=_digest(request),
    )


def read_events(
    request: search_pb2.RecordEventsRequest, config: ServerConfig, *, now: datetime
) -> tuple[ShopperEvent, ...]:
    """Validate events to be remembered.

    Args:
        request: As received.
        config: Limits.
        now: The time of the request, which events without a time are given.
    Raises:
        NotImplementedField: If an event is of a type that this version does not record.
        InvalidRequest: If there are too few or too many, or any breaks a rule; none may be written then.
    """
    faults = _Faults()
    n_events = len(request.events)
    if not 1 <= n_events <= config.max_events_per_request:
        faults.add("events", f"expected 1 to {config.max_events_per_request} events, got {n_events}; split the call")
        faults.check()
    events = [
        _event(event, f"events[{number}].", faults, now=now, ttl=timedelta(days=config.history_ttl_days))
        for number, event in enumerate(request.events)
    ]
    faults.check()
    return tuple(event for event in events if event is not None)


def refuse_unserved(message: Any, *, prefix: str = "") -> None:  # noqa: ANN401 - any generated message
    """Refuse a message in which a field is set that this version does not serve.

    Raises:
        NotImplementedField: If there is one.
    """
    served = SERVED[message.DESCRIPTOR.name]
    for descriptor, _ in message.ListFields():
        if descriptor.name not in served:
            _unserved(prefix + descriptor.name)


def _unserved(field: str) -> NoReturn:
    raise NotImplementedField(f"{field} is not served by this version; leave it out", field=field)


def _query(text: str, field: str, faults: _Faults) -> str:
    try:
        return normalize_query(text)
    except InputError as exc:
        faults.add(field, str(exc))
        return ""


def _shopper(message: Any, prefix: str, faults: _Faults) -> str | None:  # noqa: ANN401 - several messages
    """Return the key of the history: the user's, else the visitor's."""
    user_id = _identifier(message, "user_id", prefix, faults)
    visitor_id = _identifier(message, "visitor_id", prefix, faults)
    if user_id is not None:
        return f"user:{user_id}"
    return None if visitor_id is None else f"visitor:{visitor_id}"


def read_shoppers(message: Any) -> tuple[str, ...]:  # noqa: ANN401 - several messages
    """Return the keys of all histories that a message's ``user_id`` and ``visitor_id`` name.

    Raises:
        InvalidRequest: If an id breaks its rule.
    """
    faults = _Faults()
    user_id, visitor_id = (_identifier(message, name, "", faults) for name in ("user_id", "visitor_id"))
    faults.check()
    named = (("user", user_id), ("visitor", visitor_id))
    return tuple(f"{kind}:{value}" for kind, value in named if value is not None)


def _identifier(message: Any, name: str, prefix: str, faults: _Faults) -> str | None:  # noqa: ANN401
    """Return an optional id, None if it is absent or at fault."""
    if not message.HasField(name):
        return None
    value: str = getattr(message, name)
    return value if check_identifier(value, prefix + name, faults.add) else None


def _within(message: Any, name: str, limits: _Limits, faults: _Faults, *, prefix: str = "") -> int:  # noqa: ANN401
    if not message.HasField(name):
        return limits.default
    value: int = getattr(message, name)
    if not limits.low <= value <= limits.high:
        faults.add(prefix + name, f"expected {limits.low} to {limits.high}, got {value}")
    return value


def _item_fields(paths: Iterable[str], faults: _Faults) -> frozenset[str]:
    wanted = frozenset(paths)
    unknown = wanted - ITEM_FIELDS - {"*"}
    if unknown:
        faults.add(
            "read_mask", f"expected fields of Item ({', '.join(sorted(ITEM_FIELDS))}), got {len(unknown)} others"
        )
    return ITEM_FIELDS if not wanted or "*" in wanted else wanted | {"item_id"}


def _digest(request: search_pb2.SearchRequest) -> bytes:
    kept = search_pb2.SearchRequest()
    kept.CopyFrom(request)
    for name in ("page_size", "page_token", "offset", "labels"):
        kept.ClearField(name)
    return hashlib.sha256(kept.SerializeToString(deterministic=True)).digest()


def _context(events: Iterable[search_pb2.HistoryEvent], faults: _Faults, *, now: datetime) -> tuple[HistoryEvent, ...]:
    """Validate the history that a search brings; newest first."""
    given = list(events)
    if len(given) > MAX_CONTEXT_EVENTS:
        faults.add(
            "user_context.events", f"expected at most {MAX_CONTEXT_EVENTS} events, got {len(given)}; send the newest"
        )
        return ()
    history = []
    for number, event in enumerate(given):
        prefix = f"user_context.events[{number}]."
        kind = _event_type(event, prefix, faults)
        item_id, query = _subject(event, kind, prefix, faults)
        timestamp = _timestamp(event, prefix, faults, now=now)
        if kind is not None:
            history.append(HistoryEvent(timestamp=timestamp, type=kind, item_id=item_id, query=query))
    return tuple(sorted(history, key=lambda event: event.timestamp, reverse=True))  # stable: ties stay as given


def _event(
    event: search_pb2.UserEvent, prefix: str, faults: _Faults, *, now: datetime, ttl: timedelta
) -> ShopperEvent | None:
    kind = _event_type(event, prefix, faults)
    item_id, query = _subject(event, kind, prefix, faults)
    timestamp = _timestamp(event, prefix, faults, now=now)
    if timestamp <= now - ttl:
        faults.add(prefix + "timestamp", f"expected a time of the last {ttl.days} days, which histories cover")
    shopper = _shopper(event, prefix, faults)
    if shopper is None and not (event.HasField("user_id") or event.HasField("visitor_id")):
        faults.add(prefix + "user_id", "expected user_id or visitor_id, got neither")
    if event.HasField("position") and event.position < 1:
        faults.add(prefix + "position", f"expected a rank from 1, got {event.position}")
    if event.HasField("quantity") and event.quantity < 1:
        faults.add(prefix + "quantity", f"expected 1 or more, got {event.quantity}")
    if event.HasField("price") and not 0 <= event.price < float("inf"):
        faults.add(prefix + "price", f"expected a price of 0 or more, got {event.price}")
    session_id = _identifier(event, "session_id", prefix, faults)
    search_id = _identifier(event, "search_id", prefix, faults)
    if kind is None or shopper is None:
        return None
    both = event.HasField("user_id") and event.HasField("visitor_id")
    return ShopperEvent(
        shopper=shopper,
        also=f"visitor:{event.visitor_id}" if both else None,
        timestamp=timestamp,
        type=kind,
        item_id=item_id,
        query=query,
        session_id=session_id,
        search_id=search_id,
        position=event.position if event.HasField("position") else None,
        price=event.price if event.HasField("price") else None,
        quantity=event.quantity if event.HasField("quantity") else None,
    )


def _event_type(event: Any, prefix: str, faults: _Faults) -> EventType | None:  # noqa: ANN401 - two messages
    kind = EVENT_TYPES.get(event.type)
    if kind is None:
        faults.add(prefix + "type", f"expected a type of EventType, got {event.type}")
    elif kind not in SERVED_TYPES:
        field = f"{prefix}type"
        raise NotImplementedField(f"{field}: events of type {kind} are not served by this version", field=field)
    return kind


def _subject(
    event: Any,  # noqa: ANN401 - two messages
    kind: EventType | None,
    prefix: str,
    faults: _Faults,
) -> tuple[str | None, str | None]:
    """Return item and query of an event: a search has a query, any other event an item."""
    query = _query(event.query, prefix + "query", faults) if event.HasField("query") else None
    item_id = _identifier(event, "item_id", prefix, faults)
    if kind is EventType.SEARCH:
        if not event.HasField("query"):
            faults.add(prefix + "query", "expected the query of the search, got none")
    elif kind is not None and not event.HasField("item_id"):
        faults.add(prefix + "item_id", f"expected the item of the {kind}, got none")
    return item_id, query


def _timestamp(event: Timestamped, prefix: str, faults: _Faults, *, now: datetime) -> datetime:
    """Return when an event happened: now, if it does not say or is at fault."""
    if not event.HasField("timestamp"):
        return now
    try:
        timestamp = moment(event.timestamp)
    except (ValueError, OverflowError):
        faults.add(prefix + "timestamp", "expected a time of the years 1 to 9999, got none of them")
        return now
    if timestamp > now + MAX_CLOCK_SKEW:
        faults.add(prefix + "timestamp", "expected a time that is not in the future, got one; check the clock")
        return now
    return timestamp.astimezone(UTC)
