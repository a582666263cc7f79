"""A typed client.

>>> with TandemClient("127.0.0.1:50051") as client:                                     # doctest: +SKIP
...     for hit in client.search("trail running shoes", user_id="ada").results:
...         print(hit.rank, hit.item.title, hit.score)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypedDict, Unpack

import grpc
import numpy as np
import numpy.typing as npt

from corpus.errors import (
    AccessDenied,
    BadPageToken,
    DeadlineExceeded,
    InputError,
    NotImplementedField,
    Overloaded,
    TandemError,
    UpdatesRefused,
    VersionNotFound,
)
from corpus.events import Event, HistoryEvent
from corpus.items import Item
from retrieval.facets import Facet, FacetSpec
from retrieval.filters import Filter, render
from retrieval.suggestions import Suggestion
from server.client_answers import (
    ROLE_NUMBERS,
    FailedSearch,
    RerankResponse,
    embeddings_of,
    failed_search,
    rerank_response,
    suggestions_of,
)
from server.credentials import PLAIN, Credentials
from server.messages import facets_of, history_message, item_of, user_event_message
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.status import violations_of


class SearchOptions(TypedDict, total=False):
    """What may be said about a search besides its query."""

    user_id: str | None  # the shopper whose recorded events are the history
    visitor_id: str | None  # the browser or device, whose events are the history if there is no user
    events: Sequence[HistoryEvent] | None  # the history itself, instead of ids; newest first where times are equal
    page_size: int | None  # results wanted; the server's default is 10
    page_token: str | None  # of the page before; everything else but page_size as it was then
    offset: int | None  # results to skip
    retrieval_depth: int | None  # candidates to find
    rerank_depth: int | None  # candidates to rerank; 0 for the order of retrieval
    filter: str | Filter | None  # what results must meet, as text or as a value of ``retrieval.filters``
    facets: Sequence[str | FacetSpec]  # what to count; a field alone is counted with the server's limit
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEventsResponse:
    """What became of events."""

    n_recorded: int
    n_already_known: int
    unknown_item_ids: tuple[str, ...]  # kept; they count once the catalogue that is served has them


class Connection:
    """One connection to a server. Safe to share between threads.

    Errors of the server come back as the same types that it raised: ``InputError`` with the field at fault,
    ``DeadlineExceeded``, ``Overloaded``, …
    """

    def __init__(self, address: str, *, timeout_s: float, credentials: Credentials = PLAIN) -> None:
        """Connect when first needed.

        Args:
            address: Such as ``127.0.0.1:50051``.
            timeout_s: Deadline of each call, unless the call names its own.
            credentials: Key and certificates.
        Raises:
            ConfigError: If a file that the credentials name cannot be read.
        """
        self._address = address
        self._timeout_s = timeout_s
        self._metadata = credentials.metadata
        self._channel = credentials.channel(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:  # noqa: ANN401 - generated types
        try:
            timeout_s = self._timeout_s if timeout_s is None else timeout_s
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as exc:
            self._raise(exc)

    def _raise(self, error: Any) -> NoReturn:  # noqa: ANN401 - grpc hides the type that has code and details
        code, message = error.code(), error.details() or ""
        violations = violations_of(error)
        field = violations[0].field if violations else None
        if code is grpc.StatusCode.INVALID_ARGUMENT and field == "page_token":
            raise BadPageToken(message, field=field) from error
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            raise InputError(message, field=field) from error
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise NotImplementedField(message, field=field) from error
        if code is grpc.StatusCode.NOT_FOUND:
            raise VersionNotFound(message) from error
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded(f"no answer from {self._address} in time: {message}") from error
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise Overloaded(message) from error
        if code is grpc.StatusCode.FAILED_PRECONDITION:
            raise UpdatesRefused(message) from error
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise AccessDenied(message) from error
        if code is grpc.StatusCode.UNAVAILABLE:
            raise TandemError(
                f"expected a server at {self._address}, got: {message}; start one with `tandem serve`"
            ) from error
        raise TandemError(f"the server at {self._address} failed ({code.name}): {message}") from error


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
