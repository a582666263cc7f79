"""``tandem serve``: a process with a server in it, alone, or one of several under a supervisor."""

import asyncio
import contextlib
import logging
import os
import signal
from multiprocessing.connection import Connection

from corpus.errors import ConfigError, TandemError
from corpus.workspace import Workspace
from server.activation import Activation
from server.config import TandemConfig
from server.opening import pull_current
from server.processes.sharing import Beat, Command, Failed, Opened, Report, Serving, Share
from server.serve import TandemServer
from server.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

BEAT_S = 0.5  # between signs of life


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
    await asyncio.to_thread(pull_current, config, workspace)
    activation = Activation(workspace, config.gate, config.bundle_store)
    server = await TandemServer.start(config.server, workspace, activation)
    reloads: set[asyncio.Task[None]] = set()

    async def pull_and_reload() -> None:
        await asyncio.to_thread(pull_current, config, workspace)
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
    if server.metrics_address:
        logger.info("metrics on http://%s/metrics", server.metrics_address)
    await stopped.wait()
    logger.info("stopping: no new calls; %g s for those in flight", config.server.drain_timeout_s)
    await server.stop()
    logger.info("stopped")


def serve_share(link: Connection, config: TandemConfig, workspace: Workspace, share: Share) -> None:
    """Serve beside siblings until SIGTERM, or until the supervisor is gone; the whole life of a spawned process.

    Args:
        link: To the supervisor: ``server.processes.sharing`` says what is told there.
        config: Addresses are those that the supervisor keeps.
        workspace: The store.
        share: This process's place.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the supervisor as well, who sees to it
        signal.signal(number, signal.SIG_IGN)
    configure_logging(config.server.log_level, process=share.number)
    try:
        asyncio.run(_ServedShare(link, config, workspace, share).run())
    except TandemError as exc:
        _tell(link, Failed(message=str(exc), is_config=isinstance(exc, ConfigError)))
        raise SystemExit(1) from None
    except Exception as exc:
        logger.error("unexpected error", exc_info=exc)
        raise SystemExit(1) from None


class _ServedShare:
    """A server under a supervisor."""

    def __init__(self, link: Connection, config: TandemConfig, workspace: Workspace, share: Share) -> None:
        self._link = link
        self._config = config
        self._workspace = workspace
        self._share = share
        self._commands: asyncio.Queue[Command] = asyncio.Queue()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self._read)
        activation = Activation(self._workspace, self._config.gate, self._config.bundle_store)
        server = await TandemServer.start(self._config.server, self._workspace, activation, self._share, self._opened)
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)  # which ended the process at once until now
        _tell(self._link, Serving(version=server.version, metrics_address=server.metrics_address))
        tasks = [loop.create_task(self._obey(server)), loop.create_task(self._live(server))]
        await stopped.wait()
        for task in tasks:
            task.cancel()
        await server.stop()

    def _read(self) -> None:
        try:
            self._commands.put_nowait(self._link.recv())
        except (EOFError, OSError):  # the supervisor is gone, and with it whoever could stop this process
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            os.kill(os.getpid(), signal.SIGTERM)

    async def _opened(self) -> None:
        _tell(self._link, Opened())
        while await self._commands.get() is not Command.LISTEN:
            pass  # what was just opened is current

    async def _obey(self, server: TandemServer) -> None:
        while True:
            if await self._commands.get() is Command.RELOAD:
                await server.try_reload()

    async def _live(self, server: TandemServer) -> None:
        while True:
            _tell(self._link, Beat(is_wedged=server.is_wedged))
            await asyncio.sleep(BEAT_S)


def _tell(link: Connection, report: Report) -> None:
    with contextlib.suppress(OSError):  # without a supervisor, the other end's silence ends this process
        link.send(report)
