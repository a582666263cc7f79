"""The gRPC services: admission, threads, paging and errors around the pipeline."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import grpc

from corpus.errors import ArtefactError, TandemError
from server.api.call_requests import check_batch, read_deleted_shoppers, read_embed, read_rerank, read_suggest
from server.api.messages import degradation_messages, facet_messages
from server.api.requests import read_events, read_search
from server.api.wire import Malformed
from server.calls.admission import Admission
from server.calls.answering import INTERNAL, Answering, refusing_the_rest, status_of, violations_in
from server.calls.layers import Context
from server.calls.load_shedding import LoadShedding
from server.calls.other_calls import TEXTS_AT_A_TIME, Towers, model_versions_message, rerank, suggest
from server.config import ServerConfig
from server.histories.contract import Histories
from server.inference.search_threads import Threads, in_thread
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.pipeline import Pipeline
from server.processes.siblings import Siblings
from server.rankings.answers import Answers, Asked
from server.stages.ranking import Run

logger = logging.getLogger(__name__)

_What = TypeVar("_What")
_Done = TypeVar("_Done")


@refusing_the_rest
class SearchService(Answering, search_pb2_grpc.SearchServiceServicer):
    """``tandem.search.v1.SearchService``."""

    def __init__(
        self,
        pipeline: Pipeline,
        histories: Histories,
        config: ServerConfig,
        threads: Threads,
        siblings: Siblings | None = None,
    ) -> None:
        """Serve a pipeline.

        Args:
            pipeline: May be replaced between calls: ``service.pipeline = other``.
            histories: Where events go.
            config: Limits and defaults.
            threads: Where the work is done.
            siblings: The other serving processes, if there are several; they answer for the pages that they began.
        """
        super().__init__(config, default_timeout_ms=config.default_timeout_ms)
        self.pipeline = pipeline
        self._histories = histories
        self._threads = threads
        self._siblings = siblings
        self._searches = Admission(config.max_waiting_searches)
        self.load_shedding = LoadShedding(self._searches, self.deadline_of, retry_after_ms=config.retry_after_ms)
        process = siblings.number if siblings is not None else None
        self._answers = Answers(config, threads, self._searches, process=process)
        self._writes = Admission(config.max_waiting_searches)
        self._suggestions = Admission(config.max_waiting_searches)
        self._towers = Towers(n_threads=config.n_threads)
        self.queues = {
            "search": self._searches,
            "repeat": self._answers.repeats,
            "events": self._writes,
            "suggest": self._suggestions,
        }
        self.rankings = self._answers.rankings

    async def Search(
        self, request: search_pb2.SearchRequest | Malformed, context: Context
    ) -> search_pb2.SearchResponse:
        """Answer a search."""
        return await self._answer(self._search, request, context)

    async def RecordEvents(
        self, request: search_pb2.RecordEventsRequest | Malformed, context: Context
    ) -> search_pb2.RecordEventsResponse:
        """Write events."""
        return await self._answer(self._record_events, request, context)

    async def Suggest(
        self, request: search_pb2.SuggestRequest | Malformed, context: Context
    ) -> search_pb2.SuggestResponse:
        """Complete what is being typed."""
        return await self._answer(self._suggest, request, context)

    async def BatchSearch(
        self, request: search_pb2.BatchSearchRequest | Malformed, context: Context
    ) -> search_pb2.BatchSearchResponse:
        """Answer several searches."""
        return await self._answer(self._batch_search, request, context)

    async def Rerank(
        self, request: search_pb2.RerankRequest | Malformed, context: Context
    ) -> search_pb2.RerankResponse:
        """Order given items."""
        return await self._answer(self._rerank, request, context)

    async def Embed(self, request: search_pb2.EmbedRequest | Malformed, context: Context) -> search_pb2.EmbedResponse:
        """Embed texts."""
        return await self._answer(self._embed, request, context)

    async def DeleteUser(
        self, request: search_pb2.DeleteUserRequest | Malformed, context: Context
    ) -> search_pb2.DeleteUserResponse:
        """Forget a shopper."""
        return await self._answer(self._delete_user, request, context)

    async def _search(self, request: search_pb2.SearchRequest, run: Run) -> search_pb2.SearchResponse:
        call = read_search(request, self._config, now=datetime.now(UTC))
        return await self._found(request, await self._answers.ask(self.pipeline, call, run), run)

    async def _found(self, request: search_pb2.SearchRequest, asked: Asked, run: Run) -> search_pb2.SearchResponse:
        call = asked.call
        if call.page_token is not None and self._siblings is not None:
            holder = self._siblings.holder_of(call.page_token)
            if holder is not None:
                with self._searches.admit():
                    return await self._siblings.search(holder, request, run)
        answer = await self._answers.answer(asked, run)
        window, page = answer.kept.window, answer.page
        has_more = page.n_results and page.end < len(window.ranking)
        response = search_pb2.SearchResponse(
            facets=facet_messages(window.facets),
            corrected_query=window.corrected_query,
            no_match=window.no_match,
            total_size=len(window.ranking),
            next_page_token=(
                self.rankings.token(answer.search_id, answer.kept, page.end, call.digest) if has_more else ""
            ),
            search_id=answer.search_id,
            index_version=window.index_version,
            model_versions=search_pb2.ModelVersions(
                retriever=window.retriever_version,
                reranker=window.reranker_version,
                blend=window.blend_version,
            ),
            degraded=degradation_messages(window.degraded),
            stage_timings=[search_pb2.StageTiming(stage=s, duration_ms=ms) for s, ms in run.timings_ms.items()],
        )
        response.MergeFromString(page.results)
        logger.debug(
            "search answered",
            extra={"search_id": answer.search_id, "timings_ms": run.timings_ms, "labels": call.labels},
        )
        return response

    async def _record_events(
        self, request: search_pb2.RecordEventsRequest, run: Run
    ) -> search_pb2.RecordEventsResponse:
        events = read_events(request, self._config, now=datetime.now(UTC))
        recorded = await self._write(run, self._histories.record, events)
        row_of = self.pipeline.bundle.items.row_of
        named = dict.fromkeys(event.item_id for event in events if event.item_id is not None)
        return search_pb2.RecordEventsResponse(
            n_recorded=recorded.n_recorded,
            n_already_known=recorded.n_already_known,
            unknown_item_ids=[item_id for item_id in named if row_of(item_id) is None],
        )

    async def _suggest(self, request: search_pb2.SuggestRequest, run: Run) -> search_pb2.SuggestResponse:
        call = read_suggest(request, self._config)
        bundle = self.pipeline.bundle
        with self._suggestions.admit():  # not behind searches: it keeps pace with typing
            return await in_thread(self._threads.disk, run, suggest, bundle, self._histories, call, run)

    async def _batch_search(self, request: search_pb2.BatchSearchRequest, run: Run) -> search_pb2.BatchSearchResponse:
        check_batch(request, self._config)
        pipeline, runs = self.pipeline, [Run(deadline=run.deadline) for _ in request.requests]
        asked = await asyncio.gather(
            *(self._ask_of_batch(each, pipeline, its) for each, its in zip(request.requests, runs, strict=True))
        )
        await self._embed_ahead([one for one in asked if isinstance(one, Asked)], pipeline, run)
        # each takes a place and a turn of its own, so that a batch keeps nobody waiting longer than a single search
        each = zip(request.requests, asked, runs, strict=True)
        results = await asyncio.gather(*(self._one_of_batch(*of_one) for of_one in each))
        return search_pb2.BatchSearchResponse(results=results)

    async def _ask_of_batch(self, request: search_pb2.SearchRequest, pipeline: Pipeline, run: Run) -> Asked | Exception:
        try:
            return await self._answers.ask(pipeline, read_search(request, self._config, now=datetime.now(UTC)), run)
        except Exception as exc:  # its own answer says so
            return exc

    async def _embed_ahead(self, asked: Sequence[Asked], pipeline: Pipeline, run: Run) -> None:
        """Let the encoder read the queries of a batch in one run; its searches find the embeddings in the cache."""
        encoder = pipeline.bundle.retriever.encoder
        calls = [one.call for one in asked if one.known is None]
        queries = {call.task.query: None for call in calls if call.task.query and call.page_token is None}
        if len(queries) < 2 or not self._config.query_cache_mib:
            return
        try:
            with self._searches.admit():  # costs next to nothing beside the searches, whose pace is to be known
                await in_thread(self._threads.search, run, encoder.encode, list(queries))
        except Exception as exc:  # each search asks for itself, and says what is wrong
            logger.debug("a batch was not embedded ahead: %s", type(exc).__qualname__)

    async def _one_of_batch(
        self, request: search_pb2.SearchRequest, asked: Asked | Exception, run: Run
    ) -> search_pb2.BatchSearchResult:
        try:
            if isinstance(asked, Exception):
                raise asked
            return search_pb2.BatchSearchResult(response=await self._found(request, asked, run))
        except TandemError as exc:
            code, message = status_of(exc)
            fields = [violation.field for violation in violations_in(exc)]
        except Exception as exc:  # the others of the batch have their answers
            logger.error("unexpected error", exc_info=exc)
            code, message, fields = grpc.StatusCode.INTERNAL, INTERNAL, []
        error = search_pb2.BatchSearchError(code=code.value[0], message=message, fields=fields)
        return search_pb2.BatchSearchResult(error=error)

    async def _rerank(self, request: search_pb2.RerankRequest, run: Run) -> search_pb2.RerankResponse:
        call = read_rerank(request, self._config, now=datetime.now(UTC))
        pipeline = self.pipeline
        with self._searches.admit(run.deadline, is_whole=run.had_time):
            return await in_thread(self._threads.search, run, rerank, pipeline, call, run)

    async def _embed(self, request: search_pb2.EmbedRequest, run: Run) -> search_pb2.EmbedResponse:
        call = read_embed(request, self._config)
        bundle = self.pipeline.bundle
        embeddings: list[search_pb2.Embedding] = []
        with self._searches.admit(run.deadline):
            for begin in range(0, len(call.texts), TEXTS_AT_A_TIME):
                texts = call.texts[begin : begin + TEXTS_AT_A_TIME]
                embeddings += await in_thread(self._threads.search, run, self._towers.embed, bundle, texts, call.role)
        return search_pb2.EmbedResponse(embeddings=embeddings, model_versions=model_versions_message(bundle.manifest))

    async def _delete_user(self, request: search_pb2.DeleteUserRequest, run: Run) -> search_pb2.DeleteUserResponse:
        shoppers = read_deleted_shoppers(request)
        return search_pb2.DeleteUserResponse(n_deleted=await self._write(run, self._histories.delete, shoppers))

    async def _write(self, run: Run, change: Callable[[_What], _Done], what: _What) -> _Done:
        """Change the histories, in turn with others who do; a failure is counted."""
        with self._writes.admit():
            try:
                return await in_thread(self._threads.disk, run, change, what)
            except ArtefactError:
                run.history_errors.append("write")
                raise
