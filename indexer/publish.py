"""Which bundle is served: ``bundles/CURRENT``, flipped atomically.

CURRENT is a small JSON file: the version in service, and the versions that were in service before it, so that a
rollback always knows where to go. It is replaced by writing a temporary file, flushing it, renaming it over the old
one and flushing the folder: after a crash at any moment, either the old or the new version is current. After an
error, such as a full disk, the old one is: a switch that could not be noted down is undone.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corpus.errors import ArtefactError, BundleCorrupt, GateRefused, VersionNotFound
from corpus.folders import fsync_path
from corpus.workspace import find_version, versions
from indexer.locking import locked
from indexer.manifest import MANIFEST_FILE, BundleManifest, Version, read_manifest
from indexer.publications import GateOutcome, Publication, last_recorded, record
from indexer.verify import verify_bundle

logger = logging.getLogger(__name__)

CURRENT_FILE = "CURRENT"
LOCK_FILE = ".publish.lock"
MAX_HISTORY = 50  # rollbacks in a row that stay possible


class Current(BaseModel):
    """The content of CURRENT."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Version
    history: Annotated[tuple[Version, ...], Field(max_length=MAX_HISTORY)] = ()  # published before, oldest first


def publish(
    bundles: Path, version: str | None = None, *, gate: GateOutcome | None = None, reason: str | None = None
) -> str:
    """Verify a bundle and make it the one that is served; ``publications.jsonl`` gets a line.

    Publishing the version that is current already verifies it and changes nothing.

    Args:
        bundles: The workspace's ``bundles/`` folder.
        version: Such as ``v3``; None is the newest.
        gate: What ``indexer.gate.judge`` found on this version; None: it was not asked.
        reason: Why it was not asked.
    Returns:
        The version that is now current.
    Raises:
        VersionNotFound: If there is no such finished bundle.
        GateRefused: If the gate refused it.
        BundleCorrupt: If it does not verify.
        ArtefactError: If the disk does not take the change. In each case the version in service stays.
    """
    chosen = find_version(bundles, version, marker=MANIFEST_FILE).name
    if gate is not None:
        _check_gate(gate, chosen)
    verify_bundle(bundles / chosen)
    with publishing(bundles):
        find_version(bundles, chosen, marker=MANIFEST_FILE)  # `gc` may have taken it meanwhile
        before = read_current(bundles)
        if before is None or before.version != chosen:
            history = () if before is None else (*before.history, before.version)[-MAX_HISTORY:]
            after = Current(version=chosen, history=history)
            _switch(bundles, before, after, _line("publish", chosen, before, gate=gate, reason=reason))
        elif last_recorded(bundles) != chosen:  # a kill came between CURRENT and its line
            parent = None if not before.history else Current(version=before.history[-1])
            _switch(bundles, before, before, _line("publish", chosen, parent, gate=gate, reason=reason))
    return chosen


def rollback(bundles: Path) -> str:
    """Serve the bundle that was published before the current one; called again, the one before that.

    Args:
        bundles: The workspace's ``bundles/`` folder.
    Returns:
        The version that is now current.
    Raises:
        VersionNotFound: If nothing was published before, or that bundle is gone.
        BundleCorrupt: If it does not verify.
        ArtefactError: If the disk does not take the change. In each case the version in service stays.
    """
    with publishing(bundles):
        before = read_current(bundles)
        if before is None or not before.history:
            current = "none" if before is None else before.version
            raise VersionNotFound(
                f"expected a bundle published before the current one ({current}), found none; "
                "name one to serve: `tandem publish STORE VERSION`"
            )
        *history, target = before.history
        find_version(bundles, target, marker=MANIFEST_FILE)
        verify_bundle(bundles / target)
        after = Current(version=target, history=tuple(history))
        _switch(bundles, before, after, _line("rollback", target, before))
    return target


