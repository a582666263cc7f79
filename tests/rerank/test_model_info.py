from pathlib import Path

import pytest

from corpus.errors import ArtefactError
from rerank.config import RerankerConfig
from rerank.model_info import MODEL_FILE, RerankerModelInfo
from rerank.probabilities import Isotonic, Platt


@pytest.fixture
def info() -> RerankerModelInfo:
    return RerankerModelInfo(
        fingerprint="f",
        retriever_fingerprint="r",
        data_fingerprint="d",
        base_model="default",
        config=RerankerConfig(preset="reference"),
        score_weights={"rerank": 1.0, "retrieval": 0.25},
        heads=("click", "purchase"),
        head_weights={"click": 0.5, "cart": 0.0, "purchase": 0.5},
        probability_maps={
            "click": Isotonic(logits=(-1.0, 0.1), probabilities=(0.01, 1 / 3)),
            "purchase": Platt(slope=0.5, intercept=-3.0),
        },
        metrics={"mrr_at_10": 0.5},
        n_parameters=3,
        seed=13,
        packages={"torch": "2"},
    )


def test_an_info_reads_back_as_written_and_leaves_nothing_else(info: RerankerModelInfo, tmp_path: Path):
    info.save(tmp_path)
    assert RerankerModelInfo.load(tmp_path) == info
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_FILE]


def test_a_missing_info_names_the_command_to_run(tmp_path: Path):
    with pytest.raises(ArtefactError, match="tandem train reranker"):
        RerankerModelInfo.load(tmp_path)


def test_a_truncated_info_is_refused(info: RerankerModelInfo, tmp_path: Path):
    info.save(tmp_path)
    path = tmp_path / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtefactError):
        RerankerModelInfo.load(tmp_path)


def test_another_format_version_is_refused(info: RerankerModelInfo, tmp_path: Path):
    info.model_copy(update={"format_version": 3}).save(tmp_path)
    with pytest.raises(ArtefactError, match="got 3"):
        RerankerModelInfo.load(tmp_path)


def test_an_older_format_is_named_although_it_lacks_fields(tmp_path: Path):
    (tmp_path / MODEL_FILE).write_text('{"format_version": 1, "fingerprint": "f"}', encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"got 1; train it anew"):
        RerankerModelInfo.load(tmp_path)
