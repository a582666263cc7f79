"""``IndexAdminService``: what changes what is served. On an address of its own, for operators alone."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

from corpus.items import Item
from corpus.workspace import versions
from indexer.live_updates import LiveUpdates
from indexer.manifest import MANIFEST_FILE, BundleManifest
from indexer.publish import list_bundles
from server.api.admin_requests import read_activation, read_deletions, read_upserts
from server.api.messages import timestamp_message
from server.api.requests import InvalidRequest
from server.api.status import Violation
from server.api.wire import Malformed
from server.calls.admission import Admission
from server.calls.answering import Answering, refusing_the_rest
from server.calls.layers import Context
from server.calls.other_calls import model_versions_message
from server.config import ServerConfig
from server.inference.search_threads import in_thread
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.stages.ranking import Run

DEFAULT_TIMEOUT_MS = 60_000.0  # of a call that brings no deadline: some hundred new texts take seconds to embed
MAX_VERSIONS = 100  # on a page
STATE = search_pb2.IndexVersionState


class Versions(Protocol):
    """What goes over to other bundles."""

    async def activate(self, version: str, reason: str | None) -> str:
        """Serve a bundle; return its name. A reason says why the release gate is not asked."""
        ...

    async def roll_back(self) -> str:
        """Serve the bundle that was current before; return its name."""
        ...


@refusing_the_rest
class IndexAdminService(Answering, search_pb2_grpc.IndexAdminServiceServicer):
    """``tandem.search.v1.IndexAdminService``."""

    def __init__(
        self,
        updates: LiveUpdates,
        publish: Callable[[], None],
        bundles: Path,
        config: ServerConfig,
        executor: Executor,
        versions: Versions,
    ) -> None:
        """Serve a store's updates.

        Args:
            updates: Takes them.
            publish: Lets new searches see ``updates.bundle``; called in the executor's thread.
            bundles: The workspace's ``bundles/`` folder.
            config: Limits.
            executor: One thread, which alone changes items.
            versions: Goes over to other bundles.
        """
        super().__init__(config, default_timeout_ms=DEFAULT_TIMEOUT_MS)
        self._updates = updates
        self._publish = publish
        self._bundles = bundles
        self._executor = executor
        self._versions = versions
        self._waiting = Admission(config.max_waiting_searches)
        self.queues = {"updates": self._waiting}

    async def UpsertItems(
        self, request: search_pb2.UpsertItemsRequest | Malformed, context: Context
    ) -> search_pb2.UpsertItemsResponse:
        """Add or replace items."""
        return await self._answer(self._upsert_items, request, context)

    async def DeleteItems(
        self, request: search_pb2.DeleteItemsRequest | Malformed, context: Context
    ) -> search_pb2.DeleteItemsResponse:
        """Remove items."""
        return await self._answer(self._delete_items, request, context)

    async def ListVersions(
        self, request: search_pb2.ListVersionsRequest | Malformed, context: Context
    ) -> search_pb2.ListVersionsResponse:
        """List the bundles."""
        return await self._answer(self._list_versions, request, context)

    async def ActivateVersion(
        self, request: search_pb2.ActivateVersionRequest | Malformed, context: Context
    ) -> search_pb2.ActivateVersionResponse:
        """Serve a bundle."""
        return await self._answer(self._activate_version, request, context)

    async def RollbackVersion(
        self, request: search_pb2.RollbackVersionRequest | Malformed, context: Context
    ) -> search_pb2.RollbackVersionResponse:
        """Serve the bundle that was current before."""
        return await self._answer(self._rollback_version, request, context)

    async def _activate_version(
        self, request: search_pb2.ActivateVersionRequest, run: Run
    ) -> search_pb2.ActivateVersionResponse:
        finished = await asyncio.to_thread(versions, self._bundles, marker=MANIFEST_FILE)
        version, reason = read_activation(request, finished)
        with self._waiting.admit():
            await self._versions.activate(version, reason)
        return search_pb2.ActivateVersionResponse(version=self._served())

    async def _rollback_version(
        self, request: search_pb2.RollbackVersionRequest, run: Run
    ) -> search_pb2.RollbackVersionResponse:
        with self._waiting.admit():
            await self._versions.roll_back()
        return search_pb2.RollbackVersionResponse(version=self._served())

    def _served(self) -> search_pb2.IndexVersion:
        return _version_message(self._updates.bundle.manifest, is_active=True)

    async def _upsert_items(self, request: search_pb2.UpsertItemsRequest, run: Run) -> search_pb2.UpsertItemsResponse:
        items = read_upserts(request, self._config)
        with self._waiting.admit():
            await in_thread(self._executor, run, self._upsert, items)
        return search_pb2.UpsertItemsResponse(n_upserted=len(items))

    async def _delete_items(self, request: search_pb2.DeleteItemsRequest, run: Run) -> search_pb2.DeleteItemsResponse:
        item_ids = read_deletions(request, self._config)
        with self._waiting.admit():
            unknown = await in_thread(self._executor, run, self._delete, item_ids)
        return search_pb2.DeleteItemsResponse(n_deleted=len(item_ids) - len(unknown), unknown_item_ids=unknown)

    async def _list_versions(
        self, request: search_pb2.ListVersionsRequest, run: Run
    ) -> search_pb2.ListVersionsResponse:
        size = request.page_size if request.HasField("page_size") else MAX_VERSIONS
        if not 1 <= size <= MAX_VERSIONS:
            expected = f"expected 1 to {MAX_VERSIONS}, got {size}"
            raise InvalidRequest([Violation(field="page_size", description=expected)])
        manifests = await asyncio.to_thread(list_bundles, self._bundles)
        names = [manifest.version for manifest in reversed(manifests)]
        begin = 0
        if request.HasField("page_token") and request.page_token:
            if request.page_token not in names:
                expected = "expected a token of an earlier page, got another text; list from the beginning"
                raise InvalidRequest([Violation(field="page_token", description=expected)])
            begin = names.index(request.page_token)
        page = manifests[::-1][begin : begin + size]
        active = self._updates.bundle.manifest.version
        return search_pb2.ListVersionsResponse(
            versions=[_version_message(manifest, is_active=manifest.version == active) for manifest in page],
            next_page_token=names[begin + size] if begin + size < len(names) else "",
        )

    def _upsert(self, items: Sequence[Item]) -> None:
        try:
            self._updates.upsert(items)
        finally:
            self._publish()  # also where it failed: what another server wrote may have been taken in before

    def _delete(self, item_ids: Sequence[str]) -> list[str]:
        try:
            return self._updates.delete(item_ids)
        finally:
            self._publish()


def _version_message(manifest: BundleManifest, *, is_active: bool) -> search_pb2.IndexVersion:
    return search_pb2.IndexVersion(
        version=manifest.version,
        state=STATE.INDEX_VERSION_STATE_ACTIVE if is_active else STATE.INDEX_VERSION_STATE_AVAILABLE,
        created_at=timestamp_message(manifest.created_at),
        n_items=manifest.n_items,
        model_versions=model_versions_message(manifest),
    )
