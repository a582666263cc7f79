from pathlib import Path

import pytest

from tests.indexer.small_bundles import write_small_bundle


@pytest.fixture
def small_bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "bundles", "v1")
