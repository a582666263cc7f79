"""Which bundle is served: ``bundles/CURRENT``, flipped atomically.

CURRENT is a small JSON file: the version in service, and the versions that were in service before it, so that a
rollback always knows where to go. It is replaced by writing a temporary file, flushing it, renaming it over the old
one and flushing the folder: after a crash at any moment, either the old or the new version is current.
"""

import fcntl
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
from corpus.workspace import find_version, versions
from indexer.manifest import MANIFEST_FILE, BundleManifest, Version, read_manifest
from indexer.publications import GateOutcome, Publication, record
from indexer.verify import fsync_folder, verify_bundle

logger = logging.getLogger(__name__)

CURRENT_FILE = "CURRENT"
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
        BundleCorrupt: If it does not verify. In each case the version in service stays.
    """
    chosen = find_version(bundles, version, marker=MANIFEST_FILE).name
    if gate is not None:
        _check_gate(gate, chosen)
    verify_bundle(bundles / chosen)
    with _locked(bundles):
        before = _read_current(bundles)
        if before is None or before.version != chosen:
            history = () if before is None else (*before.history, before.version)[-MAX_HISTORY:]
            _write_current(bundles, Current(version=chosen, history=history))
            _record(bundles, "publish", chosen, before, gate=gate, reason=reason)
    return chosen


def rollback(bundles: Path) -> str:
    """Serve the bundle that was published before the current one; called again, the one before that.

    Args:
        bundles: The workspace's ``bundles/`` folder.
    Returns:
        The version that is now current.
    Raises:
        VersionNotFound: If nothing was published before, or that bundle is gone.
        BundleCorrupt: If it does not verify. In each case the version in service stays.
    """
    with _locked(bundles):
        before = _read_current(bundles)
        if before is None or not before.history:
            current = "none" if before is None else before.version
            raise VersionNotFound(
                f"expected a bundle published before the current one ({current}), found none; "
                "name one to serve: `tandem publish STORE VERSION`"
            )
        *history, target = before.history
        find_version(bundles, target, marker=MANIFEST_FILE)
        verify_bundle(bundles / target)
        _write_current(bundles, Current(version=target, history=tuple(history)))
        _record(bundles, "rollback", target, before)
    return target


def current_version(bundles: Path) -> str | None:
    """Return the version in service, or None before the first publish.

    Raises:
        ArtefactError: If CURRENT is not what ``publish`` writes.
    """
    current = _read_current(bundles)
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
    fsync_folder(path.parent)


def _read_current(bundles: Path) -> Current | None:
    path = bundles / CURRENT_FILE
    try:
        return Current.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise ArtefactError(
            f'expected {path} to name a version as {{"version": "v1"}}, got something else; '
            "delete it and run `tandem publish STORE VERSION`"
        ) from exc


def _write_current(bundles: Path, current: Current) -> None:
    write_atomically(bundles / CURRENT_FILE, (json.dumps(current.model_dump(mode="json")) + "\n").encode())


def _record(
    bundles: Path,
    action: Literal["publish", "rollback"],
    version: str,
    before: Current | None,
    *,
    gate: GateOutcome | None = None,
    reason: str | None = None,
) -> None:
    parent = None if before is None else before.version
    time = datetime.now(UTC)
    record(bundles, Publication(action=action, version=version, parent=parent, time=time, gate=gate, reason=reason))


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
def _locked(bundles: Path) -> Iterator[None]:
    """Keep two publishing processes from overwriting each other's history."""
    bundles.mkdir(parents=True, exist_ok=True)
    with (bundles / ".publish.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
