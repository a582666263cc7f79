"""A typed client.

>>> with TandemClient("127.0.0.1:50051") as client:                                     # doctest: +SKIP
...     for hit in client.search("trail running shoes", user_id="ada").results:
...         print(hit.rank, hit.item.title, hit.score)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from corpus.events import Event, HistoryEvent
from corpus.items import Item
from retrieval.event_log.suggestions import Suggestion
from retrieval.filtering.facets import Facet, FacetSpec
from retrieval.filtering.filters import Filter, render
from server.access.credentials import PLAIN, Credentials
from server.api.messages import facets_of, history_message, item_of, user_event_message
from server.client.answers import (
    ROLE_NUMBERS,
    FailedSearch,
    RerankResponse,
    embeddings_of,
    failed_search,
    rerank_response,
    suggestions_of,
)
from server.client.connection import Connection
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.stages.explanations import Contribution
from server.stages.wishes import Boost, Pin


class Variety(TypedDict, total=False):
    """How varied results are; see ``DiversitySpec`` of the API."""

    strength: float  # from 0 to 1
    max_per_brand: int  # results of one brand on a page
    max_per_category: int


class SearchOptions(TypedDict, total=False):
    """What may be said about a search besides its query."""

    user_id: str | None  # the shopper whose recorded events are the history
    visitor_id: str | None  # the browser or device, whose events are the history if there is no user
    events: Sequence[HistoryEvent] | None  # the history itself, instead of ids; newest first where times are equal
    page_size: int | None  # results wanted; the server's default is 10
    page_token: str | None  # of the page before; everything else but page_size as it was then
    offset: int | None  # results to skip
    retrieval_depth: int | None  # candidates to find
    rerank_depth: int | None  # most candidates to be reranked; 0 for the order of retrieval
    filter: str | Filter | None  # what results must meet, as text or as a value of ``retrieval.filtering.filters``
    facets: Sequence[str | FacetSpec]  # what to count; a field alone is counted with the server's limit
    order_by: str  # "relevance", "price", "price desc" or "newest"
    boosts: Sequence[Boost]  # conditions that lift or bury
    pins: Sequence[Pin]  # items at ranks of their own
    excluded_item_ids: Sequence[str]  # items never to be returned
    diversity: Variety  # how varied the results are
    min_purchase_probability: float  # leave out what is less likely to be bought
    exact: bool  # compare with every vector instead of searching an approximate index
    spell_correction: Literal["off", "suggest", "auto"]  # absent: words alone are looked up corrected
    similar_to_item_id: str  # an item whose like is wanted; the query may be empty then
    page_category: Sequence[str]  # root first, within which to find; the query may be empty then
    session_id: str  # the visit, whose events come first in the history
    labels: Mapping[str, str]  # your own marks, which the server's log shows
    explain: bool  # tell for every result what made up its score; takes time
    item_fields: Sequence[str]  # fields of Item to fetch besides its id; empty for all
    timeout_s: float | None  # deadline of this call


class ShopperIds(TypedDict, total=False):
    """Who asks; see ``SearchOptions``."""

    user_id: str | None
    visitor_id: str | None


class ShopperOptions(ShopperIds, total=False):
    """Who asks, and how long to wait; see ``SearchOptions``."""

    events: Sequence[HistoryEvent] | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """One item that was found."""

    item: Item
    rank: int  # from 1, counted over all pages
    score: float  # what the ranking is ordered by; higher is better, as for all scores
    retrieval_score: float | None
    dense_score: float | None
    lexical_score: float | None  # None: no word of the query matched
    behaviour_score: float | None  # None: no logged search like this one led to it
    rerank_score: float | None  # None: the cross-encoder did not read the item
    click_probability: float | None  # None, as for the two below: not read, or nothing to tell it from
    cart_probability: float | None
    purchase_probability: float | None
    explanation: tuple[Contribution, ...] = ()  # what made up the score, strongest first; empty unless asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResponse:
    """One page of an answer."""

    results: tuple[SearchResult, ...]
    total_size: int  # of the ranking that pages are cut from
    next_page_token: str  # empty on the last page
    search_id: str  # to be given back in the events that the answer leads to
    index_version: str
    model_versions: dict[str, str]  # stage → fingerprint
    degraded: tuple[str, ...]  # what the answer lacks, in words
    stage_timings_ms: dict[str, float]  # stage → wall-clock milliseconds
    facets: tuple[Facet, ...] = ()  # in the order asked for
    corrected_query: str = ""  # what was searched, or could be, instead of a misspelt query
    no_match: bool = False  # nothing is as likely to be bought as was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEventsResponse:
    """What became of events."""

    n_recorded: int
    n_already_known: int
    unknown_item_ids: tuple[str, ...]  # kept; they count once the catalogue that is served has them


class TandemClient(Connection):
    """Searches, and records what shoppers do."""

    def __init__(self, address: str, *, timeout_s: float = 5.0, credentials: Credentials = PLAIN) -> None:
        """Connect when first needed.

        Args:
            address: Such as ``127.0.0.1:50051``.
            timeout_s: Deadline of each call, unless the call names its own.
            credentials: Key and certificates.
        Raises:
            ConfigError: If a file that the credentials name cannot be read.
        """
        super().__init__(address, timeout_s=timeout_s, credentials=credentials)
        self._stub: Any = search_pb2_grpc.SearchServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def search(self, query: str, **options: Unpack[SearchOptions]) -> SearchResponse:
        """Search.

        Args:
            query: What the shopper typed.
            **options: See ``SearchOptions``; all may be left out.
        Raises:
            TandemError: Of the type that the server raised.
        """
        return _response(self._call(self._stub.Search, self._request(query, options), options.get("timeout_s")))

    def _request(self, query: str, options: SearchOptions) -> search_pb2.SearchRequest:
        request = search_pb2.SearchRequest(
            query=query,
            user_id=options.get("user_id"),
            visitor_id=options.get("visitor_id"),
            page_size=options.get("page_size"),
            page_token=options.get("page_token"),
            offset=options.get("offset"),
        )
        events = options.get("events")
        if events is not None:
            request.user_context.SetInParent()  # present even if empty: a shopper known to have no history
            request.user_context.events.extend(history_message(event) for event in events)
        retrieval_depth, rerank_depth = options.get("retrieval_depth"), options.get("rerank_depth")
        if retrieval_depth is not None:
            request.params.retrieval_depth = retrieval_depth
        if rerank_depth is not None:
            request.params.rerank_depth = rerank_depth
        wanted = options.get("filter")
        if wanted is not None:
            request.filter = wanted if isinstance(wanted, str) else render(wanted)
        request.facet_specs.extend(_facet_message(facet) for facet in options.get("facets", ()))
        _set_wishes(request, options)
        request.read_mask.paths.extend(options.get("item_fields", ()))
        return request

    def suggest(
        self, typed: str, *, page_size: int | None = None, **shopper: Unpack[ShopperIds]
    ) -> tuple[Suggestion, ...]:
        """Complete what is being typed; best first.

        Args:
            typed: So far, also nothing; a space at its end says that the last word is whole.
            page_size: Suggestions wanted; the server's default is 10.
            **shopper: Whose own searches come first.
        Raises:
            TandemError: Of the type that the server raised.
        """
        request = search_pb2.SuggestRequest(query=typed, page_size=page_size, **shopper)
        return suggestions_of(self._call(self._stub.Suggest, request, None))

    def batch_search(
        self, searches: Sequence[tuple[str, SearchOptions]], *, timeout_s: float | None = None
    ) -> tuple[SearchResponse | FailedSearch, ...]:
        """Search several times in one call.

        Args:
            searches: Queries, each with what else is said of it; at most 20. Their own ``timeout_s`` does not count.
            timeout_s: Deadline of this call, which they share.
        Raises:
            TandemError: Of the type that the server raised, if none is answered.
        """
        request = search_pb2.BatchSearchRequest(requests=[self._request(query, options) for query, options in searches])
        response = self._call(self._stub.BatchSearch, request, timeout_s)
        return tuple(
            _response(result.response) if result.HasField("response") else failed_search(result.error)
            for result in response.results
        )

    def rerank(self, query: str, item_ids: Sequence[str], **options: Unpack[ShopperOptions]) -> RerankResponse:
        """Order given items for a query and a shopper.

        Args:
            query: What the shopper typed.
            item_ids: At most 200.
            **options: See ``ShopperOptions``; all may be left out.
        Raises:
            TandemError: Of the type that the server raised.
        """
        request = search_pb2.RerankRequest(
            query=query, item_ids=item_ids, user_id=options.get("user_id"), visitor_id=options.get("visitor_id")
        )
        events = options.get("events")
        if events is not None:
            request.user_context.SetInParent()
            request.user_context.events.extend(history_message(event) for event in events)
        return rerank_response(self._call(self._stub.Rerank, request, options.get("timeout_s")))

    def embed(
        self, texts: Sequence[str], role: Literal["query", "item"], *, timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: At most 100.
            role: As what they are read.
            timeout_s: Deadline of this call.
        Returns:
            float32 (n, dim), L2-normalised.
        Raises:
            TandemError: Of the type that the server raised.
        """
        request = search_pb2.EmbedRequest(texts=texts, role=ROLE_NUMBERS[role])
        return embeddings_of(self._call(self._stub.Embed, request, timeout_s))

    def delete_user(
        self, *, user_id: str | None = None, visitor_id: str | None = None, timeout_s: float | None = None
    ) -> int:
        """Forget everything that is remembered of a shopper.

        Args:
            user_id: The shopper who signed in.
            visitor_id: The browser or device. One of the two is required; given both, both are forgotten.
            timeout_s: Deadline of this call.
        Returns:
            How many events were removed.
        Raises:
            TandemError: Of the type that the server raised; calling again does no harm.
        """
        request = search_pb2.DeleteUserRequest(user_id=user_id, visitor_id=visitor_id)
        return int(self._call(self._stub.DeleteUser, request, timeout_s).n_deleted)

    def record_events(
        self, events: Sequence[Event], *, visitor_id: str | None = None, timeout_s: float | None = None
    ) -> RecordEventsResponse:
        """Write events; when this returns they are on the server's disk.

        Args:
            events: At most 100.
            visitor_id: The browser or device; required for events without a ``user_id``.
            timeout_s: Deadline of this call.
        Raises:
            TandemError: Of the type that the server raised; no event is written then.
        """
        request = search_pb2.RecordEventsRequest(events=[user_event_message(event, visitor_id) for event in events])
        response = self._call(self._stub.RecordEvents, request, timeout_s)
        return RecordEventsResponse(
            n_recorded=response.n_recorded,
            n_already_known=response.n_already_known,
            unknown_item_ids=tuple(response.unknown_item_ids),
        )


