import importlib.util

import pytest

from corpus.errors import ConfigError
from indexer.manifest import read_manifest
from indexer.tuning_curve import check_plot, curve_table, plot_curve
from tests.indexer.small_bundles import write_small_bundle


@pytest.fixture
def manifest(tmp_path):
    write_small_bundle(tmp_path, "v7")
    return read_manifest(tmp_path / "v7")


def test_the_table_lists_every_setting_and_marks_the_one_that_was_kept(manifest):
    assert curve_table(manifest).splitlines() == [
        "vector index: hnsw",
        "setting          ann_recall@100  ms/query",
        "ef_search = 64           0.9125     0.250",
        "ef_search = 128          0.9975     0.500  kept",
    ]


def test_the_figure_is_a_png(manifest, tmp_path):
    plot_curve(manifest, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_figure_lacks_is_said_before_the_build(tmp_path, monkeypatch):
    check_plot(tmp_path / "curve.png")
    with pytest.raises(ConfigError, match="expected a folder"):
        check_plot(tmp_path / "missing" / "curve.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="`bench` extra"):
        check_plot(tmp_path / "curve.png")
