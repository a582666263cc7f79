"""``tandem serve`` with several processes: starts them together, replaces those that end, and stops them together.

Each process is a whole server, and the kernel gives each its share of the connections to the one port. What can be
wrong with a configuration is found before any of them is started.
"""

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from corpus.errors import TandemError
from corpus.workspace import Workspace
from server.access.requirements import Access
from server.config import TandemConfig
from server.histories.contract import open_histories
from server.opening import pull_current
from server.processes.child import Child, Target
from server.processes.listening import probe_all, reserve
from server.processes.process import serve_share
from server.processes.sharing import Command, Failed, Opened, Serving, Share, n_threads_of
from server.telemetry.joint_metrics import JointMetrics
from server.telemetry.logs import configure_logging
from server.telemetry.metrics import MetricsEndpoint

logger = logging.getLogger(__name__)

MAX_STARTS = 3  # in a row that may fail while no process serves
STABLE_S = 60.0  # of serving, after which earlier ends count no more
FIRST_PAUSE_S = 0.5  # before the second start in a row; doubles
MAX_PAUSE_S = 30.0
SILENCE_S = 30.0  # after which a serving process counts as lost: its event loop stands still
FAREWELL_S = 5.0  # beyond the drain, for closing everything


class Supervisor:
    """Keeps a number of serving processes."""

    def __init__(
        self,
        config: TandemConfig,
        workspace: Workspace,
        *,
        n_processes: int,
        target: Target = serve_share,
        silence_s: float = SILENCE_S,
    ) -> None:
        """Start nothing yet.

        Args:
            config: Of which ``[server]``, ``[gate]`` and ``[bundle_store]`` are used.
            workspace: The store.
            n_processes: How many are to serve.
            target: What each runs.
            silence_s: Seconds without a word after which a serving process is replaced.
        """
        self._config = config
        self._workspace = workspace
        self._n_processes = n_processes
        self._target = target
        self._silence_s = silence_s
        self._patience_s = config.server.drain_timeout_s + FAREWELL_S
        self._children: dict[int, Child] = {}
        self._stop = asyncio.Event()
        self._has_opened = False  # all had, once: who opens from then on may listen at once
        self._has_served = False  # likewise
        self._metrics = JointMetrics(n_processes)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP lets all processes reload.

        Raises:
            ConfigError: If an address, a certificate, the API keys or the key of histories cannot be used.
            ArtefactError: If there is no bundle or history store that can be served, or processes end time and again.
        """
        settings = self._config.server
        configure_logging(settings.log_level, process=0)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await asyncio.to_thread(pull_current, self._config, self._workspace)
        probe_all(settings)
        Access(settings, self._workspace.root)
        # made or brought up to date by one, before there are several
        await asyncio.to_thread(lambda: open_histories(settings, self._workspace).close())
        with contextlib.ExitStack() as kept:
            config = kept.enter_context(self._kept_ports())
            folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="tandem-")))
            if settings.metrics_address:
                endpoint = MetricsEndpoint.listen(settings.metrics_address, self._metrics)
                kept.callback(endpoint.close)
                logger.info("metrics on http://%s/metrics", endpoint.address)
            reloads: set[asyncio.Task[None]] = set()  # the loop itself keeps tasks only weakly
            loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(loop.create_task(self._reload())))
            shares = [
                Share(number=number, n_processes=self._n_processes, folder=folder)
                for number in range(1, self._n_processes + 1)
            ]
            await self._keep_all([loop.create_task(self._keep(config, share)) for share in shares])
        logger.info("stopped")

    async def _keep_all(self, keepers: list[asyncio.Task[None]]) -> None:
        """Wait until a signal wants an end, or a keeper gives up; then end all processes."""
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        logger.info("stopping: no new calls; %g s for those in flight", self._config.server.drain_timeout_s)
        self._stop.set()
        for child in self._children.values():
            child.end(within_s=self._patience_s)
        await asyncio.wait(keepers)
        await stopping
        for keeper in keepers:
            keeper.result()

    @contextlib.contextmanager
    def _kept_ports(self) -> Iterator[TandemConfig]:
        """Keep the ports, and return what processes are told: addresses with their ports, and their share of cores."""
        settings = self._config.server
        kept, address = reserve(settings.address, "server.address")
        with kept:
            kept_too, admin_address = reserve(settings.admin_address, "server.admin_address")
            with kept_too:
                n_threads = n_threads_of(settings, self._n_processes)
                # FAISS and LightGBM read it when they are loaded
                os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
                told = {
                    "address": address,
                    "admin_address": admin_address,
                    "metrics_address": "127.0.0.1:0" if settings.metrics_address else "",
                    "n_threads": n_threads,
                }
                yield self._config.model_copy(update={"server": settings.model_copy(update=told)})

    async def _keep(self, config: TandemConfig, share: Share) -> None:
        """Let a process serve, and another one in its place whenever it ends, until all are to stop."""
        n_short = 0  # lives in a row
        while not self._stop.is_set():
            child = self._children[share.number] = Child(self._target, config, self._workspace, share)
            logger.info("process %d has pid %d", share.number, child.pid)
            await self._accompany(child, config)
            code = await child.end_code()
            del self._children[share.number]
            if self._stop.is_set():
                return
            self._metrics.ended(share.number)
            n_short = 1 if child.served_s > STABLE_S else n_short + 1
            self._check_that_to_go_on_makes_sense(child, code, n_short)
            pause_s = 0.0 if n_short == 1 else min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (n_short - 2))
            told = f": {child.failure}" if child.failure is not None else ""
            logger.error("process %d ended with %d, and is started again in %g s%s", share.number, code, pause_s, told)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _accompany(self, child: Child, config: TandemConfig) -> None:
        """Do what a process's reports ask for, until it ends."""
        while True:
            patience_s = self._silence_s if child.serving is not None and not child.is_ending else None
            try:
                report = await asyncio.wait_for(child.next_report(), patience_s)
            except TimeoutError:
                logger.error("process %d has not been heard of for %g s: killed", child.number, self._silence_s)
                child.kill()
                continue
            if report is None:
                return
            if isinstance(report, Opened):
                self._let_listen(child)
            elif isinstance(report, Serving):
                self._metrics.serves(child.number, report.metrics_address)
                self._note_that_all_serve(report, config)
            elif isinstance(report, Failed):
                child.end(within_s=self._patience_s)
            elif child.is_wedged:
                self._replace_if_others_serve(child)

    def _let_listen(self, opened: Child) -> None:
        """Let processes listen: all of them once all have opened for the first time, later ones at once."""
        if self._has_opened:
            opened.tell(Command.LISTEN)
        elif sum(child.has_opened for child in self._children.values()) == self._n_processes:
            self._has_opened = True
            for child in self._children.values():
                child.tell(Command.LISTEN)

    def _note_that_all_serve(self, report: Serving, config: TandemConfig) -> None:
        n_serving = sum(child.serving is not None for child in self._children.values())
        if n_serving == self._n_processes:
            self._has_served = True
            logger.info("serving %s on %s with %d processes", report.version, config.server.address, n_serving)
            logger.info("taking updates on %s", config.server.admin_address)

    def _replace_if_others_serve(self, wedged: Child) -> None:
        """End a process whose models are stuck; all at once would be an outage, and may be the machine's fault."""
        if not wedged.is_ending and any(child.is_well for child in self._children.values()):
            logger.error("process %d is replaced: its models have been stuck", wedged.number)
            wedged.end(within_s=self._patience_s)

    def _check_that_to_go_on_makes_sense(self, child: Child, code: int, n_short: int) -> None:
        """Give up while nothing serves: after what a process said of bundle or configuration, or too many ends."""
        if child.failure is not None and not self._has_served:
            raise child.failure
        if n_short >= MAX_STARTS and not any(other.serving for other in self._children.values()):
            raise child.failure or TandemError(
                f"expected serving processes to stay, but one ended {n_short} times in a row, the last time with exit "
                f"code {code} (below 0: by that signal; -9 may be want of memory); its log lines say more"
            )

    async def _reload(self) -> None:
        await asyncio.to_thread(pull_current, self._config, self._workspace)
        for child in self._children.values():
            child.tell(Command.RELOAD)
