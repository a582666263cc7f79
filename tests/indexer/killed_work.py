"""What a process does until it is killed; importable, so that a fork server can run it."""

import os
from multiprocessing.connection import Connection
from pathlib import Path

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
