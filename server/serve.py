"""``tandem serve``: the process around the services. Start, health, reload, drain."""

import asyncio
import logging
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from corpus.errors import ArtefactError, ConfigError, TandemError, VersionNotFound
from corpus.workspace import Workspace
from indexer.bundle import Bundle, open_bundle
from indexer.publish import current_version
from server.config import ServerConfig, TandemConfig
from server.history_store import HistoryStore
from server.logs import configure_logging
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.pipeline import Pipeline
from server.ranking import Run, SearchTask
from server.service import IndexAdminService, SearchService, Threads
from server.wire import TolerantReading

logger = logging.getLogger(__name__)

SEARCH_SERVICE = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
ADMIN_SERVICE = search_pb2.DESCRIPTOR.services_by_name["IndexAdminService"].full_name
MAX_REQUEST_BYTES = 1 << 20  # 100 events, or a search with 200, with every field at its limit
N_DISK_THREADS = 4
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
    server = await TandemServer.start(config.server, workspace)
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
    await stopped.wait()
    logger.info("stopping: no new calls; %g s for those in flight", config.server.drain_timeout_s)
    await server.stop()
    logger.info("stopped")


class TandemServer:
    """A running server."""

    def __init__(self, config: ServerConfig, workspace: Workspace, pipeline: Pipeline, histories: HistoryStore) -> None:
        """Join the parts; ``start`` makes them."""
        self._config = config
        self._workspace = workspace
        self._histories = histories
        self._threads = Threads(
            model=ThreadPoolExecutor(1, thread_name_prefix="model"),
            disk=ThreadPoolExecutor(N_DISK_THREADS, thread_name_prefix="disk"),
        )
        self._service = SearchService(pipeline, histories, config, self._threads)
        self._health = health.aio.HealthServicer()
        self._reloading = asyncio.Lock()
        self._server = grpc.aio.server(
            interceptors=[TolerantReading(search_pb2.DESCRIPTOR.package)],
            options=[
                ("grpc.so_reuseport", 0),  # two servers on one port would each get half of the calls
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
            ],
        )
        search_pb2_grpc.add_SearchServiceServicer_to_server(self._service, self._server)  # type: ignore[no-untyped-call]
        search_pb2_grpc.add_IndexAdminServiceServicer_to_server(IndexAdminService(), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SEARCH_SERVICE, ADMIN_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.address = ""  # host:port, once started

    @classmethod
    async def start(cls, config: ServerConfig, workspace: Workspace) -> "TandemServer":
        """Open the current bundle and the histories, warm the models, and listen.

        Args:
            config: Limits, defaults, and where to listen.
            workspace: The store.
        Raises:
            ConfigError: If the address cannot be listened on.
            ArtefactError: If there is no current bundle, or it or the history store does not verify.
        """
        host = _probe(config.address)
        bundle = await asyncio.to_thread(_open_current, workspace.bundles, config)
        histories = HistoryStore(
            workspace.root / config.history_path,
            max_events=config.history_max_events,
            ttl=timedelta(days=config.history_ttl_days),
        )
        try:
            pipeline = await asyncio.to_thread(_warm, bundle, histories, config)
            server = cls(config, workspace, pipeline, histories)
            try:
                port = server._server.add_insecure_port(config.address)
            except RuntimeError as exc:
                raise _cannot_listen(config.address, "taken a moment ago") from exc
            await server._server.start()
        except BaseException:
            histories.close()
            raise
        server.address = f"{host}:{port}"
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
            current = await asyncio.to_thread(current_version, self._workspace.bundles)
            if current != self.version:
                bundle = await asyncio.to_thread(_open_current, self._workspace.bundles, self._config)
                self._service.pipeline = await asyncio.to_thread(_warm, bundle, self._histories, self._config)
            return self.version

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
        stopping = asyncio.create_task(self._server.stop(self._config.drain_timeout_s))
        idle_since = time.monotonic()
        while not stopping.done() and time.monotonic() - idle_since < FLUSH_S:
            await asyncio.wait({stopping}, timeout=DRAIN_POLL_S)
            if not self._service.is_idle:
                idle_since = time.monotonic()
        await self._server.stop(None)  # only streams are left, such as health watches, which never end by themselves
        await stopping
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


def _warm(bundle: Bundle, histories: HistoryStore, config: ServerConfig) -> Pipeline:
    """Return a pipeline that has searched once, so that no shopper waits for lazy set-up."""
    pipeline = Pipeline(bundle, histories, hide_out_of_stock=config.hide_out_of_stock)
    task = SearchTask(
        query=bundle.items.item(0).title, retrieval_depth=config.retrieval_depth, rerank_depth=config.rerank_depth
    )
    pipeline.search(task, Run(deadline=float("inf")))
    return pipeline


def _probe(address: str) -> str:
    """Return the host of an address that can be listened on.

    gRPC would say only that it failed. Asking the operating system first tells why.

    Raises:
        ConfigError: If it cannot be listened on.
    """
    host, separator, port_text = address.rpartition(":")
    if not separator or not host or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise ConfigError(f"expected server.address as host:port, such as 127.0.0.1:50051, got {address!r}")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host.strip("[]"), int(port_text), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            probe.listen(1)
    except OSError as exc:
        raise _cannot_listen(address, exc.strerror or str(exc)) from exc
    return host


def _cannot_listen(address: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot listen on {address}: {reason}; stop what listens there, "
        "or choose another address: `tandem serve --address HOST:PORT`"
    )
