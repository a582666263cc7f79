"""Holding a server in the middle of its work, and waiting for what it does by itself."""

import threading
import time

from server.stages.ranking import Run

QUERY = "red acme shoe"


class Gate:
    """Holds whatever runs in a server's pipeline until it is opened."""

    def __init__(self, server, monkeypatch) -> None:
        self.entered = threading.Semaphore(0)
        self._opened = threading.Event()
        pipeline = server._service.pipeline
        search = pipeline.search

        def wait_and_search(task, run: Run):
            self.entered.release()
            assert self._opened.wait(60)
            return search(task, run)

        monkeypatch.setattr(pipeline, "search", wait_and_search)

    def open(self) -> None:
        self._opened.set()


def eventually(condition, *, within_s: float = 30) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
