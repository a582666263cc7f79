import shutil

import numpy as np
import pytest

from indexer.kept_exports import keep_int8_export
from retrieval.engines.encoder import EncoderInfo, open_torch_encoder

TEXTS = ["red shoe", "steel pan", "bread knife"]
LATER_TEXTS = ["blue hose", "rose pot"]


@pytest.fixture(scope="module")
def keep(tiny_encoder_folder):
    trained = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16, device="cpu")

    def keep(kept, texts):
        return keep_int8_export(
            kept, tiny_encoder_folder, trained, role="query", calibration_texts=lambda: texts, max_tokens=16, dim=None
        )

    return keep


@pytest.fixture(scope="module")
def whole(keep, tmp_path_factory):
    """A folder with a finished export. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    keep(folder, TEXTS)
    return folder


@pytest.fixture
def interrupted(monkeypatch):
    """Exports end before their last file, the encoder's identity."""

    def interrupt(info, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(EncoderInfo, "model_dump_json", interrupt)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(encoder, other):
    assert encoder.fingerprint == other.fingerprint
    np.testing.assert_allclose(encoder.encode(TEXTS), other.encode(TEXTS), atol=1e-5)


def test_an_interrupted_export_leaves_nothing(keep, whole, interrupted, monkeypatch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, TEXTS)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert_same(keep(tmp_path, TEXTS), keep(whole, TEXTS))


def test_an_interrupted_export_puts_no_graph_beside_the_identity_of_a_damaged_one(keep, whole, interrupted, tmp_path):
    kept = shutil.copytree(whole, tmp_path / "kept")
    (graph,) = kept.rglob("*.xml")
    graph.write_bytes(graph.read_bytes()[:1000])
    before = contents(kept)
    with pytest.raises(KeyboardInterrupt):
        keep(kept, LATER_TEXTS)
    assert contents(kept) == before


def test_a_whole_export_stays_as_it_is_whatever_texts_come_later(keep, whole, tmp_path):
    kept = shutil.copytree(whole, tmp_path / "kept")
    assert_same(keep(kept, LATER_TEXTS), keep(whole, TEXTS))
    assert contents(kept) == contents(whole)
