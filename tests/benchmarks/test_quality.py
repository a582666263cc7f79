import json
import shutil

import pytest

from benchmarks import quality
from benchmarks.datasets import QUICK, DataSet
from benchmarks.peers import sentence_transformers_stack as diy
from corpus.config import load_config
from corpus.workspace import Workspace
from indexer.report import EvaluationReport
from server.config import TandemConfig
from tests.conftest import write_prepared

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tiny_encoder_folder, tiny_bert_folder) -> DataSet:
    return DataSet(
        kind="none",
        folder=None,
        settings={
            "retriever.base_model": str(tiny_encoder_folder),
            "retriever.train.max_steps": 2,
            "retriever.train.batch_size": 8,
            "retriever.index.kind": "flat",
            "reranker.base_model": str(tiny_bert_folder),
            "reranker.max_history_tokens": 40,
            "reranker.train.max_steps": 2,
            "reranker.train.lists_per_batch": 2,
            "reranker.train.list_size": 4,
            "blend.min_searches": 20,
            "blend.min_leaf": 5,
            "blend.max_trees": 5,
            "blend.rerank_depth": 5,
            "blend.n_folds": 2,
            "build.n_calibration": 8,
            "build.reranker_precision": "fp32",
        },
    )


@pytest.fixture(scope="module")
def measured(tiny_items, dataset, tmp_path_factory):
    """The folder of a store that was measured once, and the folder of its results."""
    root = tmp_path_factory.mktemp("quality")
    store, results = root / "store", root / "results"
    write_prepared(store / "data", tiny_items)
    (store / "tandem.toml").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "RESULTS", results)
        quality.measure("tests", dataset, shared=root, store=store, quick=False, peer=True, overrides=[])
    return store, results


def test_the_report_holds_the_floors_the_peer_and_every_stage(measured):
    _, results = measured
    document = json.loads((results / "quality-tests.json").read_text())
    report = EvaluationReport.model_validate(document["report"])
    names = [row.name for row in report.rows]
    assert names[3:] == [
        "BM25",
        "untuned encoder",
        "do-it-yourself dense",
        "do-it-yourself two stages",
        "tuned dense",
        "hybrid",
        "two stages",
        "two stages + history",
        "full chain, no history",
        "full chain",
    ]
    assert (results / "quality-tests.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "quality-tests.md").read_text().startswith("# Quality on tests\n")


def test_a_results_file_records_what_it_takes_to_measure_again(measured):
    store, results = measured
    document = json.loads((results / "quality-tests.json").read_text())
    manifest = json.loads((store / "data" / "manifest.json").read_text())
    assert document["data_fingerprint"] == manifest["fingerprint"]
    assert document["seeds"] == {"evaluation": 0, "retriever": 13, "reranker": 13, "do-it-yourself stack": 13}
    assert {"tandem", "torch", "sentence-transformers", "faiss-cpu", "lightgbm"} <= set(document["versions"])
    assert {"device", "load_average_before", "load_average_after"} <= set(document["machine"])
    assert document["wall_s"] >= sum(document["seconds"].values()) - 1
    assert set(document["seconds"]) == {
        "train retriever",
        "train reranker",
        "train blend",
        "build",
        "do-it-yourself stack",
        "evaluate",
    }


def test_the_peer_learns_as_many_steps_as_the_retriever(measured):
    store, _ = measured
    settings = json.loads((diy.folder_of(Workspace(store)) / "stack.json").read_text())
    assert settings["max_steps"] == 2


def test_a_second_call_only_evaluates(measured, dataset, tmp_path, monkeypatch):
    store, results = measured
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    quality.measure("tests", dataset, shared=tmp_path, store=store, quick=False, peer=True, overrides=[])
    again = json.loads((tmp_path / "quality-tests.json").read_text())
    first = json.loads((results / "quality-tests.json").read_text())
    assert "train retriever" not in again["seconds"]
    assert again["report"]["rows"] == first["report"]["rows"]


def test_the_peer_can_be_left_out(measured, dataset, tmp_path, monkeypatch):
    store, results = measured
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    quality.measure("tests", dataset, shared=tmp_path, store=store, quick=False, peer=False, overrides=[])
    alone = json.loads((tmp_path / "quality-tests.json").read_text())
    first = json.loads((results / "quality-tests.json").read_text())
    rows = {row["name"]: row["metrics"] for row in first["report"]["rows"]}
    left = {name for name in rows if not name.startswith("do-it-yourself")}
    assert {row["name"]: row["metrics"] for row in alone["report"]["rows"]} == {name: rows[name] for name in left}
    assert set(alone["seconds"]) == {"evaluate"}
    assert alone["command"].endswith(" --no-peer")
    assert "--no-peer" not in first["command"]


def test_too_few_searches_for_a_blend_are_measured_without(measured, dataset, tmp_path, monkeypatch, capsys):
    store = shutil.copytree(measured[0], tmp_path / "store")
    shutil.rmtree(Workspace(store).blends)
    shutil.rmtree(Workspace(store).bundles)
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    overrides = ["blend.min_searches=1000"]
    quality.measure("tests", dataset, shared=tmp_path, store=store, quick=False, peer=False, overrides=overrides)
    document = json.loads((tmp_path / "quality-tests.json").read_text())
    assert [row["name"] for row in document["report"]["rows"]][-1] == "two stages + history"
    assert set(document["seconds"]) == {"build", "evaluate"}
    assert "without a blend: expected at least 1000" in capsys.readouterr().out


def test_quick_settings_are_settings(tmp_path):
    (tmp_path / "tandem.toml").write_text("")
    overrides = [f"{key}={json.dumps(value)}" for key, value in QUICK.items()]
    config = load_config(TandemConfig, tmp_path / "tandem.toml", overrides=overrides)
    assert config.retriever.train.max_steps == QUICK["retriever.train.max_steps"]