def _response(message: search_pb2.SearchResponse) -> SearchResponse:
    return SearchResponse(
        results=tuple(
            SearchResult(
                item=item_of(result.item),
                rank=result.rank,
                score=result.score,
                retrieval_score=_optional(result, "retrieval_score"),
                dense_score=_optional(result, "dense_score"),
                lexical_score=_optional(result, "lexical_score"),
                behaviour_score=_optional(result, "behaviour_score"),
                rerank_score=_optional(result, "rerank_score"),
                click_probability=_optional(result, "click_probability"),
                cart_probability=_optional(result, "cart_probability"),
                purchase_probability=_optional(result, "purchase_probability"),
                explanation=tuple(
                    Contribution(name=part.name, value=part.value, description=part.description)
                    for part in result.explanation.contributions
                ),
            )
            for result in message.results
        ),
        total_size=message.total_size,
        next_page_token=message.next_page_token,
        search_id=message.search_id,
        index_version=message.index_version,
        model_versions={
            "retriever": message.model_versions.retriever,
            "reranker": message.model_versions.reranker,
            "blend": message.model_versions.blend,
        },
        degraded=tuple(degradation.message for degradation in message.degraded),
        stage_timings_ms={timing.stage: timing.duration_ms for timing in message.stage_timings},
        facets=facets_of(message.facets),
        corrected_query=message.corrected_query,
        no_match=message.no_match,
    )


