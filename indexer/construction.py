"""Where a bundle grows until it is whole."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corpus.errors import ArtefactError
from corpus.folders import fsync_path
from corpus.workspace import next_version
from indexer.locking import locked
from indexer.manifest import MANIFEST_FILE

logger = logging.getLogger(__name__)

PREFIX = ".building-"
LOCK_FILE = ".build.lock"
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A folder under construction."""

    version: str  # that it is going to be
    folder: Path


@contextmanager
def construction(bundles: Path) -> Iterator[Site]:
    """Provide a folder, and make it the next version when the block ends well.

    What a killed build left behind is cleared away first. A block that raises leaves nothing behind.

    Args:
        bundles: The workspace's ``bundles/`` folder; made if missing.
    Raises:
        ArtefactError: If another build of this workspace runs, or the disk does not take the bundle.
    """
    with building(bundles) as free:
        if not free:
            raise ArtefactError(f"expected no other build in {bundles}, but one is running; wait for it")
        version = next_version(bundles)
        site = Site(version=version, folder=bundles / f"{PREFIX}{version}")
        try:
            for leftover in bundles.glob(f"{PREFIX}*"):
                logger.info("clearing away %s, which a stopped build left behind", leftover)
                shutil.rmtree(leftover)
            site.folder.mkdir()
            yield site
            settle(site.folder, bundles / version)
        except BaseException as exc:
            shutil.rmtree(site.folder, ignore_errors=True)
            # numpy's own errors have no number
            if isinstance(exc, OSError) and (exc.errno is None or exc.errno in DISK_FAULTS):
                raise ArtefactError(
                    f"expected to write {version} to {bundles}, got: {exc}; free or mend the disk, and build again"
                ) from exc
            raise


@contextmanager
def building(bundles: Path) -> Iterator[bool]:
    """Keep others from building in a workspace; yields False if somebody else builds there already.

    Args:
        bundles: The workspace's ``bundles/`` folder; made if missing.
    Raises:
        ArtefactError: If the folder cannot be written to.
    """
    with locked(bundles, LOCK_FILE, wait=False) as is_free:
        yield is_free


def settle(folder: Path, target: Path) -> None:
    """Give a bundle that is whole its name, so that it is there, readable for every user, or not at all.

    Args:
        folder: Whose files, except the manifest, were flushed by ``hash_files``.
        target: ``bundles/vN``; not there yet.
    """
    for path in folder.rglob("*"):
        # tantivy keeps some of its files to their owner, but a server may run as somebody else
        path.chmod(0o755 if path.is_dir() else 0o644)
    # every other file was flushed when it was hashed; the manifest came after
    with (folder / MANIFEST_FILE).open("rb") as file:
        os.fsync(file.fileno())
    fsync_path(folder)
    folder.rename(target)
    fsync_path(target.parent)
