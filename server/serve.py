"""The server around the services: start, health, reload, drain."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from corpus.errors import (
    ActivationRefused,
    ArtefactError,
    DeviceUnavailable,
    TandemError,
)
from corpus.workspace import Workspace
from indexer.bundle import open_bundle
from indexer.live_updates import LiveUpdates
from indexer.publish import current_version
from server.access.requirements import Access
from server.activation import Activation
from server.admin import IndexAdminService
from server.calls.layers import add_service
from server.calls.observing import Observer, Observing
from server.config import ServerConfig
from server.histories.contract import Histories, open_histories
from server.inference.model_runtime import ModelRuntime
from server.inference.priority import give_way
from server.inference.search_threads import Threads
from server.opening import open_current, open_tracing, warm
from server.pipeline import Pipeline
from server.processes.listening import grpc_server, listen, probe_all
from server.processes.sharing import Share
from server.processes.siblings import Siblings
from server.service import SearchService
from server.telemetry.health import ADMIN_SERVICE, SEARCH_SERVICE, Readiness
from server.telemetry.metrics import Metrics, MetricsEndpoint

if TYPE_CHECKING:
    from server.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1 << 20  # 100 events, or a search with 200, with every field at its limit
MAX_UPDATE_BYTES = 16 << 20  # 500 items with long descriptions
N_DISK_THREADS = 4
FOLLOW_S = 0.5  # between looks at what another server of this store was told
MOST_PAUSE_S = 30.0  # between looks that fail one after the other
FLUSH_S = 0.5  # for answers on their way out, once no call is being answered
DRAIN_POLL_S = 0.05


class TandemServer:
    """A running server."""

    def __init__(
        self,
        config: ServerConfig,
        workspace: Workspace,
        pipeline: Pipeline,
        updates: LiveUpdates,
        histories: Histories,
        activation: Activation,
        access: Access,
        tracing: "Tracing | None",
        share: Share | None,
        runtime: ModelRuntime,
    ) -> None:
        """Join the parts; ``start`` makes them."""
        self._activation = activation
        self._tried = pipeline.bundle.manifest.version  # the last that was current and gone over to, or tried to be
        self._config = config
        self._workspace = workspace
        self._histories = histories
        self._access = access
        self._runtime = runtime
        self._threads = Threads(
            search=runtime.threads,
            disk=ThreadPoolExecutor(N_DISK_THREADS, thread_name_prefix="disk"),
        )
        self._built = pipeline  # over the bundle as it was built
        self._updates = updates
        # alone touches the two above, and embeds items
        self._updating = ThreadPoolExecutor(1, thread_name_prefix="updates", initializer=give_way)
        self._share = share
        self._siblings = Siblings(share, max_request_bytes=MAX_REQUEST_BYTES) if share is not None else None
        pipeline = pipeline.under(updates.bundle)
        self._service = SearchService(pipeline, histories, config, self._threads, self._siblings)
        self._admin = IndexAdminService(updates, self._publish, workspace.bundles, config, self._updating, self)
        self._following: asyncio.Task[None] | None = None
        self._readiness = Readiness(lambda: runtime.busy_s, wedged_after_s=config.wedged_after_s)
        self._reloading = asyncio.Lock()
        self._metrics = Metrics()
        self._metrics.watch(
            queues={**self._service.queues, **self._admin.queues},
            manifest=lambda: self._service.pipeline.bundle.manifest,
            n_live=lambda: updates.n_changed,
            runtime=runtime,
            rankings=self._service.rankings,
            expires=lambda: access.tls.certificate.not_after if access.tls is not None else None,
        )
        self._metrics.watch_breakers(lambda: self._service.pipeline.breakers)
        self._endpoint: MetricsEndpoint | None = None
        self._tracing = tracing
        observers: list[Observer] = [self._metrics, *([tracing] if tracing is not None else [])]
        layers = (Observing(observers), *access.layers)
        self._server = grpc_server(MAX_REQUEST_BYTES, shares_port=share is not None)
        add_service(self._server, self._service, (*layers, self._service.load_shedding))
        self._admin_server = grpc_server(MAX_UPDATE_BYTES, shares_port=share is not None)
        add_service(self._admin_server, self._admin, layers)
        for server, service in ((self._server, SEARCH_SERVICE), (self._admin_server, ADMIN_SERVICE)):
            health_pb2_grpc.add_HealthServicer_to_server(self._readiness.servicer, server)
            names = (service, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.address = ""  # host:port, once started
        self.admin_address = ""  # likewise
        self.metrics_address = ""  # likewise; stays empty where nobody is to read metrics

    @classmethod
    async def start(
        cls,
        config: ServerConfig,
        workspace: Workspace,
        activation: Activation | None = None,
        share: Share | None = None,
        opened: Callable[[], Awaitable[None]] | None = None,
    ) -> "TandemServer":
        """Open the current bundle and the histories, warm the models, and listen.

        Args:
            config: Limits, defaults, and where to listen.
            workspace: The store.
            activation: How another bundle becomes current; None: with a gate of default settings, and no mirror.
            share: This server's place among several processes, for which somebody keeps the ports; None: it is alone.
            opened: Awaited when all is ready, before anything listens.
        Raises:
            ConfigError: If an address cannot be listened on, or a certificate or the API keys cannot be used.
            ArtefactError: If there is no current bundle, or it or the history store does not verify.
        """
        if share is None:
            probe_all(config)
        access = Access(config, workspace.root, share)
        tracing = open_tracing(config)
        with contextlib.ExitStack() as stack:
            runtime = ModelRuntime(config)
            stack.callback(runtime.close)
            bundle = await runtime.prepare(open_current, workspace.bundles, config)
            histories = await asyncio.to_thread(open_histories, config, workspace)
            stack.callback(histories.close)
            pipeline = await runtime.prepare(warm, bundle, histories, config, runtime)
            updates = await asyncio.to_thread(
                LiveUpdates, pipeline.bundle, workspace, max_changed=config.max_live_items, n_threads=config.n_threads
            )
            server = cls(
                config,
                workspace,
                pipeline,
                updates,
                histories,
                activation or Activation(workspace),
                access,
                tracing,
                share,
                runtime,
            )
            if opened is not None:
                await opened()
            await server._listen()
            stack.pop_all()
        server._following = asyncio.create_task(server._follow())
        await server._readiness.begin()
        return server

    async def _listen(self) -> None:
        tls, config = self._access.tls, self._config
        if config.metrics_address:
            self._endpoint = MetricsEndpoint.listen(config.metrics_address, self._metrics)
            self.metrics_address = self._endpoint.address
        if self._siblings is not None:
            await self._siblings.begin(self._service)
        if self._share is None or self._share.takes_updates:
            shown = tls.credentials() if tls is not None else None
            self.admin_address = listen(self._admin_server, config.admin_address, "server.admin_address", shown)
            await self._admin_server.start()
        shown = tls.credentials() if tls is not None else None
        self.address = listen(self._server, config.address, "server.address", shown)
        await self._server.start()

    @property
    def is_wedged(self) -> bool:
        """Whether the models are stuck with one search."""
        return self._readiness.is_wedged

    @property
    def version(self) -> str:
        """The bundle that answers new calls."""
        return self._service.pipeline.bundle.manifest.version

    async def reload(self) -> str:
        """Open the current bundle, warm it, and let it answer all calls that begin from now on.

        Returns:
            The version that answers now.
        Raises:
            ArtefactError: If it cannot be served; the old version goes on answering.
        """
        async with self._reloading:
            return await self._go_over_to_current()

    async def _go_over_to_current(self) -> str:
        current = await asyncio.to_thread(current_version, self._workspace.bundles)
        self._tried = current or self._tried
        if current != self.version:
            prepare, config = self._runtime.prepare, self._config
            bundle = await prepare(open_current, self._workspace.bundles, config)
            await self._go_over(await prepare(warm, bundle, self._histories, config, self._runtime))
        return self.version

    async def _go_over(self, pipeline: Pipeline) -> None:
        await asyncio.get_running_loop().run_in_executor(self._updating, self._swap, pipeline)

    async def activate(self, version: str, reason: str | None) -> str:
        """Let the release gate judge a bundle, make it current, and let it answer all calls that begin from now on.

        Args:
            version: A finished bundle.
            reason: Why the gate is not asked; None: it is.
        Raises:
            ActivationRefused: If the gate or a check refuses it, and what is served stays; or if the bundle store does
                not take it, while this server goes over.
        """
        async with self._reloading:
            try:
                outcome = None if reason else await self._activation.judge(version)
                if outcome is None or outcome.verdict != "refused":  # opened before anything points at it
                    prepare, config = self._runtime.prepare, self._config
                    folder = self._workspace.bundles / version
                    bundle = await prepare(open_bundle, folder, n_threads=config.n_threads)
                    pipeline = await prepare(warm, bundle, self._histories, config, self._runtime)
                await asyncio.to_thread(self._activation.publish, version, outcome, reason)
            except (ArtefactError, DeviceUnavailable) as exc:
                raise ActivationRefused(f"{exc}; {self.version} is still served") from exc
            self._tried = version
            if version != self.version:
                await self._go_over(pipeline)
            await asyncio.to_thread(self._activation.push, version)
            return self.version

    async def roll_back(self) -> str:
        """Make the bundle current that was current before, and let it answer; the release gate is not asked.

        Raises:
            ActivationRefused: If there is none, or it cannot be served.
        """
        async with self._reloading:
            try:
                version = await asyncio.to_thread(self._activation.rollback)
                await self._go_over_to_current()
            except (ArtefactError, DeviceUnavailable) as exc:
                raise ActivationRefused(f"{exc}; {self.version} is still served") from exc
            await asyncio.to_thread(self._activation.push, version)
            return self.version

    def _swap(self, pipeline: Pipeline) -> None:
        """Serve another bundle with the updates that it does not hold."""
        self._updates.serve(pipeline.bundle)
        self._built = pipeline
        self._publish()

    def _publish(self) -> None:
        """Let the searches that begin from now on see what was updated."""
        bundle = self._updates.bundle
        if bundle is not self._service.pipeline.bundle:
            self._service.pipeline = self._built.under(bundle)

    async def _follow(self) -> None:
        """Take in what another server of this store was told, and what was published, until cancelled."""
        await asyncio.gather(self._follow_updates(), self._follow_versions())  # opening a bundle holds up no updates

    async def _follow_versions(self) -> None:
        # a sibling that was told to go over is not long alone with it
        wait_s = self._config.follow_s if self._share is None else min(FOLLOW_S, self._config.follow_s)
        while True:
            await asyncio.sleep(wait_s)
            await self._follow_current()

    async def _follow_updates(self) -> None:
        pause_s, look_at = FOLLOW_S, 0.0
        while True:
            await asyncio.sleep(FOLLOW_S)
            await asyncio.to_thread(self._access.follow)
            if time.monotonic() < look_at:
                continue
            try:
                await asyncio.get_running_loop().run_in_executor(self._updating, self._catch_up)
                pause_s, look_at = FOLLOW_S, 0.0
                continue
            except TandemError as exc:
                logger.error("live updates of another server are missing: %s", exc)
            except Exception as exc:  # a later look may succeed
                logger.error("live updates of another server are missing", exc_info=exc)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)
            look_at = time.monotonic() + pause_s

    async def _follow_current(self) -> None:
        """Go over to what was published; what could not be served is tried again only when it is published again."""
        try:
            current = await asyncio.to_thread(current_version, self._workspace.bundles)
        except TandemError as exc:
            logger.error("still serving %s: %s", self.version, exc)
            return
        if current not in (None, self._tried) and not self._reloading.locked():
            await self.try_reload()

    def _catch_up(self) -> None:
        if self._updates.follow():
            self._publish()

    async def try_reload(self) -> None:
        """Reload bundle and certificate, and only log what goes wrong."""
        await asyncio.to_thread(self._access.reload)
        ok = False
        try:
            logger.info("serving %s", await self.reload())
            ok = True
        except TandemError as exc:
            logger.error("not reloaded, still serving %s: %s", self.version, exc)
        except Exception as exc:
            logger.error("not reloaded, still serving %s", self.version, exc_info=exc)
        self._metrics.reloaded(ok=ok)

    async def stop(self) -> None:
        """Say that no more calls are wanted, let those in flight finish, and close everything."""
        await self._readiness.end()
        # both at once, or one would go on taking calls while the other waits for its last
        admin_stopping = asyncio.create_task(self._admin_server.stop(self._config.drain_timeout_s))
        stopping = asyncio.create_task(self._server.stop(self._config.drain_timeout_s))
        idle_since = time.monotonic()
        while not stopping.done() and time.monotonic() - idle_since < FLUSH_S:
            await asyncio.wait({stopping}, timeout=DRAIN_POLL_S)
            if not self._service.is_idle:
                idle_since = time.monotonic()
        await self._server.stop(None)  # only streams are left, such as health watches, which never end by themselves
        await asyncio.gather(stopping, admin_stopping)
        if self._siblings is not None:
            await self._siblings.end()
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        self._updating.shutdown()
        self._updates.close()
        self._runtime.close()
        self._threads.disk.shutdown()
        self._histories.close()
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
