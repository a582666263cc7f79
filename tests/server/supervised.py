"""Servers of several processes, run as ``tandem serve`` runs them, and what their log says."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server.gates import eventually

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "address": "127.0.0.1:0",
    "admin_address": "127.0.0.1:0",
    "metrics_address": "127.0.0.1:0",
    "default_timeout_ms": 60_000,
    "n_threads": 1,
    "wedged_after_s": 10,
}


class Supervised:
    """A running supervisor."""

    def __init__(self, process: subprocess.Popen, log: Path, settings: dict[str, object]) -> None:
        self.process = process
        self.settings = settings
        self._log = log

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def said(self, pattern: str) -> re.Match[str] | None:
        assert self.process.poll() is None, self.text
        return re.search(pattern, self.text)

    def wait_for(self, pattern: str) -> re.Match[str]:
        eventually(lambda: self.said(pattern), within_s=120)
        found = self.said(pattern)
        assert found is not None
        return found

    @property
    def address(self) -> str:
        return self.wait_for(r"serving v\d+ on (127\.0\.0\.1:\d+) with")[1]

    @property
    def admin_address(self) -> str:
        return self.wait_for(r"taking updates on (127\.0\.0\.1:\d+)")[1]

    @property
    def metrics_address(self) -> str:
        return self.wait_for(r"metrics on http://(127\.0\.0\.1:\d+)/")[1]

    @property
    def pids(self) -> dict[int, int]:
        """Of the serving processes, by number, the latest of each."""
        return {number: self.pids_of(number)[-1] for number in (1, 2)}

    def pids_of(self, number: int) -> list[int]:
        """Of a process's lives, the first one first."""
        return [int(pid) for pid in re.findall(rf"process {number} has pid (\d+)", self.text)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@contextmanager
def supervised(
    root: Path, log: Path, *, n_processes: int = 2, target: str = "", **settings: object
) -> Iterator[Supervised]:
    """Run a supervisor on free ports until the end of the block.

    Args:
        root: The store's folder.
        log: Takes what it says.
        n_processes: Of it.
        target: Name of a function of ``tests.server.troubled``, which processes run; empty: what they run for shoppers.
        settings: Of ``[server]``, beside ``SETTINGS``.
    """
    arguments = [str(root), json.dumps(SETTINGS | settings), str(n_processes), target]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.supervised", *arguments], stderr=output, cwd=ROOT, env=os.environ
        )
    try:
        yield Supervised(process, log, settings)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        sys.stdout.write(log.read_text())  # which pytest shows beside a failure


def main(root: str, settings: str, n_processes: str, target: str) -> None:
    from corpus.errors import TandemError
    from corpus.workspace import Workspace
    from server.config import ServerConfig, TandemConfig
    from server.processes.supervisor import Supervisor
    from tests.server import troubled

    told = json.loads(settings)
    options: dict[str, Callable[..., None] | float] = {}
    if target:
        options["target"] = getattr(troubled, target)
    if "silence_s" in told:
        options["silence_s"] = told.pop("silence_s")
    config = TandemConfig(server=ServerConfig(**told))
    try:
        asyncio.run(Supervisor(config, Workspace(Path(root)), n_processes=int(n_processes), **options).run())
    except TandemError as exc:
        sys.stderr.write(f"error: {exc}\n")
        raise SystemExit((type(exc).__name__ == "ConfigError" and 2) or 1) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
