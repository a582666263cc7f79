"""``tandem serve``: the process around the services. Start, health, reload, drain."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from corpus.errors import (
    ActivationRefused,
    ArtefactError,
    ConfigError,
    DeviceUnavailable,
    TandemError,
    VersionNotFound,
)
from corpus.workspace import Workspace
from indexer.bundle import Bundle, open_bundle
from indexer.live_updates import LiveUpdates
from indexer.publish import current_version
from server.activation import Activation
from server.admin import IndexAdminService
from server.config import ServerConfig, TandemConfig
from server.histories import Histories, open_histories
from server.logs import configure_logging
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.pipeline import Pipeline
from server.ranking import Run, SearchTask
from server.service import SearchService, Threads
from server.wire import TolerantReading

logger = logging.getLogger(__name__)

SEARCH_SERVICE = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
ADMIN_SERVICE = search_pb2.DESCRIPTOR.services_by_name["IndexAdminService"].full_name
MAX_REQUEST_BYTES = 1 << 20  # 100 events, or a search with 200, with every field at its limit
MAX_UPDATE_BYTES = 16 << 20  # 500 items with long descriptions
N_DISK_THREADS = 4
FOLLOW_S = 0.5  # between looks at what another server of this store was told
FLUSH_S = 0.5  # for answers on their way out, once no call is being answered
DRAIN_POLL_S = 0.05


async def serve(config: TandemConfig, workspace: Workspace) -> None:
    """Serve the current bundle until SIGTERM or SIGINT; SIGHUP reloads it.

    With a ``[bundle_store]``, what that says is current is fetched first, at the start and at every reload.

    Args:
        config: Of which ``[server]`` and ``[bundle_store]`` are used.
        workspace: The store.
    Raises:
        ConfigError: If the address cannot be listened on.
        ArtefactError: If there is no current bundle, or it does not verify.
    """
    configure_logging(config.server.log_level)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    await asyncio.to_thread(_pull, config, workspace)
    activation = Activation(workspace, config.gate, config.bundle_store)
    server = await TandemServer.start(config.server, workspace, activation)
    reloads: set[asyncio.Task[None]] = set()

    async def pull_and_reload() -> None:
        await asyncio.to_thread(_pull, config, workspace)
        await server.try_reload()

    def reload() -> None:
        task = loop.create_task(pull_and_reload())
        reloads.add(task)  # the loop itself keeps tasks only weakly
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGINT, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    logger.info("serving %s on %s", server.version, server.address)
    logger.info("taking updates on %s", server.admin_address)
    await stopped.wait()
    logger.info("stopping: no new calls; %g s for those in flight", config.server.drain_timeout_s)
    await server.stop()
    logger.info("stopped")


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
    ) -> None:
        """Join the parts; ``start`` makes them."""
        self._activation = activation
        self._tried = pipeline.bundle.manifest.version  # the last that was current and gone over to, or tried to be
        self._config = config
        self._workspace = workspace
        self._histories = histories
        self._threads = Threads(
            model=ThreadPoolExecutor(1, thread_name_prefix="model"),
            disk=ThreadPoolExecutor(N_DISK_THREADS, thread_name_prefix="disk"),
        )
        self._built = pipeline  # over the bundle as it was built
        self._updates = updates
        self._updating = ThreadPoolExecutor(1, thread_name_prefix="updates")  # alone touches the two above
        self._service = SearchService(pipeline.under(updates.bundle), histories, config, self._threads)
        self._admin = IndexAdminService(updates, self._publish, workspace.bundles, config, self._updating, self)
        self._following: asyncio.Task[None] | None = None
        self._health = health.aio.HealthServicer()
        self._reloading = asyncio.Lock()
        self._server = _grpc_server(MAX_REQUEST_BYTES)
        search_pb2_grpc.add_SearchServiceServicer_to_server(self._service, self._server)  # type: ignore[no-untyped-call]
        self._admin_server = _grpc_server(MAX_UPDATE_BYTES)
        search_pb2_grpc.add_IndexAdminServiceServicer_to_server(self._admin, self._admin_server)  # type: ignore[no-untyped-call]
        for server, service in ((self._server, SEARCH_SERVICE), (self._admin_server, ADMIN_SERVICE)):
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            names = (service, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.address = ""  # host:port, once started
        self.admin_address = ""  # likewise

    @classmethod
    async def start(
        cls, config: ServerConfig, workspace: Workspace, activation: Activation | None = None
    ) -> "TandemServer":
        """Open the current bundle and the histories, warm the models, and listen.

        Args:
            config: Limits, defaults, and where to listen.
            workspace: The store.
            activation: How another bundle becomes current; None: with a gate of default settings, and no mirror.
        Raises:
            ConfigError: If the address cannot be listened on.
            ArtefactError: If there is no current bundle, or it or the history store does not verify.
        """
        host, admin_host = _probe(config.address), _probe(config.admin_address, "server.admin_address")
        bundle = await asyncio.to_thread(_open_current, workspace.bundles, config)
        histories = await asyncio.to_thread(open_histories, config, workspace)
        try:
            pipeline = await asyncio.to_thread(_warm, bundle, histories, config)
            updates = await asyncio.to_thread(
                LiveUpdates, bundle, workspace, max_changed=config.max_live_items, n_threads=config.n_threads
            )
            server = cls(config, workspace, pipeline, updates, histories, activation or Activation(workspace))
            port = _listen(server._server, config.address)
            admin_port = _listen(server._admin_server, config.admin_address)
            await server._server.start()
            await server._admin_server.start()
        except BaseException:
            histories.close()
            raise
        server.address, server.admin_address = f"{host}:{port}", f"{admin_host}:{admin_port}"
        server._following = asyncio.create_task(server._follow())
        await server._health.set(SEARCH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return server

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
            bundle = await asyncio.to_thread(_open_current, self._workspace.bundles, self._config)
            await self._go_over(await asyncio.to_thread(_warm, bundle, self._histories, self._config))
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
                    folder = self._workspace.bundles / version
                    bundle = await asyncio.to_thread(open_bundle, folder, n_threads=self._config.n_threads)
                    pipeline = await asyncio.to_thread(_warm, bundle, self._histories, self._config)
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
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(FOLLOW_S)
            if time.monotonic() - looked_at > self._config.follow_s:
                looked_at = time.monotonic()
                await self._follow_current()
            try:
                await asyncio.get_running_loop().run_in_executor(self._updating, self._catch_up)
            except TandemError as exc:
                logger.error("live updates of another server are missing: %s", exc)
            except Exception as exc:  # the next look may succeed
                logger.error("live updates of another server are missing", exc_info=exc)

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
        """Reload, and only log what goes wrong."""
        try:
            logger.info("serving %s", await self.reload())
        except TandemError as exc:
            logger.error("not reloaded, still serving %s: %s", self.version, exc)
        except Exception as exc:
            logger.error("not reloaded, still serving %s", self.version, exc_info=exc)

    async def stop(self) -> None:
        """Say that no more calls are wanted, let those in flight finish, and close everything."""
        await self._health.set(SEARCH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._admin_server.stop(self._config.drain_timeout_s)
        stopping = asyncio.create_task(self._server.stop(self._config.drain_timeout_s))
        idle_since = time.monotonic()
        while not stopping.done() and time.monotonic() - idle_since < FLUSH_S:
            await asyncio.wait({stopping}, timeout=DRAIN_POLL_S)
            if not self._service.is_idle:
                idle_since = time.monotonic()
        await self._server.stop(None)  # only streams are left, such as health watches, which never end by themselves
        await stopping
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        self._updating.shutdown()
        self._updates.close()
        self._threads.model.shutdown(cancel_futures=True)
        self._threads.disk.shutdown()
        self._histories.close()


def _pull(config: TandemConfig, workspace: Workspace) -> None:
    """Fetch what the bundle store says is current, if there is one; what is here is served if it cannot be had."""
    if config.bundle_store.uri is None:
        return
    from indexer.bundle_store import BundleStore

    try:
        version = BundleStore(config.bundle_store.uri).pull(workspace.bundles)
        logger.info("bundle %s is what the bundle store says is current", version)
    except ArtefactError as exc:
        logger.error("nothing pulled, serving what is here: %s", exc)


def _open_current(bundles: Path, config: ServerConfig) -> Bundle:
    version = current_version(bundles)
    if version is None:
        raise VersionNotFound(
            f"expected a published bundle in {bundles}, found none; run `tandem build` and `tandem publish` first"
        )
    return open_bundle(bundles / version, n_threads=config.n_threads)


def _warm(bundle: Bundle, histories: Histories, config: ServerConfig) -> Pipeline:
    """Return a pipeline that has searched once, so that no shopper waits for lazy set-up."""
    pipeline = Pipeline(bundle, histories, hide_out_of_stock=config.hide_out_of_stock)
    bundle.items.row_of(bundle.items.item(0).item_id)  # makes the look-up, which a search without history never asks
    bundle.suggestions.warm()
    task = SearchTask(
        query=bundle.items.item(0).title, retrieval_depth=config.retrieval_depth, rerank_depth=config.rerank_depth
    )
    pipeline.search(task, Run(deadline=float("inf")))
    return pipeline


def _grpc_server(max_request_bytes: int) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[TolerantReading(search_pb2.DESCRIPTOR.package)],
        options=[
            ("grpc.so_reuseport", 0),  # two servers on one port would each get half of the calls
            ("grpc.max_receive_message_length", max_request_bytes),
        ],
    )


def _listen(server: grpc.aio.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as exc:
        raise _cannot_listen(address, "taken a moment ago") from exc


def _probe(address: str, setting: str = "server.address") -> str:
    """Return the host of an address that can be listened on.

    gRPC would say only that it failed. Asking the operating system first tells why.

    Raises:
        ConfigError: If it cannot be listened on.
    """
    host, separator, port_text = address.rpartition(":")
    if not separator or not host or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise ConfigError(f"expected {setting} as host:port, such as 127.0.0.1:50051, got {address!r}")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host.strip("[]"), int(port_text), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as exc:
        raise _cannot_listen(address, exc.strerror or str(exc), setting) from exc
    return host


def _cannot_listen(address: str, reason: str, setting: str = "server.address") -> ConfigError:
    option = "--address HOST:PORT" if setting == "server.address" else f"--set {setting}=HOST:PORT"
    return ConfigError(
        f"cannot listen on {address}: {reason}; stop what listens there, "
        f"or choose another address: `tandem serve {option}`"
    )
