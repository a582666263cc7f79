"""The store of the server's tests: trained (barely), built and published."""

import shutil

import pytest

from corpus.workspace import Workspace
from tests.server.conftest import store  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def built_store(store: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:  # noqa: F811
    """A store with tandem.toml, prepared data and a published bundle. Read only, but for folders that are removed."""
    copy = Workspace(tmp_path_factory.mktemp("benchmarks") / "store")
    shutil.copytree(store.bundles, copy.bundles)
    shutil.copytree(store.data, copy.data)
    copy.config_path.write_text("[server]\nretry_after_ms = 100.0\n", encoding="utf-8")
    return copy