def _optional(result: search_pb2.SearchResult, name: Any) -> float | None:  # noqa: ANN401 - a literal of the stubs
    return getattr(result, name) if result.HasField(name) else None


def _facet_message(facet: str | FacetSpec) -> search_pb2.FacetSpec:
    if isinstance(facet, str):
        return search_pb2.FacetSpec(field=facet)
    return search_pb2.FacetSpec(
        field=facet.field,
        limit=facet.limit,
        interval_bounds=facet.interval_bounds,
        excluded_filter_keys=facet.excluded_filter_keys,
    )


def _set_wishes(request: search_pb2.SearchRequest, options: SearchOptions) -> None:
    request.order_by = options.get("order_by", "")
    for boost in options.get("boosts", ()):
        request.boost_specs.add(condition=render(boost.condition), boost=boost.boost)
    for pin in options.get("pins", ()):
        request.pins.add(item_id=pin.item_id, rank=pin.rank)
    if "diversity" in options:
        request.diversity.CopyFrom(search_pb2.DiversitySpec(**options["diversity"]))
    if "min_purchase_probability" in options:
        request.min_purchase_probability = options["min_purchase_probability"]
    if "spell_correction" in options:
        name = f"SPELL_CORRECTION_MODE_{options['spell_correction'].upper()}"
        request.spell_correction = getattr(search_pb2, name)
    if "similar_to_item_id" in options:
        request.similar_to_item_id = options["similar_to_item_id"]
    request.page_category.extend(options.get("page_category", ()))
    if "session_id" in options:
        request.session_id = options["session_id"]
    request.labels.update(options.get("labels", {}))
    if "explain" in options:
        request.explain = options["explain"]
    if "exact" in options:
        request.params.exact = options["exact"]
    request.excluded_item_ids.extend(options.get("excluded_item_ids", ()))
