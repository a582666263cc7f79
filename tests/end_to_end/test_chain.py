"""From files to answers: tiny models really trained, a bundle really built, served over a real socket."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from corpus.events import Event, EventType
from corpus.prepared import Prepared
from corpus.synthetic import SyntheticConfig, generate
from corpus.workspace import Workspace
from indexer.bundle import open_bundle
from indexer.manifest import read_manifest
from rerank.blend_info import read_blend_info
from server.cli import main
from server.cli.models import has_first_stage, has_second_stage
from server.cli.options import open_store
from server.client import TandemClient

pytestmark = pytest.mark.slow

CONFIG = """\
[data]
items = "source/items.parquet"
events = "source/events.parquet"

[retriever]
base_model = "{encoder}"
item_fields = ["title", "category"]
max_item_tokens = 32

[retriever.train]
epochs = 15
patience = 15
batch_size = 32
learning_rate = 3e-3
valid_examples = 50

[retriever.index]
kind = "flat"

[reranker]
base_model = "{bert}"
max_item_tokens = 24
max_history_tokens = 24

[reranker.train]
epochs = 1
max_steps = 20
lists_per_batch = 8
list_size = 4
valid_examples = 30
learning_rate = 1e-3

[blend]
min_searches = 3
max_reranked = 40
depth = 50
rerank_depth = 10
min_leaf = 10
max_trees = 20
n_folds = 2

[server]
rerank_depth = 15

[build]
n_calibration = 20
n_recall_queries = 30
"""


@pytest.fixture(scope="module")
def store(tiny_encoder_folder: Path, tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic store, run through the whole chain by the command line."""
    root = tmp_path_factory.mktemp("store")
    generate(SyntheticConfig(n_items=300, n_shoppers=150, n_searches=900, days=30), root / "source")
    (root / "tandem.toml").write_text(CONFIG.format(encoder=tiny_encoder_folder, bert=tiny_bert_folder))
    main_ok("run", str(root))
    return root


def main_ok(*arguments: str) -> None:
    try:
        main(arguments)
    except SystemExit as exc:
        assert exc.code in (0, None)


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[TandemClient]:
    command = [sys.executable, "-m", "server.cli", "serve", str(store), "--address", "127.0.0.1:0"]
    command += ["--set", "server.admin_address=127.0.0.1:0", "--set", "server.metrics_address=127.0.0.1:0"]
    log = store / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
    try:
        with TandemClient(wait_for_address(server, log)) as connected:
            yield connected
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0


