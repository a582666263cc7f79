"""What a request asks of the order of its results, validated."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from corpus.columns import PATH_SEPARATOR
from corpus.errors import BadFilter
from retrieval.filtering.filters import And, FilterLimits
from server.api.conditions import AddFault, read_filter
from server.api.identifiers import check_identifier
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2
from server.stages.wishes import Boost, Diversity, Order, Pin, Spelling, Wishes

SPELLINGS: dict[search_pb2.SpellCorrectionMode, Spelling] = {
    search_pb2.SPELL_CORRECTION_MODE_UNSPECIFIED: Spelling.WORDS,
    search_pb2.SPELL_CORRECTION_MODE_OFF: Spelling.OFF,
    search_pb2.SPELL_CORRECTION_MODE_SUGGEST: Spelling.SUGGEST,
    search_pb2.SPELL_CORRECTION_MODE_AUTO: Spelling.AUTO,
}
MAX_LEVELS = 20  # of a category
MAX_LEVEL_CHARACTERS = 256
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")  # as Google Cloud's labels


def read_wishes(
    request: search_pb2.SearchRequest, config: ServerConfig, add_fault: AddFault, *, page_size: int, offset: int
) -> Wishes:
    """Read what is asked of the order.

    Args:
        request: As received.
        config: Limits.
        add_fault: Told what is wrong with each field.
        page_size: Results of the request's page.
        offset: Results before it.
    """
    order = _order(request.order_by, add_fault)
    return Wishes(
        order=order,
        boosts=_boosts(request.boost_specs, config, add_fault),
        pins=_pins(request.pins, config, add_fault),
        diversity=_diversity(request, order, add_fault, page_size=page_size, offset=offset),
        least_probability=_share(request, "min_purchase_probability", "", add_fault),
    )


def read_spelling(mode: search_pb2.SpellCorrectionMode, add_fault: AddFault) -> Spelling:
    """Read what becomes of a misspelt query."""
    if mode not in SPELLINGS:
        add_fault("spell_correction", f"expected a mode of SpellCorrectionMode, got {mode}")
    return SPELLINGS.get(mode, Spelling.WORDS)


def read_category(levels: Sequence[str], add_fault: AddFault) -> tuple[str, ...]:
    """Read a category's path."""
    if len(levels) > MAX_LEVELS:
        add_fault("page_category", f"expected at most {MAX_LEVELS} levels, got {len(levels)}")
        return ()
    for number, level in enumerate(levels):
        if len(level) > MAX_LEVEL_CHARACTERS or not level.replace(PATH_SEPARATOR, "").strip():
            add_fault(
                f"page_category[{number}]", f"expected a name of 1 to {MAX_LEVEL_CHARACTERS} characters, got none"
            )
    return tuple(levels)


def read_labels(labels: Mapping[str, str], config: ServerConfig, add_fault: AddFault) -> dict[str, str]:
    """Read the caller's own marks: short and of few kinds of characters, so that a log can hold them."""
    if len(labels) > config.max_labels:
        add_fault("labels", f"expected at most {config.max_labels} labels, got {len(labels)}; send fewer")
        return {}
    if not all(_LABEL.fullmatch(key) and (not value or _LABEL.fullmatch(value)) for key, value in labels.items()):
        add_fault(
            "labels",
            "expected keys and values of at most 63 characters, each a-z, 0-9, _ or -, keys not empty, got others",
        )
        return {}
    return dict(labels)


def read_item_ids(item_ids: Sequence[str], field: str, *, most: int, add_fault: AddFault) -> frozenset[str]:
    """Read a set of item ids; repetitions do no harm.

    Args:
        item_ids: As received.
        field: Where they stand.
        most: How many there may be.
        add_fault: Told what is wrong with each.
    """
    if len(item_ids) > most:
        add_fault(field, f"expected at most {most:,} items, got {len(item_ids):,}; name fewer, or use a filter")
        return frozenset()
    for number, item_id in enumerate(item_ids):
        check_identifier(item_id, f"{field}[{number}]", add_fault)
    return frozenset(item_ids)


