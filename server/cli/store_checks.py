"""What ``tandem doctor`` looks at in a store, and around the server that is to serve it. Looking changes nothing."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from corpus.errors import ConfigError, TandemError
from server.cli.options import open_store

if TYPE_CHECKING:
    from corpus.workspace import Workspace
    from server.config import ServerConfig

MIN_DAYS_LEFT = 14  # of a certificate
MIN_FREE_BYTES = 1_000_000_000  # besides another bundle
ANSWER_S = 2.0  # for what listens on an address to say who it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def store_checks(store: Path) -> list[Check]:
    """Check a store, and whether a server of it could start here.

    Args:
        store: Its folder.
    """
    try:
        workspace, config = open_store(store, None)
    except TandemError as exc:
        return [Check(name="configuration", ok=False, found=str(exc), remedy="mend tandem.toml")]
    return [
        Check(name="configuration", ok=True, found=str(workspace.config_path)),
        *_bundle(workspace),
        *_addresses(config.server),
        *_access(config.server, workspace),
        _histories(config.server, workspace),
        _space(workspace),
    ]


def _bundle(workspace: Workspace) -> Iterator[Check]:
    from corpus.live_log import read_log
    from indexer.bundle import open_bundle
    from indexer.publish import current_version

    try:
        current = current_version(workspace.bundles)
        if current is None:
            yield Check(name="bundle", ok=False, found="none is published", remedy=f"tandem run {workspace.root}")
            return
        bundle = open_bundle(workspace.bundles / current)
        yield Check(name="bundle", ok=True, found=f"{current}, {len(bundle.items):,} items, verified")
    except TandemError as exc:
        yield Check(name="bundle", ok=False, found=str(exc), remedy="tandem rollback, or build and publish")
        return
    try:
        n_changes = len(read_log(workspace.live).beyond(bundle.manifest.held))
        yield Check(name="live updates", ok=True, found=f"{n_changes:,} calls since {current} was built")
    except TandemError as exc:
        remedy = "restore live/changes.log, or move it away and send the updates again"
        yield Check(name="live updates", ok=False, found=str(exc), remedy=remedy)


def _addresses(config: ServerConfig) -> Iterator[Check]:
    for setting in ("address", "admin_address", "metrics_address"):
        address: str = getattr(config, setting)
        if address:
            yield _address(address, f"server.{setting}")


def _address(address: str, setting: str) -> Check:
    from server.processes.listening import probe, split_address

    name = setting.removeprefix("server.").replace("_", " ")
    try:
        split_address(address, setting)
    except ConfigError as exc:
        return Check(name=name, ok=False, found=str(exc), remedy=f"mend {setting}")
    try:
        probe(address, setting)
    except ConfigError as exc:
        ours = _is_ours(address, setting)
        if ours:
            return Check(name=name, ok=True, found=f"{address}, where a Tandem server answers")
        return Check(name=name, ok=False, found=str(exc), remedy=f"stop what listens there, or change {setting}")
    return Check(name=name, ok=True, found=f"{address}, free")


def _is_ours(address: str, setting: str) -> bool:
    """Tell whether what listens is a Tandem server; one that speaks TLS needs TANDEM_TLS_CA to be known."""
    import urllib.request

    from server.access.credentials import Credentials
    from server.telemetry.health import SEARCH_SERVICE, check_health

    host, _, port = address.rpartition(":")
    target = f"{'127.0.0.1' if host == '0.0.0.0' else '[::1]' if host == '[::]' else host}:{port}"
    if setting != "server.metrics_address":
        shown = Credentials.from_environment()
        return check_health(target, SEARCH_SERVICE, timeout_s=ANSWER_S, credentials=shown) in ("SERVING", "NOT_SERVING")
    try:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=ANSWER_S) as response:
            return b"tandem_bundle_info" in response.read()
    except OSError:
        return False


def _access(config: ServerConfig, workspace: Workspace) -> Iterator[Check]:
    from server.access.api_keys import read_keys
    from server.access.requirements import is_loopback, tls_files
    from server.access.tls import check_certificate

    files = tls_files(config, workspace.root)
    if files is not None:
        try:
            ends = check_certificate(files).not_after
            days_left = (ends - datetime.now(UTC)).days
            found = f"valid until {ends:%Y-%m-%d}, {days_left} days"
            yield Check(name="certificate", ok=days_left >= MIN_DAYS_LEFT, found=found, remedy="renew it, then SIGHUP")
        except ConfigError as exc:
            yield Check(name="certificate", ok=False, found=str(exc), remedy="mend the files it names")
    if config.api_keys is not None:
        path = workspace.root / config.api_keys
        try:
            keys = read_keys(path).keys
            n_expired = sum(key.has_expired(datetime.now(UTC)) for key in keys)
            is_open = bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
            found = f"{len(keys)} keys, {n_expired} expired" + ", and others may read the file" * is_open
            remedy = f"chmod 600 {path}" if is_open else "tandem keys add NAME --scope search"
            yield Check(name="API keys", ok=len(keys) > n_expired and not is_open, found=found, remedy=remedy)
        except ConfigError as exc:
            yield Check(name="API keys", ok=False, found=str(exc), remedy="tandem keys add NAME --scope search")
    others = [each for each in (config.address, config.admin_address) if not is_loopback(each)]
    if others and (files is None or config.api_keys is None):
        found = f"{', '.join(others)}: open to other machines without TLS or without API keys"
        # right where a mesh or a firewall stands before it, so only told
        yield Check(name="access", ok=True, found=found)


def _histories(config: ServerConfig, workspace: Workspace) -> Check:
    if config.history_url is None:
        return _history_file(workspace.root / config.history_path)
    from server.histories.contract import open_histories

    try:
        with closing(open_histories(config, workspace)) as histories:
            histories.history("nobody")
    except TandemError as exc:
        return Check(name="history store", ok=False, found=str(exc), remedy="start Redis, or mend server.history_url")
    return Check(name="history store", ok=True, found="Redis answers")


def _history_file(path: Path) -> Check:
    """Take the right to write, and give it back."""
    import os
    import sqlite3

    from server.histories.sqlite_store import BUSY_TIMEOUT_S, SCHEMA_VERSION

    name, remedy = "history store", f"let the server's user write {path} and its folder"
    if not path.exists():
        folder = next(each for each in path.parents if each.exists())
        can_write = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        found = f"{path} will be made" if can_write else f"{folder} cannot be written"
        return Check(name=name, ok=can_write, found=found, remedy=remedy)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S)) as file:
            file.isolation_level = None
            file.execute("BEGIN IMMEDIATE")
            version = file.execute("PRAGMA user_version").fetchone()[0]
            file.execute("ROLLBACK")
    except sqlite3.Error as exc:
        return Check(name=name, ok=False, found=f"{path}: {exc}", remedy=remedy)
    if not 0 < version <= SCHEMA_VERSION:  # the server brings older ones up to date
        found = f"{path} has version {version}, expected {SCHEMA_VERSION}"
        return Check(name=name, ok=False, found=found, remedy="name another file as server.history_path")
    return Check(name=name, ok=True, found=f"{path}, writable")


def _space(workspace: Workspace) -> Check:
    """Ask for room for another bundle like the largest."""
    sizes = [
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in workspace.bundles.glob("v*")
    ]
    needed = MIN_FREE_BYTES + max(sizes, default=0)
    free = shutil.disk_usage(workspace.root).free
    found = f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB wanted for the next bundle"
    return Check(name="space for bundles", ok=free >= needed, found=found, remedy="tandem gc, or a larger disk")
