"""A serving process, as its supervisor sees it."""

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from corpus.errors import ArtefactError, ConfigError, TandemError
from corpus.workspace import Workspace
from server.config import TandemConfig
from server.processes.sharing import Beat, Command, Failed, Opened, Report, Serving, Share

Target = Callable[[Connection, TandemConfig, Workspace, Share], None]


class Child:
    """A process and what it told. For the event loop alone."""

    def __init__(self, target: Target, config: TandemConfig, workspace: Workspace, share: Share) -> None:
        """Start it. Spawned: a fork would copy locks in whatever state threads left them.

        Args:
            target: What it runs.
            config: What it is told to serve, and where.
            workspace: The store.
            share: Its place.
        """
        context = multiprocessing.get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, config, workspace, share))
        self._process.start()
        theirs.close()  # so that its end is noticed
        self.number = share.number
        self.has_opened = False
        self.serving: Serving | None = None
        self.is_wedged = False
        self.is_ending = False
        self.failure: TandemError | None = None
        self.serving_since = 0.0
        self._heard: asyncio.Queue[Report | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._link.fileno(), self._read)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    @property
    def is_well(self) -> bool:
        """Whether it answers calls, and is expected to go on."""
        return self.serving is not None and not self.is_wedged and not self.is_ending

    @property
    def served_s(self) -> float:
        """For how long it has answered calls."""
        return 0.0 if self.serving is None else time.monotonic() - self.serving_since

    async def next_report(self) -> Report | None:
        """Wait for what it tells next, and take note of it; None once it has ended."""
        report = await self._heard.get()
        if isinstance(report, Opened):
            self.has_opened = True
        elif isinstance(report, Serving):
            self.serving, self.serving_since = report, time.monotonic()
        elif isinstance(report, Beat):
            self.is_wedged = report.is_wedged
        elif isinstance(report, Failed):
            self.failure = (ConfigError if report.is_config else ArtefactError)(report.message)
        return report

    def tell(self, command: Command) -> None:
        """Tell it to do something; one that is about to end does not hear it."""
        with contextlib.suppress(OSError):
            self._link.send(command)

    def end(self, *, within_s: float) -> None:
        """Let it answer the calls in flight, and end; after some seconds, end it."""
        if not self.is_ending:
            self.is_ending = True
            self._process.terminate()
            self._loop.call_later(within_s, self.kill)

    def kill(self) -> None:
        """End it at once; one that has ended is left alone."""
        self.is_ending = True
        self._process.kill()

    async def end_code(self) -> int:
        """Wait until it has ended; return its exit code, or the number of a signal, negative."""
        await asyncio.to_thread(self._process.join)
        return self._process.exitcode or 0

    def _read(self) -> None:
        try:
            report = self._link.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._link.fileno())
            self._link.close()
            report = None
        self._heard.put_nowait(report)
