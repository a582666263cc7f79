"""What the smaller calls do with one version of the server: complete queries, order given items, embed texts."""

import logging
import threading
from collections.abc import Sequence

import numpy as np

from corpus.events import EventType
from indexer.bundle import Bundle, open_item_encoder
from indexer.manifest import BundleManifest
from retrieval.engines.encoder import TextEncoder
from retrieval.event_log.suggestions import fold
from server.api.call_requests import RerankCall, Role, SuggestCall
from server.api.messages import degradation_messages
from server.histories.contract import Histories
from server.pb.tandem.search.v1 import search_pb2
from server.pipeline import Pipeline
from server.stages.ranking import Run

logger = logging.getLogger(__name__)

OWN_SEARCH = 5.0  # above all scores of ``retrieval.event_log.suggestions``
TEXTS_AT_A_TIME = 16  # embedded in one go: between them, searches have their turn


def model_versions_message(manifest: BundleManifest) -> search_pb2.ModelVersions:
    """Write which models a bundle has."""
    return search_pb2.ModelVersions(
        retriever=manifest.retriever.fingerprint,
        reranker=manifest.reranker.fingerprint if manifest.reranker else "",
        blend=manifest.blend.fingerprint if manifest.blend else "",
    )


def rerank(pipeline: Pipeline, call: RerankCall, run: Run) -> search_pb2.RerankResponse:
    """Order items of the catalogue for a query and a shopper.

    Args:
        pipeline: Of one version.
        call: What to order.
        run: The clock; gathers degradations.
    Raises:
        DeadlineExceeded: If the deadline passes before anything is known of the items.
    """
    items = pipeline.bundle.items
    row_of = {item_id: items.row_of(item_id) for item_id in call.item_ids}
    rows = [row for row in row_of.values() if row is not None]
    results = []
    if rows:
        ranking = pipeline.order(call.task, np.array(rows, dtype=np.int64), run)
        id_of = {row: item_id for item_id, row in row_of.items() if row is not None}
        for position, row in enumerate(ranking.rows.tolist()):
            chances = ranking.probabilities[position].tolist()
            results.append(
                search_pb2.RerankResult(
                    item_id=id_of[row],
                    rank=position + 1,
                    score=float(ranking.scores[position]),
                    rerank_score=_known(float(ranking.rerank[position])),
                    click_probability=_known(chances[0]),
                    cart_probability=_known(chances[1]),
                    purchase_probability=_known(chances[2]),
                )
            )
        # where embeddings weigh nothing, retrieval has no order for items without a word of the query
        left, lowest = id_of.keys() - set(ranking.rows.tolist()), results[-1].score if results else 0.0
        results += [
            search_pb2.RerankResult(item_id=id_of[row], rank=rank, score=lowest)
            for rank, row in enumerate(sorted(left), start=len(results) + 1)
        ]
    manifest = pipeline.bundle.manifest
    return search_pb2.RerankResponse(
        results=results,
        unknown_item_ids=[item_id for item_id, row in row_of.items() if row is None],
        index_version=manifest.version,
        model_versions=model_versions_message(manifest),
        degraded=degradation_messages(run.degraded),
    )


def suggest(bundle: Bundle, histories: Histories, call: SuggestCall, run: Run) -> search_pb2.SuggestResponse:
    """Complete a beginning: first by what the shopper searched, newest first, then by what others did.

    Args:
        bundle: Whose log others are.
        histories: Where the shopper's searches are; without them, others have their say.
        call: What to complete.
        run: Told if the shopper's searches cannot be read.
    """
    own = _own_searches(histories, call, run)[: call.page_size]
    known = set(map(fold, own))
    others = bundle.suggestions.complete(call.typed, call.page_size + len(own))
    found = [search_pb2.Suggestion(query=query, score=OWN_SEARCH) for query in own]
    found += [search_pb2.Suggestion(query=s.query, score=s.score) for s in others if fold(s.query) not in known]
    return search_pb2.SuggestResponse(suggestions=found[: call.page_size])


def _own_searches(histories: Histories, call: SuggestCall, run: Run) -> list[str]:
    if call.shopper is None:
        return []
    try:
        events = histories.history(call.shopper)
    except Exception as exc:  # suggestions without them are better than none
        logger.warning("history unavailable: %s", type(exc).__qualname__)  # its message may quote the shopper
        run.history_errors.append("read")
        return []
    beginning = fold(call.typed)
    own: dict[str, str] = {}
    for event in events:
        if event.type is EventType.SEARCH and event.query and (key := fold(event.query)).startswith(beginning):
            own.setdefault(key, event.query)
    return list(own.values())


class Towers:
    """Embeds texts as queries or as items. Safe for several threads: those who embed items take turns."""

    def __init__(self, *, n_threads: int | None) -> None:
        """Open nothing yet.

        Args:
            n_threads: Of an item encoder with an engine of its own.
        """
        self._n_threads = n_threads
        self._items = threading.Lock()  # guards the next, and keeps two from opening it at once
        self._item_encoder: TextEncoder | None = None  # of the version that was asked last

    def embed(self, bundle: Bundle, texts: Sequence[str], role: Role) -> list[search_pb2.Embedding]:
        """Embed some texts.

        Args:
            bundle: Whose towers.
            texts: Few: they hold up searches.
            role: Which tower.
        Raises:
            UpdatesRefused: If the bundle has no item encoder.
        """
        if role is Role.QUERY:
            vectors = bundle.retriever.encoder.encode(texts)
        else:
            with self._items:
                vectors = self._of_items(bundle).encode(texts)
        return [search_pb2.Embedding(values=vector) for vector in vectors.tolist()]

    def _of_items(self, bundle: Bundle) -> TextEncoder:
        wanted = bundle.manifest.retriever.item_encoder_fingerprint
        if self._item_encoder is None or self._item_encoder.fingerprint != wanted:
            self._item_encoder = open_item_encoder(bundle, n_threads=self._n_threads)
        return self._item_encoder


def _known(number: float) -> float | None:
    return None if np.isnan(number) else number
