"""Finding the checkpoint to resume from after a kill."""

import json
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")
_WRITTEN_LAST = "trainer_state.json"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder of a transformers ``Trainer``; None if there is none.

    A kill may come while a checkpoint is written. The trainer writes its state last, so a checkpoint without a
    readable one is a fragment, and is removed.
    """
    found = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    whole = None
    for _, path in sorted(found.items()):
        if _is_whole(path):
            whole = path
        else:
            shutil.rmtree(path)
    return whole


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / _WRITTEN_LAST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "global_step" in state