def wait_for_address(server: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := re.search(r"127\.0\.0\.1:[1-9]\d*", log.read_text()):
            return found[0]
        assert server.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_search_answers_with_every_stage_score(store: Path, client: TandemClient):
    query = Prepared(store / "data").examples("test")[0].query
    answer = client.search(query, page_size=50)
    assert [hit.rank for hit in answer.results] == list(range(1, 51))
    assert len({hit.item.item_id for hit in answer.results}) == 50
    assert all(hit.retrieval_score is not None for hit in answer.results)
    assert any(hit.rerank_score is not None for hit in answer.results[:5])
    scores = [hit.score for hit in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert answer.index_version == "v1"
    assert answer.degraded == ()


def test_the_blend_that_was_trained_is_the_one_that_orders(store: Path, client: TandemClient):
    manifest = read_manifest(store / "bundles" / "v1")
    trained = read_blend_info(store / "models" / "blend" / "v1")
    assert (manifest.blend.version, manifest.blend.fingerprint) == ("v1", trained.fingerprint)
    assert trained.reranker_fingerprint == manifest.reranker.fingerprint
    query = Prepared(store / "data").examples("test")[0].query
    bundle = open_bundle(store / "bundles" / "v1", n_threads=1)
    found = bundle.retriever.retrieve(query, 200)
    features = bundle.reranker.blend.features(query, (), found)
    best = np.argsort(-bundle.reranker.blend.first(features), kind="stable")[:15]
    answer = client.search(query, page_size=100)
    # the trees choose whom the cross-encoder reads, and order all
    read = {hit.item.item_id for hit in answer.results if hit.rerank_score is not None}
    assert read <= {bundle.items.ids[row] for row in found.rows[best].tolist()}
    want = bundle.reranker.rerank(query, (), found, depth=15)
    assert [hit.score for hit in answer.results] == pytest.approx(want.scores[:100].tolist(), abs=1e-4)


def test_recorded_events_change_the_next_search_of_that_shopper_only(store: Path, client: TandemClient):
    prepared = Prepared(store / "data")
    query = prepared.examples("test")[0].query
    before = client.search(query, user_id="ada", page_size=20)
    bought = prepared.items.item(7).item_id
    purchase = Event(
        timestamp=datetime.now(UTC), user_id="ada", session_id="s", type=EventType.PURCHASE, query=query, item_id=bought
    )
    assert client.record_events([purchase]).n_recorded == 1
    after = client.search(query, user_id="ada", page_size=20)
    other = client.search(query, user_id="bob", page_size=20)
    assert [hit.rerank_score for hit in after.results] != [hit.rerank_score for hit in before.results]
    assert [(h.item.item_id, h.rerank_score) for h in other.results] == [
        (h.item.item_id, h.rerank_score) for h in before.results
    ]


def test_a_run_that_was_killed_goes_on_with_the_models_that_it_had_finished(store: Path, tmp_path: Path):
    copy = Workspace(tmp_path / "store")
    shutil.copytree(store, copy.root)
    for left in (copy.rerankers, copy.blends, copy.bundles):
        shutil.rmtree(left)
    finished = (copy.retrievers / "v1" / "model.json").stat().st_mtime_ns
    main_ok("run", str(copy.root))
    assert [path.name for path in copy.retrievers.iterdir()] == ["v1"]
    assert (copy.retrievers / "v1" / "model.json").stat().st_mtime_ns == finished
    manifest = read_manifest(copy.bundles / "v1")
    assert (manifest.retriever.version, manifest.reranker.version, manifest.blend.version) == ("v1", "v1", "v1")


def test_models_of_other_data_settings_or_candidates_are_trained_anew(store: Path, tmp_path: Path):
    copy = Workspace(tmp_path)
    shutil.copytree(store / "models", tmp_path / "models")
    shutil.copytree(store / "data", copy.data)
    shutil.copy(store / "tandem.toml", copy.config_path)

    def kept(*overrides: str) -> tuple[bool, bool]:
        workspace, config = open_store(copy.root, list(overrides))
        return has_first_stage(workspace, config), has_second_stage(workspace, config)

    assert kept() == (True, True)
    assert kept("retriever.train.seed=5") == (False, True)
    assert kept("reranker.train.seed=5") == (True, False)
    manifest = copy.data / "manifest.json"
    said = manifest.read_text()
    manifest.write_text(said.replace(Prepared(copy.data).fingerprint, "0" * 64))
    assert kept() == (False, False)
    manifest.write_text(said)
    described = copy.retrievers / "v1" / "model.json"
    info = json.loads(described.read_text())
    described.write_text(json.dumps(info | {"fingerprint": "0" * 64}))
    assert kept() == (True, False)
    described.write_text(json.dumps(info | {"format_version": 1}))
    assert kept() == (False, False)
    shutil.rmtree(copy.root / "models")
    assert kept() == (False, False)


def test_training_left_random_order_behind(store: Path, capsys: pytest.CaptureFixture[str]):
    main_ok("evaluate", str(store), "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    ndcg = {row["name"]: row["metrics"]["nDCG@10"]["value"] for row in rows}
    assert "oracle" in ndcg
    assert ndcg["tuned dense"] > 2 * ndcg["untuned encoder"]
    assert ndcg["tuned dense"] > 5 * ndcg["random"]
    assert ndcg["full chain"] > 5 * ndcg["random"]


def test_second_build_embeds_nothing_and_rollback_returns(store: Path, capsys: pytest.CaptureFixture[str]):
    main_ok("build", str(store), "--json")
    built = json.loads(capsys.readouterr().out)
    assert built["n_embedded"] == 0
    main_ok("publish", str(store))
    main_ok("rollback", str(store))
    capsys.readouterr()
    main_ok("list", str(store), "--json")
    assert json.loads(capsys.readouterr().out)["current"] == "v1"
