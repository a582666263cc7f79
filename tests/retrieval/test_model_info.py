from pathlib import Path

import pytest

from corpus.errors import ArtefactError
from retrieval.config import FusionConfig, RetrieverConfig
from retrieval.fusion import FusionWeights
from retrieval.model_info import MODEL_FILE, FusionInfo, RetrieverModelInfo, load_retriever_info


@pytest.fixture
def info() -> RetrieverModelInfo:
    return RetrieverModelInfo(
        fingerprint="f" * 64,
        base_model="default",
        dim=384,
        config=RetrieverConfig(),
        data_fingerprint="d" * 64,
        n_pairs=10,
        n_steps=2,
        seed=13,
        metrics={"MRR@10": 0.5},
        fusion=FusionInfo(weights=FusionWeights(dense=0.7, behaviour=0.4)),
        packages={"torch": "2"},
    )


def test_a_description_survives_the_disk(info: RetrieverModelInfo, tmp_path: Path):
    (tmp_path / MODEL_FILE).write_text(info.model_dump_json(), encoding="utf-8")
    assert load_retriever_info(tmp_path) == info


def test_a_missing_description_names_the_remedy(tmp_path: Path):
    with pytest.raises(ArtefactError, match="tandem train retriever"):
        load_retriever_info(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe"])
def test_a_broken_description_is_an_artefact_error(content: bytes, tmp_path: Path):
    (tmp_path / MODEL_FILE).write_bytes(content)
    with pytest.raises(ArtefactError, match="train it again"):
        load_retriever_info(tmp_path)


def test_another_format_version_is_refused(info: RetrieverModelInfo, tmp_path: Path):
    other = info.model_copy(update={"format_version": 99})
    (tmp_path / MODEL_FILE).write_text(other.model_dump_json(), encoding="utf-8")
    with pytest.raises(ArtefactError, match="got 99"):
        load_retriever_info(tmp_path)


def test_a_configured_weight_replaces_its_fitted_one_alone(info: RetrieverModelInfo):
    assert info.fusion.resolved(FusionConfig()) == FusionWeights(dense=0.7, behaviour=0.4)
    assert info.fusion.resolved(FusionConfig(dense_weight=0.0)) == FusionWeights(dense=0.0, behaviour=0.4)
    assert info.fusion.resolved(FusionConfig(behaviour_weight=0.0)) == FusionWeights(dense=0.7, behaviour=0.0)