def current_version(bundles: Path) -> str | None:
    """Return the version in service, or None before the first publish.

    Raises:
        ArtefactError: If CURRENT is not what ``publish`` writes.
    """
    current = read_current(bundles)
    return None if current is None else current.version


def list_bundles(bundles: Path) -> list[BundleManifest]:
    """Return the manifests of the finished bundles, oldest first.

    A bundle whose manifest cannot be read is left out and logged: a listing must work when things are broken.
    """
    manifests = []
    for version in versions(bundles, marker=MANIFEST_FILE):
        try:
            manifests.append(read_manifest(bundles / version))
        except BundleCorrupt as exc:
            logger.warning("bundle %s left out of the list: %s", version, exc)
    return manifests


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or a crash, sees the old content or the new, never a part.

    Args:
        path: The file; its folder exists.
        content: All of its new bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def read_current(bundles: Path) -> Current | None:
    """Return the content of CURRENT, or None before the first publish.

    Raises:
        ArtefactError: If it is not what ``publish`` writes, or cannot be read.
    """
    path = bundles / CURRENT_FILE
    try:
        return parse_current(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ArtefactError(f"cannot read {path}: {exc}; check the disk and the file's permissions") from exc


def parse_current(content: bytes, *, source: str) -> Current:
    """Read the bytes of a CURRENT file.

    Args:
        content: All of it.
        source: How messages name it.
    Raises:
        ArtefactError: If it is not what ``publish`` writes.
    """
    try:
        return Current.model_validate_json(content)
    except ValidationError as exc:
        raise ArtefactError(
            f'expected {source} to name a version as {{"version": "v1"}}, got something else; '
            "delete it and run `tandem publish STORE VERSION`"
        ) from exc


def _write_current(bundles: Path, current: Current) -> None:
    write_atomically(bundles / CURRENT_FILE, (json.dumps(current.model_dump(mode="json")) + "\n").encode())


def _switch(bundles: Path, before: Current | None, after: Current, line: Publication) -> None:
    """Change CURRENT and note it down; if either fails, change it back."""
    try:
        if after != before:
            _write_current(bundles, after)
        record(bundles, line)
    except OSError as exc:
        raise ArtefactError(
            f"expected to make {after.version} current in {bundles}, got: {exc}; {_put_back(bundles, before)}; "
            "free or mend the disk, and do it again"
        ) from exc


def _put_back(bundles: Path, before: Current | None) -> str:
    """Undo a switch that failed half-way, and say which version is current now."""
    try:
        if read_current(bundles) != before:
            if before is None:
                (bundles / CURRENT_FILE).unlink()
                fsync_path(bundles)
            else:
                _write_current(bundles, before)
        return "nothing is current, as before" if before is None else f"{before.version} stays current"
    except (OSError, ArtefactError):
        return "and it could not be undone: look with `tandem list` which version is current"


def _line(
    action: Literal["publish", "rollback"],
    version: str,
    before: Current | None,
    *,
    gate: GateOutcome | None = None,
    reason: str | None = None,
) -> Publication:
    parent = None if before is None else before.version
    return Publication(action=action, version=version, parent=parent, time=datetime.now(UTC), gate=gate, reason=reason)


def _check_gate(gate: GateOutcome, version: str) -> None:
    if gate.version != version:
        raise ValueError(f"expected the gate's outcome on {version}, got one on {gate.version}")
    if gate.verdict == "refused":
        failed = "; ".join(check.text() for check in gate.checks if not check.passed)
        raise GateRefused(
            f"expected bundle {version} to pass the release gate on validation, got: {failed}; train it longer or on "
            'more data and build again, or publish it all the same with --force --reason "…"'
        )


@contextmanager
def publishing(bundles: Path) -> Iterator[None]:
    """Keep CURRENT and the folders that it names from being changed by two processes at once.

    Raises:
        ArtefactError: If the folder cannot be written to.
    """
    with locked(bundles, LOCK_FILE):
        yield
