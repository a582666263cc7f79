"""Old bundles, and what killed processes left behind: which of it may go, and removing it.

Whatever goes is first renamed to a name that nothing reads, the renaming is flushed to the disk, and only then are its
files deleted: a kill or a power cut at any moment leaves no bundle that looks whole and lacks a file. What a killed
removal left is removed by the next one.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from corpus.errors import ArtefactError, BundleCorrupt
from corpus.folders import fsync_path
from corpus.workspace import Workspace, versions
from indexer.construction import PREFIX as BUILDING
from indexer.construction import building
from indexer.manifest import MANIFEST_FILE, read_manifest
from indexer.publish import CURRENT_FILE, publishing, read_current
from retrieval.vectors.embeddings import cache_folder

logger = logging.getLogger(__name__)

REMOVING = ".removing-"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Removal(_Part):
    """Something that goes."""

    path: str  # relative to the store's folder
    kind: Literal["bundle", "leftover", "embeddings"]
    size_bytes: int


class RetentionReport(_Part):
    """What was removed, or would be."""

    dry_run: bool
    kept: tuple[str, ...]  # versions, oldest first
    removed: tuple[Removal, ...]
    notes: tuple[str, ...]  # what stays although it may be unused, and why
    freed_bytes: int


def remove_unused(workspace: Workspace, keep: int, *, dry_run: bool = False) -> RetentionReport:
    """Remove old bundles, embeddings that only they used, and what killed processes left behind.

    The version in service, the one that a rollback would serve, and a bundle that is being built are never touched.

    Args:
        workspace: The store.
        keep: The newest so many finished bundles stay; at least 1, so that a version's number is never given twice.
        dry_run: Only tell what would go.
    Raises:
        ArtefactError: If CURRENT cannot be read, or something cannot be removed; what was removed before stays so.
    """
    if keep < 1:
        raise ValueError(f"expected to keep at least 1 bundle, got {keep}")
    bundles = workspace.bundles
    notes: list[str] = []
    with publishing(bundles), building(bundles) as no_build:
        kept, old = _sort(bundles, keep)
        leftovers = [*bundles.glob(f"{REMOVING}*"), *bundles.glob(f".{CURRENT_FILE}.*.tmp")]
        leftovers += workspace.embeddings.glob(f"{REMOVING}*")
        caches: list[Path] = []
        if no_build:
            leftovers += bundles.glob(f"{BUILDING}*")
            caches = _unused_embeddings(workspace, kept, old, notes)
        else:
            notes.append("a build is running: its folder and all embeddings stay")
        removed = [
            *(_removal(workspace, path, "leftover") for path in sorted(leftovers)),
            *(_removal(workspace, path, "embeddings") for path in caches),
            *(_removal(workspace, bundles / version, "bundle") for version in old),
        ]
        if not dry_run:
            # bundles last: they say which embeddings were theirs, also to the next run if this one is killed
            _remove(leftovers)
            _remove(_set_aside(caches))
            _remove(_set_aside([bundles / version for version in old]))
    return RetentionReport(
        dry_run=dry_run,
        kept=tuple(kept),
        removed=tuple(removed),
        notes=tuple(notes),
        freed_bytes=sum(each.size_bytes for each in removed),
    )


def _sort(bundles: Path, keep: int) -> tuple[list[str], list[str]]:
    """Return the finished versions that stay and those that go, each oldest first."""
    finished = versions(bundles, marker=MANIFEST_FILE)
    protected = set(finished[-keep:])
    current = read_current(bundles)
    if current is not None:
        protected |= {current.version, *current.history[-1:]}
    return [v for v in finished if v in protected], [v for v in finished if v not in protected]


def _unused_embeddings(workspace: Workspace, kept: Sequence[str], old: Sequence[str], notes: list[str]) -> list[Path]:
    """Return the cache folders of encoders that bundles which go were built with, and none which stays.

    Others may belong to a model that is being trained or waits for its first build.
    """
    try:
        used = {folder for version in kept for folder in _caches(workspace, version)}
    except BundleCorrupt as exc:
        notes.append(f"all embeddings stay: a bundle that stays does not say which it was built from: {exc}")
        return []
    unused: set[Path] = set()
    for version in old:
        try:
            unused |= _caches(workspace, version)
        except BundleCorrupt as exc:
            notes.append(f"the embeddings of {version} stay: it does not say which they are: {exc}")
    # of what is there alone: a fingerprint is a word of a manifest, and may be written like a path
    folders = workspace.embeddings.iterdir() if workspace.embeddings.is_dir() else ()
    return sorted(folder for folder in folders if folder in unused - used)


def _caches(workspace: Workspace, version: str) -> set[Path]:
    """Return where the embeddings of a bundle's items and of the queries that it knows are cached."""
    retriever = read_manifest(workspace.bundles / version).retriever
    fingerprints = (retriever.item_encoder_fingerprint, retriever.encoder_fingerprint)
    return {cache_folder(workspace.embeddings, fingerprint) for fingerprint in fingerprints}


def _removal(workspace: Workspace, path: Path, kind: Literal["bundle", "leftover", "embeddings"]) -> Removal:
    size = sum(file.lstat().st_size for file in _files(path))
    return Removal(path=path.relative_to(workspace.root).as_posix(), kind=kind, size_bytes=size)


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)


def _set_aside(paths: Sequence[Path]) -> list[Path]:
    """Give folders of one parent names that nothing reads, for good."""
    aside = [path.with_name(f"{REMOVING}{path.name}") for path in paths]
    try:
        for path, target in zip(paths, aside, strict=True):
            path.rename(target)
        if paths:
            fsync_path(paths[0].parent)
    except OSError as exc:
        raise _failed(exc) from exc
    return aside


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        logger.info("removing %s", path)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as exc:
            raise _failed(exc) from exc


def _failed(exc: OSError) -> ArtefactError:
    return ArtefactError(
        f"expected to remove what is not used any more, got: {exc}; mend the disk or the permissions and run it "
        "again: it goes on where it stopped"
    )
