"""What a process does until it is killed; importable, so that a fork server can run it."""

import os
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from corpus.items import Item
from corpus.live_log import Change
from corpus.live_log_writer import LiveLogWriter
from corpus.workspace import Workspace
from indexer.construction import construction
from indexer.manifest import MANIFEST_FILE
from indexer.publish import publish, read_current, rollback
from indexer.retention import remove_unused
from tests.indexer.small_bundles import SMALL_FILES, manifest_of


def build_a_small_bundle(workspace: Workspace) -> None:
    with construction(workspace.bundles) as site:
        for name, content in SMALL_FILES.items():
            (site.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (site.folder / name).write_bytes(content)
        (site.folder / MANIFEST_FILE).write_bytes(manifest_of(site.folder, site.version).render())


def append_changes(folder: Path, ready: Connection) -> None:
    """Append to a log of live updates, and shorten it now and then, for ever; tell of each change that was accepted."""
    writer = LiveLogWriter(folder)
    ready.send(writer.last)
    while True:
        sequence = writer.last + 1
        item = Item(item_id=f"n-{sequence}", title="x" * (sequence * 997 % 20_000))
        writer.append(Change(sequence=sequence, time=datetime.now(UTC), upserts=(item,)))
        ready.send(sequence)
        if sequence % 5 == 0:
            writer.prune(sequence - 3)


def build_publish_and_remove(root: Path, ready: Connection) -> None:
    """Build small bundles, publish, roll back and remove, for ever."""
    workspace = Workspace(root)
    ready.send(os.getpid())
    while True:
        build_a_small_bundle(workspace)
        publish(workspace.bundles)
        current = read_current(workspace.bundles)
        if current is not None and current.history:
            rollback(workspace.bundles)
            publish(workspace.bundles)
        remove_unused(workspace, 2)


def build_a_real_bundle(root: Path, ready: Connection) -> None:
    """Build bundles of a trained store, for ever."""
    from indexer.build import build_bundle
    from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER

    ready.send(os.getpid())
    while True:
        build_bundle(Workspace(root), RETRIEVER, RERANKER, BUILD)
