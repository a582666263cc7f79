"""Interrupted trainings: which checkpoint to go on from, and whether it belongs to the same run."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from retrieval.training.checkpoints import newest_checkpoint

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"


def open_checkpoints(folder: Path, identity: dict[str, str], *, resume: bool) -> Path | None:
    """Make the folder ready, and find the checkpoint to go on from.

    Checkpoints of another configuration, data set or retriever are removed: to go on from them would train a model
    that no configuration describes. So are checkpoints that a kill left half written.

    Args:
        folder: Holds the checkpoints.
        identity: What makes a run the same run.
        resume: False starts anew.
    Returns:
        The newest whole checkpoint; None to start at the beginning.
    """
    run_file = folder / RUN_FILE
    if folder.exists() and not (resume and _read(run_file) == identity):
        if resume:
            logger.warning("the interrupted training had another configuration or other data: starting anew")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run_file.write_text(json.dumps(identity), encoding="utf-8")
    return newest_checkpoint(folder)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
