"""What the smaller calls answer a typed client."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.event_log.suggestions import Suggestion
from server.pb.tandem.search.v1 import search_pb2

ROLE_NUMBERS = {"query": search_pb2.EMBED_ROLE_QUERY, "item": search_pb2.EMBED_ROLE_ITEM}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSearch:
    """Why one search of several has no answer."""

    code: int  # of gRPC, such as 3 for INVALID_ARGUMENT
    message: str
    fields: tuple[str, ...]  # at fault


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedItem:
    """One item in order."""

    item_id: str
    rank: int  # from 1
    score: float  # what the order is by; higher is better, as for all scores
    rerank_score: float | None  # None: the cross-encoder did not read the item
    click_probability: float | None  # None, as for the two below: not read, or nothing to tell it from
    cart_probability: float | None
    purchase_probability: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResponse:
    """Items in order."""

    results: tuple[RerankedItem, ...]  # best first
    unknown_item_ids: tuple[str, ...]
    index_version: str
    degraded: tuple[str, ...]  # what the answer lacks, in words


def suggestions_of(message: search_pb2.SuggestResponse) -> tuple[Suggestion, ...]:
    """Read completions."""
    return tuple(Suggestion(query=suggestion.query, score=suggestion.score) for suggestion in message.suggestions)


def failed_search(error: search_pb2.BatchSearchError) -> FailedSearch:
    """Read why a search failed."""
    return FailedSearch(code=error.code, message=error.message, fields=tuple(error.fields))


def rerank_response(message: search_pb2.RerankResponse) -> RerankResponse:
    """Read items in order."""
    return RerankResponse(
        results=tuple(
            RerankedItem(
                item_id=result.item_id,
                rank=result.rank,
                score=result.score,
                rerank_score=_optional(result, "rerank_score"),
                click_probability=_optional(result, "click_probability"),
                cart_probability=_optional(result, "cart_probability"),
                purchase_probability=_optional(result, "purchase_probability"),
            )
            for result in message.results
        ),
        unknown_item_ids=tuple(message.unknown_item_ids),
        index_version=message.index_version,
        degraded=tuple(degradation.message for degradation in message.degraded),
    )


def embeddings_of(message: search_pb2.EmbedResponse) -> npt.NDArray[np.float32]:
    """Read embeddings: float32 (n, dim), L2-normalised."""
    return np.array([embedding.values for embedding in message.embeddings], dtype=np.float32)


def _optional(result: search_pb2.RerankResult, name: Any) -> float | None:  # noqa: ANN401 - a literal of the stubs
    return getattr(result, name) if result.HasField(name) else None
