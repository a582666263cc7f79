"""Requests of the smaller calls, validated: every fault is reported at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from corpus.cleaning import clean_text, is_blank
from corpus.errors import InputError
from corpus.queries import MAX_QUERY_CHARACTERS, normalize_query
from server.api.identifiers import MAX_ID_CHARACTERS
from server.api.requests import InvalidRequest, read_search, read_shoppers
from server.api.status import Violation
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2
from server.stages.ranking import SearchTask

MAX_ITEM_TEXT_CHARACTERS = 8192  # of a text to embed: more than any tower reads


class Role(StrEnum):
    """Which tower reads a text."""

    QUERY = "query"
    ITEM = "item"


ROLES = {search_pb2.EMBED_ROLE_QUERY: Role.QUERY, search_pb2.EMBED_ROLE_ITEM: Role.ITEM}


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankCall:
    """Validated items to order."""

    task: SearchTask
    item_ids: tuple[str, ...]  # distinct


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestCall:
    """A validated beginning to complete."""

    typed: str  # normalised as queries are; a space at its end says that the last word is whole
    page_size: int
    shopper: str | None  # key of the history store


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """Validated texts to embed."""

    texts: tuple[str, ...]  # as the tower is given them
    role: Role


def read_rerank(request: search_pb2.RerankRequest, config: ServerConfig, *, now: datetime) -> RerankCall:
    """Validate items to order.

    Args:
        request: As received.
        config: Limits.
        now: The time of the request, timezone-aware.
    Raises:
        InvalidRequest: If any field breaks its rule; all such fields are named.
    """
    search = search_pb2.SearchRequest(query=request.query)
    for name in ("user_id", "visitor_id"):
        if request.HasField(name):
            setattr(search, name, getattr(request, name))
    if request.HasField("user_context"):
        search.user_context.CopyFrom(request.user_context)
    n_items, faults = len(request.item_ids), []
    if not 1 <= n_items <= config.max_reranked_items:
        expected = f"expected 1 to {config.max_reranked_items}, got {n_items}"
        faults.append(Violation(field="item_ids", description=expected))
    else:
        for number, item_id in enumerate(request.item_ids):
            if not 1 <= len(item_id) <= MAX_ID_CHARACTERS:
                expected = f"expected 1 to {MAX_ID_CHARACTERS} characters, got {len(item_id):,}"
                faults.append(Violation(field=f"item_ids[{number}]", description=expected))
    try:
        call = read_search(search, config, now=now)  # query and shopper obey a search's rules
    except InvalidRequest as exc:
        raise InvalidRequest([*exc.violations, *faults]) from exc
    if faults:
        raise InvalidRequest(faults)
    return RerankCall(task=call.task, item_ids=tuple(dict.fromkeys(request.item_ids)))


def read_suggest(request: search_pb2.SuggestRequest, config: ServerConfig) -> SuggestCall:
    """Validate a beginning to complete.

    Raises:
        InvalidRequest: If any field breaks its rule; all such fields are named.
    """
    faults: list[Violation] = []
    if len(request.query) > MAX_QUERY_CHARACTERS:
        expected = f"expected at most {MAX_QUERY_CHARACTERS} characters, got {len(request.query):,}"
        faults.append(Violation(field="query", description=expected))
    size = request.page_size if request.HasField("page_size") else config.default_suggestions
    if not 1 <= size <= config.max_suggestions:
        expected = f"expected 1 to {config.max_suggestions}, got {size}"
        faults.append(Violation(field="page_size", description=expected))
    shoppers: tuple[str, ...] = ()
    try:
        shoppers = read_shoppers(request)
    except InvalidRequest as exc:
        faults += exc.violations
    if faults:
        raise InvalidRequest(faults)
    typed = clean_text(request.query, lower=True)
    is_whole = request.query[-1:].isspace() and typed
    return SuggestCall(
        typed=f"{typed} " if is_whole else typed, page_size=size, shopper=shoppers[0] if shoppers else None
    )


def read_embed(request: search_pb2.EmbedRequest, config: ServerConfig) -> EmbedCall:
    """Validate texts to embed.

    Raises:
        InvalidRequest: If any field breaks its rule; all such fields are named.
    """
    role, n_texts = ROLES.get(request.role), len(request.texts)
    faults = []
    if role is None:
        expected = f"expected EMBED_ROLE_QUERY or EMBED_ROLE_ITEM, got {request.role}"
        faults.append(Violation(field="role", description=expected))
    if not 1 <= n_texts <= config.max_embedded_texts:
        expected = f"expected 1 to {config.max_embedded_texts}, got {n_texts}; split the call"
        faults.append(Violation(field="texts", description=expected))
        raise InvalidRequest(faults)
    texts = []
    for number, text in enumerate(request.texts):
        try:
            texts.append(_item_text(text) if role is Role.ITEM else normalize_query(text))
        except InputError as exc:
            faults.append(Violation(field=f"texts[{number}]", description=str(exc)))
    if faults or role is None:
        raise InvalidRequest(faults)
    return EmbedCall(texts=tuple(texts), role=role)


def read_deleted_shoppers(request: search_pb2.DeleteUserRequest) -> Sequence[str]:
    """Validate whom to forget; return the keys of the histories.

    Raises:
        InvalidRequest: If nobody is named, or an id breaks its rule.
    """
    shoppers = read_shoppers(request)
    if not shoppers:
        expected = "expected user_id, visitor_id or both, got neither"
        raise InvalidRequest([Violation(field="user_id", description=expected)])
    return shoppers


def check_batch(request: search_pb2.BatchSearchRequest, config: ServerConfig) -> None:
    """Refuse a batch of too many searches, or of none; what each of them says is its own matter.

    Raises:
        InvalidRequest: If it is one.
    """
    n_searches = len(request.requests)
    if not 1 <= n_searches <= config.max_batch_searches:
        expected = f"expected 1 to {config.max_batch_searches}, got {n_searches}; split the call"
        raise InvalidRequest([Violation(field="requests", description=expected)])


def _item_text(text: str) -> str:
    if len(text) > MAX_ITEM_TEXT_CHARACTERS:
        raise InputError(f"expected at most {MAX_ITEM_TEXT_CHARACTERS:,} characters, got {len(text):,}; shorten it")
    cleaned = clean_text(text)
    if is_blank(cleaned):
        raise InputError("expected a text with at least one visible character, got none")
    return cleaned
