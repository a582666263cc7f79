import shutil
from pathlib import Path

import pytest

from corpus.prepared import Prepared
from corpus.workspace import Workspace
from indexer.build import BuildReport, build_bundle
from tests.indexer.small_bundles import write_small_bundle
from tests.indexer.small_models import (
    BUILD,
    RERANKER,
    RETRIEVER,
    copy_of,
    write_blend,
    write_reranker,
    write_retriever,
)


@pytest.fixture
def small_bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "bundles", "v1")


@pytest.fixture(scope="session")
def trained_workspace(
    tiny_prepared: Prepared,
    tiny_encoder_folder: Path,
    tiny_bert_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Workspace:
    """A store with prepared data and one untrained but real model per stage. Read only: copy it to build in it."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    shutil.copytree(tiny_prepared.folder, workspace.data)
    write_retriever(workspace.retrievers / "v1", tiny_encoder_folder, fingerprint="retriever-1")
    write_reranker(workspace.rerankers / "v1", tiny_bert_folder, retriever_fingerprint="retriever-1")
    return workspace


@pytest.fixture(scope="session")
def built_workspace(
    trained_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, BuildReport]:
    """The same store with bundle v1 in it. Read only."""
    workspace = copy_of(trained_workspace, tmp_path_factory.mktemp("built") / "store")
    return workspace, build_bundle(workspace, RETRIEVER, RERANKER, BUILD)


@pytest.fixture(scope="session")
def blended_workspace(
    trained_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, BuildReport]:
    """The same store with a blend, and bundle v1 with all three models. Read only."""
    workspace = copy_of(trained_workspace, tmp_path_factory.mktemp("blended") / "store")
    write_blend(workspace)
    return workspace, build_bundle(workspace, RETRIEVER, RERANKER, BUILD)


@pytest.fixture
def workspace(trained_workspace: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained store to build in."""
    return copy_of(trained_workspace, tmp_path / "store")


@pytest.fixture
def bundle_folder(built_workspace: tuple[Workspace, BuildReport], tmp_path: Path) -> Path:
    """A copy of the built bundle to break."""
    workspace, report = built_workspace
    return shutil.copytree(workspace.bundles / report.manifest.version, tmp_path / report.manifest.version)


@pytest.fixture
def blended_folder(blended_workspace: tuple[Workspace, BuildReport], tmp_path: Path) -> Path:
    """A copy of the bundle with a blend to break."""
    workspace, report = blended_workspace
    return shutil.copytree(workspace.bundles / report.manifest.version, tmp_path / report.manifest.version)
