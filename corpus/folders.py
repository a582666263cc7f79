"""Folders that appear whole or not at all, and a disk that does not take what is written."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polars.exceptions import PolarsError

from corpus.errors import ArtefactError


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
            fsync_path(path)
    fsync_path(fresh)
    if target.exists():
        target.rename(stale)
    fresh.rename(target)
    fsync_path(target.parent)
    if stale.exists():
        shutil.rmtree(stale)


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a folder's own entries, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what to do if the disk does not take what a block writes.

    Args:
        path: What is written.
    Raises:
        ArtefactError: In the place of what Python or polars raises of the disk.
    """
    try:
        yield
    except (OSError, PolarsError) as exc:
        if isinstance(exc, PolarsError) and "os error" not in str(exc):
            raise
        raise ArtefactError(f"expected to write {path}, got: {exc}; free or mend the disk") from exc
