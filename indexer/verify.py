"""Is a bundle byte for byte what was built? Asked before any library parses one of its files."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from corpus.errors import BundleCorrupt
from corpus.folders import fsync_path
from indexer.manifest import MANIFEST_FILE, BundleManifest, FileEntry, read_manifest

T = TypeVar("T")

MAX_HASHING_THREADS = 8  # hashlib releases the interpreter's lock, so threads hash side by side


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Digest every file of a bundle under construction and flush each to the disk.

    Args:
        folder: The bundle's folder; a ``manifest.json`` in it is left out.
    Returns:
        Path inside the folder (with ``/``) → digest and size, in the order of the paths.
    Raises:
        BundleCorrupt: If the folder holds a link or anything else that is no plain file or folder.
    """
    names, faults = _list_files(folder)
    if faults:
        raise _corrupt(folder, faults)
    entries = _in_parallel(lambda name: _entry(folder / name, flush=True), names)
    for directory, _, _ in os.walk(folder):
        fsync_path(Path(directory))
    return dict(zip(names, entries, strict=True))


def verify_bundle(folder: Path) -> BundleManifest:
    """Check the manifest, and then the name, size and SHA-256 of every file.

    Args:
        folder: A bundle version's folder.
    Returns:
        The manifest, which may now be trusted to describe the folder.
    Raises:
        BundleCorrupt: Naming every file that is missing, unknown, changed, unreadable, a link or of another size.
    """
    manifest = read_manifest(folder)
    faults = _faults(folder, manifest)
    if faults:
        raise _corrupt(folder, faults)
    return manifest


def find_faults(folder: Path) -> list[str]:
    """Return what ``verify_bundle`` would complain about, one text per bad file; none if the bundle is whole.

    Args:
        folder: A bundle version's folder. Without a readable manifest nothing says what should be in it, and that is
            the only fault.
    """
    try:
        manifest = read_manifest(folder)
    except BundleCorrupt as exc:
        return [f"{MANIFEST_FILE} ({exc})"]
    return _faults(folder, manifest)


def check_file(folder: Path, name: str, expected: FileEntry) -> str | None:
    """Say what is wrong with one plain file of a bundle, or None if it is what the manifest says.

    Args:
        folder: The bundle's folder.
        name: Its path inside the folder, from a verified manifest.
        expected: Its entry there.
    """
    try:
        if (size := (folder / name).stat().st_size) != expected.size_bytes:
            return f"{name} (expected {expected.size_bytes} bytes, got {size})"
        if _entry(folder / name) != expected:
            return f"{name} (content changed: its SHA-256 differs from the manifest's)"
    except OSError as exc:
        return f"{name} (unreadable: {exc.strerror})"
    return None


def _faults(folder: Path, manifest: BundleManifest) -> list[str]:
    names, faults = _list_files(folder)
    known, found = manifest.files, set(names)
    faults += [f"{name} (unknown: not in the manifest)" for name in names if name not in known]
    faults += [f"{name} (missing)" for name in known if name not in found]
    present = [name for name in names if name in known]
    faults += filter(None, _in_parallel(lambda name: check_file(folder, name, known[name]), present))
    return faults


def _list_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the plain files below a folder (all but the manifest), and what is there besides, as faults."""
    names: list[str] = []
    faults: list[str] = []
    for path, kind in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if kind != "file":
            faults.append(f"{name} ({kind})")
        elif name != MANIFEST_FILE:
            names.append(name)
    return sorted(names), sorted(faults)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every plain file, and everything that has no business in a bundle, with what it is."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as exc:
        yield folder, f"unreadable: {exc.strerror}"
        return
    for entry in entries:
        if entry.is_symlink():
            yield Path(entry.path), "symbolic link: only plain files and folders may be here"
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path), "file"
        else:
            yield Path(entry.path), "special file: only plain files and folders may be here"


def _entry(path: Path, *, flush: bool = False) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
        return FileEntry(sha256=digest, size_bytes=file.tell())


def _in_parallel(work: Callable[[str], T], names: list[str]) -> list[T]:
    n_threads = min(MAX_HASHING_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="bundle-hash") as pool:
        return list(pool.map(work, names))


def _corrupt(folder: Path, faults: list[str]) -> BundleCorrupt:
    return BundleCorrupt(
        f"expected the bundle in {folder} to be what was built, found {len(faults)} bad file(s): {'; '.join(faults)}; "
        "build it again, or roll back"
    )
