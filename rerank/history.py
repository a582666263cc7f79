"""How a shopper's history is chosen, written and cut: the one place that says so.

**Chosen.** The model reads about eight events. Half of the places go to events that share words with the query
(somebody who types "running shoes" again is best described by the running shoes seen before), the rest to the most
recent ones whatever they are about, for they carry taste that has no words in common with the query: a brand, a
price level, a size. Places that relevant events leave free go to recent ones. Each item appears once, by its strongest
event (a purchase says more than the clicks before it) at its latest time; impressions say next to nothing and are
left out, and so is an earlier search of the very same words, which the input holds already.

**Written.** ``bought acme running shoe; clicked red sandal; searched sandals``, newest first. The base model knows
English words, so that a type word needs no embedding of its own, and "bought" next to a title is what it has seen in
ordinary text. The newest event stands beside the query, at positions that exist in every training input; were the
oldest first, its place would shift with the length. Titles are cut to ten words: the head names the thing, the tail
lists sizes and marketing.

**Cut.** To a budget of tokens, by whole events, the least important first; half an event is worse than none, since a
title that ends early names another thing. Only when even the most important event is too long is it cut inside.

The same function writes history for training and for serving; ``HISTORY_VERSION`` is part of a model's fingerprint.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corpus.events import EventType, HistoryEvent
from corpus.items import ItemTable

HISTORY_VERSION = 1
SEPARATOR = "; "

_WORDS = {
    EventType.SEARCH: "searched",
    EventType.CLICK: "clicked",
    EventType.ADD_TO_CART: "added",
    EventType.PURCHASE: "bought",
}
_STRENGTH = {EventType.SEARCH: 0, EventType.CLICK: 1, EventType.ADD_TO_CART: 2, EventType.PURCHASE: 3}
_TOKEN = re.compile(r"\w+")
_MAX_TITLE_WORDS = 10
_MAX_EVENTS_READ = 200  # a caller may send any number of events; older ones than this are not looked at


@dataclass(frozen=True, slots=True)
class HistoryPiece:
    """One chosen event, written."""

    text: str
    place: int  # 0 for the newest of those that were offered


def item_name(title: str, brand: str | None) -> str:
    """Return what a history calls an item; see ``item_names``."""
    return title if not brand or brand.casefold() in title.casefold() else f"{brand} {title}"


def item_names(items: ItemTable) -> Callable[[str], str | None]:
    """Return a look-up of an item's name by its id, None for unknown items.

    The name is the title, with the brand before it where the title does not hold it: taste is often taste in brands.
    """
    names = [item_name(title, brand) for title, brand in zip(items.column("title"), items.column("brand"), strict=True)]

    def name_of(item_id: str) -> str | None:
        row = items.row_of(item_id)
        return None if row is None else names[row]

    return name_of


def choose_history(
    events: Sequence[HistoryEvent], query: str, name_of: Callable[[str], str | None], *, n_events: int
) -> list[HistoryPiece]:
    """Choose and write the events that the model is to read.

    Args:
        events: Earlier events, newest first.
        query: The query that is being answered.
        name_of: An item's name by its id, None for unknown items, whose events are left out.
        n_events: How many to choose at most.
    Returns:
        The chosen events, most important first; sort by ``place`` for newest first.
    """
    if n_events == 0:
        return []
    strongest: dict[tuple[bool, str], tuple[EventType, int]] = {}  # (is a search, name) -> strongest type, place
    for place, event in enumerate(events[:_MAX_EVENTS_READ]):
        name = _name(event, name_of)
        if name is None or (event.type is EventType.SEARCH and name == query):
            continue
        key = (event.type is EventType.SEARCH, name)
        kind, newest = strongest.get(key, (event.type, place))
        strongest[key] = (max(kind, event.type, key=_STRENGTH.__getitem__), newest)
    wanted = _tokens(query)
    # relevance first, then strength; sorted() is stable, and the dictionary holds the newest first
    chosen = sorted(strongest.items(), key=lambda entry: (-_overlap(wanted, entry[0][1]), -_STRENGTH[entry[1][0]]))
    relevant = [entry for entry in chosen if _overlap(wanted, entry[0][1]) > 0][: (n_events + 1) // 2]
    taken = {key for key, _ in relevant}
    recent = [entry for entry in strongest.items() if entry[0] not in taken][: n_events - len(relevant)]
    return [HistoryPiece(f"{_WORDS[kind]} {name}", place) for (_, name), (kind, place) in relevant + recent]


def history_text(
    events: Sequence[HistoryEvent], query: str, name_of: Callable[[str], str | None], *, n_events: int
) -> str:
    """Return the chosen events as the model reads them, newest first, before the cut to a token budget."""
    pieces = choose_history(events, query, name_of, n_events=n_events)
    return SEPARATOR.join(piece.text for piece in sorted(pieces, key=lambda piece: piece.place))


def _name(event: HistoryEvent, name_of: Callable[[str], str | None]) -> str | None:
    if event.type not in _WORDS:
        return None
    if event.type is EventType.SEARCH:
        return " ".join(event.query.split()) or None if event.query else None
    name = name_of(event.item_id) if event.item_id else None
    return " ".join(name.split()[:_MAX_TITLE_WORDS]) if name else None


def _overlap(wanted: frozenset[str], name: str) -> float:
    """Share of the query's words that a name holds."""
    return len(wanted & _tokens(name)) / len(wanted) if wanted else 0.0


def _tokens(text: str) -> frozenset[str]:
    # an English plural is the same word
    return frozenset(t[:-1] if len(t) > 3 and t.endswith("s") else t for t in _TOKEN.findall(text.casefold()))
