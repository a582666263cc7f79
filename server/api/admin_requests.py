"""Requests of operators, validated: every fault is reported at once."""

import math
from collections.abc import Iterable, Sequence
from itertools import chain

from corpus.catalogue import clean_items
from corpus.cleaning import clean_text, is_blank
from corpus.items import Item
from server.api.identifiers import MAX_ID_CHARACTERS
from server.api.messages import item_of
from server.api.requests import InvalidRequest
from server.api.status import Violation
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2

MAX_TEXT_CHARACTERS = 65_536  # of any one field
MAX_REASON_CHARACTERS = 512
MAX_NAMED = 10  # bundles, in an error


def read_upserts(request: search_pb2.UpsertItemsRequest, config: ServerConfig) -> list[Item]:
    """Validate and clean items to be added or replaced, as ``tandem prepare`` would.

    Raises:
        InvalidRequest: If there are too few or too many, or any breaks a rule; none may be taken then.
    """
    _check_number("items", len(request.items), config)
    faults = _repeated("items[{}].item_id", [item.item_id for item in request.items])
    for number, item in enumerate(request.items):
        faults += _faults_of(item, f"items[{number}].")
    if faults:
        raise InvalidRequest(faults)
    return clean_items(map(item_of, request.items))


def read_deletions(request: search_pb2.DeleteItemsRequest, config: ServerConfig) -> list[str]:
    """Validate ids to be removed.

    Raises:
        InvalidRequest: If there are too few or too many, or any breaks a rule.
    """
    _check_number("item_ids", len(request.item_ids), config)
    found = (_id_faults(item_id, f"item_ids[{number}]") for number, item_id in enumerate(request.item_ids))
    faults = list(chain.from_iterable(found))
    if faults:
        raise InvalidRequest(faults)
    return list(dict.fromkeys(request.item_ids))


def read_activation(request: search_pb2.ActivateVersionRequest, finished: Sequence[str]) -> tuple[str, str | None]:
    """Validate which bundle to serve; return it, and why the release gate is not asked.

    Args:
        request: As received.
        finished: Names of the bundles that there are.
    Raises:
        InvalidRequest: If there is no such bundle, or the reason is empty or too long.
    """
    faults = []
    if request.version not in finished:
        expected = f"expected one of {', '.join(finished[-MAX_NAMED:]) or 'no bundle yet'}, got another name"
        faults.append(Violation(field="version", description=f"{expected}; ListVersions has them all"))
    reason = clean_text(request.reason) if request.HasField("reason") else None
    if reason is not None and (is_blank(reason) or len(reason) > MAX_REASON_CHARACTERS):
        expected = f"expected 1 to {MAX_REASON_CHARACTERS} characters, got {len(reason):,}"
        faults.append(Violation(field="reason", description=expected))
    if faults:
        raise InvalidRequest(faults)
    return request.version, reason


def _check_number(field: str, n: int, config: ServerConfig) -> None:
    if not 1 <= n <= config.max_items_per_update:
        expected = f"expected 1 to {config.max_items_per_update}, got {n}; split the call"
        raise InvalidRequest([Violation(field=field, description=expected)])


def _repeated(pattern: str, item_ids: Sequence[str]) -> list[Violation]:
    first: dict[str, int] = {}
    return [
        Violation(field=pattern.format(number), description=f"expected each item once, got that of items[{earlier}]")
        for number, item_id in enumerate(item_ids)
        if (earlier := first.setdefault(item_id, number)) != number
    ]


def _faults_of(item: search_pb2.Item, prefix: str) -> list[Violation]:
    faults = _id_faults(item.item_id, f"{prefix}item_id")
    if is_blank(clean_text(item.title)):
        faults.append(Violation(field=f"{prefix}title", description="expected a visible character, got none"))
    if item.HasField("price") and not (math.isfinite(item.price) and item.price >= 0):
        faults.append(Violation(field=f"{prefix}price", description=f"expected 0 or more, got {item.price}"))
    for name, text in _texts(item):
        if len(text) > MAX_TEXT_CHARACTERS:
            expected = f"expected at most {MAX_TEXT_CHARACTERS:,} characters, got {len(text):,}"
            faults.append(Violation(field=prefix + name, description=expected))
    if item.HasField("updated_at"):
        try:
            item.updated_at.ToDatetime()
        except (ValueError, OverflowError):
            expected = "expected a time of the years 1 to 9999, got none of them"
            faults.append(Violation(field=f"{prefix}updated_at", description=expected))
    return faults


def _texts(item: search_pb2.Item) -> Iterable[tuple[str, str]]:
    yield from ((name, getattr(item, name)) for name in ("title", "description", "brand", "currency", "image_uri"))
    yield "category", "".join(item.category)
    for name, entry in item.attributes.items():
        yield "attributes", name + "".join(entry.values)


def _id_faults(item_id: str, field: str) -> list[Violation]:
    if 1 <= len(item_id) <= MAX_ID_CHARACTERS and item_id.isprintable() and item_id == item_id.strip():
        return []
    what = "unprintable ones or spaces around" if 1 <= len(item_id) <= MAX_ID_CHARACTERS else f"{len(item_id):,}"
    expected = f"expected 1 to {MAX_ID_CHARACTERS} printable characters, got {what}"
    return [Violation(field=field, description=expected)]