def _diversity(
    request: search_pb2.SearchRequest, order: Order, add_fault: AddFault, *, page_size: int, offset: int
) -> Diversity | None:
    if not request.HasField("diversity"):
        return None
    wanted = request.diversity
    strength = _share(wanted, "strength", "diversity.", add_fault)
    if strength > 0 and order is not Order.RELEVANCE:
        add_fault("diversity.strength", f"expected 0 with order_by {order}, which leaves no choice; leave one out")
    most: dict[str, int | None] = {"max_per_brand": None, "max_per_category": None}
    for name in most:
        if wanted.HasField(name):
            most[name] = getattr(wanted, name)
            if getattr(wanted, name) < 1:
                add_fault(f"diversity.{name}", f"expected 1 or more, got {getattr(wanted, name)}")
    size = max(page_size, 1)  # one at fault is refused
    return Diversity(strength=strength, page_size=size, first_page=offset % size or size, **most)


def _share(message: Any, name: str, prefix: str, add_fault: AddFault) -> float:  # noqa: ANN401 - any generated message
    """Return an optional number from 0 to 1; 0 if it is absent."""
    value: float = getattr(message, name) if message.HasField(name) else 0.0
    if 0 <= value <= 1:
        return value
    add_fault(prefix + name, f"expected 0 to 1, got {'no number' if math.isnan(value) else f'{value:g}'}")
    return 0.0


def _order(text: str, add_fault: AddFault) -> Order:
    wanted = " ".join(text.split()) or Order.RELEVANCE
    try:
        return Order(wanted)
    except ValueError:
        add_fault("order_by", f"expected one of {', '.join(Order)}, got something else")
        return Order.RELEVANCE


def _boosts(specs: Sequence[search_pb2.BoostSpec], config: ServerConfig, add_fault: AddFault) -> tuple[Boost, ...]:
    if len(specs) > config.max_boosts:
        add_fault("boost_specs", f"expected at most {config.max_boosts} boosts, got {len(specs)}; join conditions")
        return ()
    boosts = []
    for number, spec in enumerate(specs):
        prefix = f"boost_specs[{number}]."
        if not spec.condition.strip():
            add_fault(prefix + "condition", "expected a condition, as in filter, got none")
        condition = read_filter(spec.condition, config, add_fault, field=prefix + "condition")
        if not -1 <= spec.boost <= 1:  # NaN, too
            got = "no number" if math.isnan(spec.boost) else f"{spec.boost:g}"
            add_fault(prefix + "boost", f"expected -1 to 1, got {got}")
        elif condition is not None:
            boosts.append(Boost(condition=condition, boost=spec.boost))
    if boosts:
        limits = FilterLimits(terms=config.max_filter_terms, depth=config.max_filter_depth + 1)  # And is a level
        try:
            limits.check(And(*(boost.condition for boost in boosts)))
        except BadFilter:
            most = config.max_filter_terms
            add_fault("boost_specs", f"expected at most {most} comparisons in all conditions, got more; shorten them")
    return tuple(boosts)


def _pins(pins: Sequence[search_pb2.Pin], config: ServerConfig, add_fault: AddFault) -> tuple[Pin, ...]:
    if len(pins) > config.max_pins:
        add_fault("pins", f"expected at most {config.max_pins} pins, got {len(pins)}; pin fewer items")
        return ()
    ranks: set[int] = set()
    items: set[str] = set()
    for number, pin in enumerate(pins):
        prefix = f"pins[{number}]."
        check_identifier(pin.item_id, prefix + "item_id", add_fault)
        if not 1 <= pin.rank <= config.max_retrieval_depth:
            add_fault(prefix + "rank", f"expected 1 to {config.max_retrieval_depth}, got {pin.rank}")
        if pin.rank in ranks:
            add_fault(prefix + "rank", f"expected one item at rank {pin.rank}, got two; leave one out")
        if pin.item_id in items:
            add_fault(prefix + "item_id", "expected an item that is pinned once, got one pinned twice; leave one out")
        ranks.add(pin.rank)
        items.add(pin.item_id)
    return tuple(Pin(item_id=pin.item_id, rank=pin.rank) for pin in pins)
