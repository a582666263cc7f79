"""Folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``target`` once the block ends without an error.

    Until then ``target`` is what it was; after an error the new folder is removed. One process at a time: what a
    killed one left behind is cleared away first.

    Args:
        target: The folder to create or replace.
    """
    fresh = target.parent / f".{target.name}.new"
    stale = target.parent / f".{target.name}.old"
    target.parent.mkdir(parents=True, exist_ok=True)
    if stale.exists() and not target.exists():
        stale.rename(target)  # killed between the two renames below
    for leftover in (fresh, stale):
        if leftover.exists():
            shutil.rmtree(leftover)
    fresh.mkdir()
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for path in fresh.rglob("*"):
        if path.is_file():
            _sync(path)
    _sync(fresh)
    if target.exists():
        target.rename(stale)
    fresh.rename(target)
    _sync(target.parent)
    if stale.exists():
        shutil.rmtree(stale)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
