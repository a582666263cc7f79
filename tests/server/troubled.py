"""Serving processes with a fault of their own, as targets of a supervisor."""

import os
import signal
import threading

from server.processes.process import serve_share


def dies_at_start(link, config, workspace, share) -> None:
    if share.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    serve_share(link, config, workspace, share)


def gets_stuck(link, config, workspace, share) -> None:
    """Process 1 searches for ever when it is asked for an anvil, but not in its second life."""
    from server.pipeline import Pipeline

    mark = workspace.root / "had-a-first-life"
    if share.number == 1 and not mark.exists():
        mark.touch()
        search = Pipeline.search

        def search_or_hang(self, task, run):
            if task.query == "anvil":
                threading.Event().wait()
            return search(self, task, run)

        Pipeline.search = search_or_hang  # type: ignore[method-assign]
    serve_share(link, config, workspace, share)
