import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError, InputError
from corpus.items import ItemTable
from corpus.prepared import Prepared
from indexer import build
from indexer.build import build_bundle
from indexer.bundle import open_bundle
from indexer.manifest import BlendEntry
from indexer.publish import current_version, publish
from indexer.verify import verify_bundle
from rerank.blend_info import read_blend_info
from rerank.features import FEATURES, RERANK_FEATURES
from retrieval.engines.encoder import TextEncoder
from retrieval.fusion import FusionWeights
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER, copy_of, write_blend


def change_titles(data: Path, n: int) -> None:
    """Give the first n items of a prepared catalogue other titles."""
    table = ItemTable.read(data / "items.parquet")
    items = [table.item(row) for row in range(len(table))]
    changed = [replace(item, title=f"{item.title} click") if row < n else item for row, item in enumerate(items)]
    ItemTable.from_items(changed).write(data / "items.parquet")


def test_a_built_bundle_opens_and_both_stages_answer(built_workspace):
    workspace, report = built_workspace
    bundle = open_bundle(workspace.bundles / "v1")
    assert bundle.manifest == report.manifest
    candidates = bundle.retriever.retrieve("red acme running shoe", 10)
    assert len(candidates) == 10
    reranked = bundle.reranker.rerank("red acme running shoe", (), candidates)
    assert (reranked.n_scored, reranked.degraded) == (10, None)
    assert np.isfinite(reranked.scores).all()


def test_a_bundle_suggests_what_enough_shoppers_typed_and_knows_no_other_query(built_workspace):
    workspace, report = built_workspace
    typed: dict[str, set[str]] = {}
    for split in ("train", "valid", "test"):
        for example in Prepared(workspace.data).examples(split):
            typed.setdefault(example.query, set()).update({example.user_id} - {None})
    bundle = open_bundle(workspace.bundles / "v1")
    enough = {query for query, shoppers in typed.items() if len(shoppers) >= BUILD.suggestion_shoppers}
    assert 0 < len(enough) < len(typed)
    assert {suggestion.query for suggestion in bundle.suggestions.complete("", 1000)} == enough
    assert "suggestions.json" in report.manifest.files
    content = (workspace.bundles / "v1" / "suggestions.json").read_text()
    assert not [query for query in typed.keys() - enough if f'"{query}"' in content]


def test_a_bundle_that_was_built_before_there_were_suggestions_has_none(built_workspace, tmp_path):
    workspace, report = built_workspace
    old = tmp_path / "v1"
    shutil.copytree(workspace.bundles / "v1", old)
    (old / "suggestions.json").unlink()
    files = {name: entry for name, entry in report.manifest.files.items() if name != "suggestions.json"}
    (old / "manifest.json").write_bytes(report.manifest.model_copy(update={"files": files}).render())
    assert open_bundle(old).suggestions.complete("", 10) == []


def test_opening_a_bundle_changes_nothing_in_it(built_workspace):
    workspace, _ = built_workspace
    open_bundle(workspace.bundles / "v1")
    open_bundle(workspace.bundles / "v1")
    verify_bundle(workspace.bundles / "v1")


def test_the_manifest_says_what_the_bundle_was_built_from(built_workspace):
    workspace, report = built_workspace
    manifest = report.manifest
    assert (manifest.version, manifest.parent, manifest.n_items, manifest.dim) == ("v1", None, 60, 32)
    assert manifest.retriever.fingerprint == "retriever-1"
    # as fitted, since the configuration names none
    assert manifest.retriever.weights == FusionWeights(dense=0.6, behaviour=0.3)
    assert manifest.retriever.n_logged_queries == len(Prepared(workspace.data).pairs("train", "valid", "test").queries)
    assert manifest.blend is None
    assert manifest.reranker.score_weights == {"rerank": 1.0, "retrieval": 0.5}
    assert manifest.data_fingerprint == Prepared(workspace.data).fingerprint
    assert manifest.ann_recall >= BUILD.min_ann_recall
    assert manifest.n_recall_queries == BUILD.n_recall_queries
    assert manifest.config["retriever"]["index"]["kind"] == "hnsw"
    assert manifest.packages["torch"]
    assert {"items.parquet", "vectors.npy", "vector.index"} <= set(manifest.files)
    assert {name.split("/")[0] for name in manifest.files if "/" in name} == {
        "behaviour",
        "lexical",
        "passages",
        "encoder",
        "reranker",
    }


def test_a_bundle_counts_the_choices_of_all_splits(built_workspace):
    workspace, _ = built_workspace
    behaviour = open_bundle(workspace.bundles / "v1").behaviour
    popularity = np.zeros(60)
    for split in ("train", "valid", "test"):
        for example in Prepared(workspace.data).examples(split):
            for label in example.labels:
                popularity[label.row] += label.weight
    np.testing.assert_allclose(behaviour.popularity, popularity, rtol=1e-5)


def test_a_bundle_holds_the_blend_of_its_models(blended_workspace):
    workspace, report = blended_workspace
    info = read_blend_info(workspace.blends / "v1")
    assert report.manifest.blend == BlendEntry(
        version="v1",
        fingerprint=info.fingerprint,
        reranker_fingerprint="reranker-1",
        n_features=len(FEATURES) + len(RERANK_FEATURES),
    )
    assert {name for name in report.manifest.files if name.startswith("blend/")} == {
        "blend/first.txt",
        "blend/second.txt",
        "blend/model.json",
    }
    assert report.manifest.packages["lightgbm"]
    bundle = open_bundle(workspace.bundles / "v1")
    assert bundle.reranker.blend.info == info
    candidates = bundle.retriever.retrieve("red acme running shoe", 10)
    blended = bundle.reranker.rerank("red acme running shoe", (), candidates, depth=4)
    plain = bundle.reranker.with_blend(None).rerank("red acme running shoe", (), candidates, depth=4)
    assert (blended.n_scored, blended.degraded) == (4, None)
    assert blended.scores.tolist() != plain.scores.tolist()


def test_a_blend_of_other_models_stays_out_of_the_bundle(workspace, caplog):
    write_blend(workspace)
    path = workspace.blends / "v1" / "model.json"
    info = read_blend_info(workspace.blends / "v1").model_copy(update={"reranker_fingerprint": "older"})
    path.write_text(info.model_dump_json(), encoding="utf-8")
    report = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert report.manifest.blend is None
    assert open_bundle(workspace.bundles / "v1").reranker.blend is None
    assert "no blend was trained on these models" in caplog.text


def test_the_stored_vectors_are_those_of_the_index(built_workspace):
    workspace, _ = built_workspace
    bundle = open_bundle(workspace.bundles / "v1")
    vectors = np.load(workspace.bundles / "v1" / "vectors.npy", allow_pickle=False)
    np.testing.assert_array_equal(bundle.retriever.vector_index.vectors_of(np.arange(60)), vectors)


def test_every_user_of_the_machine_may_read_a_bundle(built_workspace):
    workspace, _ = built_workspace
    for path in (workspace.bundles / "v1").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_bundle_opens_and_answers_without_torch(built_workspace):
    workspace, _ = built_workspace
    program = """
import sys
from dataclasses import replace
from pathlib import Path
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "sentence_transformers", "nncf", "ir_measures"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from indexer.bundle import open_bundle
from indexer.manifest import BlendEntry
bundle = open_bundle(Path(sys.argv[1]), n_threads=1)
candidates = bundle.retriever.retrieve("red acme running shoe", 5)
print(bundle.reranker.rerank("red acme running shoe", (), candidates).n_scored)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(workspace.bundles / "v1")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stdout.strip() == "5", done.stderr


def test_a_rebuild_embeds_only_what_changed_and_names_its_parent(built_workspace, tmp_path):
    original, first = built_workspace
    assert (first.n_embedded, first.n_reused) == (60, 0)
    workspace = copy_of(original, tmp_path / "store")
    publish(workspace.bundles)
    change_titles(workspace.data, n=1)
    second = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert (second.n_embedded, second.n_reused) == (1, 59)
    assert (second.manifest.version, second.manifest.parent) == ("v2", "v1")
    before, after = (np.load(workspace.bundles / version / "vectors.npy") for version in ("v1", "v2"))
    changed = np.flatnonzero((before != after).any(axis=1))
    np.testing.assert_array_equal(changed, [0])
    assert current_version(workspace.bundles) == "v1"  # building does not publish


def test_a_build_killed_while_embedding_goes_on_where_it_was(workspace, monkeypatch):
    shutil.rmtree(workspace.rerankers)
    monkeypatch.setattr("retrieval.vectors.embeddings.SHARD_ROWS", 10)
    encode, shards = TextEncoder.encode, []

    def killed(self, texts, **options):
        if len(shards) == 2:
            raise KeyboardInterrupt
        shards.append(len(texts))
        return encode(self, texts, **options)

    with monkeypatch.context() as context:
        context.setattr(TextEncoder, "encode", killed)
        with pytest.raises(KeyboardInterrupt):
            build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert not [path for path in workspace.bundles.iterdir() if path.is_dir()]
    report = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert (shards, report.n_embedded, report.n_reused) == ([10, 10], 40, 20)


def test_a_build_that_fails_leaves_no_bundle_but_keeps_the_embeddings(workspace, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ArtefactError("export failed")

    with monkeypatch.context() as broken:
        broken.setattr(build, "put_query_encoder", fail)
        with pytest.raises(ArtefactError, match="export failed"):
            build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert not [path for path in workspace.bundles.iterdir() if path.is_dir()]
    shutil.rmtree(workspace.rerankers)  # quicker: what is asked for is the cache
    report = build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    assert (report.n_embedded, report.n_reused) == (0, 60)
    assert report.manifest.version == "v1"


def test_without_a_reranker_the_first_stage_is_built_alone_with_the_configured_weight(workspace):
    shutil.rmtree(workspace.rerankers)
    fusion = RETRIEVER.fusion.model_copy(update={"dense_weight": 0.25})
    report = build_bundle(workspace, RETRIEVER.model_copy(update={"fusion": fusion}), RERANKER, BUILD)
    assert report.manifest.reranker is None
    assert report.manifest.config["reranker"] is None
    assert report.manifest.retriever.weights == FusionWeights(dense=0.25, behaviour=0.3)
    bundle = open_bundle(workspace.bundles / "v1")
    assert bundle.reranker is None
    assert bundle.retriever.weights == FusionWeights(dense=0.25, behaviour=0.3)
    assert len(bundle.retriever.retrieve("bread knife", 3)) == 3


def test_the_torch_engine_serves_the_trained_folders(workspace, built_workspace):
    report = build_bundle(workspace, RETRIEVER, RERANKER, BUILD.model_copy(update={"engine": "torch"}))
    assert not [name for name in report.manifest.files if name.endswith("openvino_model.xml")]
    torch_bundle = open_bundle(workspace.bundles / "v1")
    exported = open_bundle(built_workspace[0].bundles / "v1")
    query = "blue nordly coffee mug"
    candidates, same = (bundle.retriever.retrieve(query, 8) for bundle in (torch_bundle, exported))
    np.testing.assert_array_equal(candidates.rows, same.rows)
    np.testing.assert_allclose(candidates.scores, same.scores, atol=1e-5)
    scores, same_scores = (bundle.reranker.rerank(query, (), candidates).scores for bundle in (torch_bundle, exported))
    np.testing.assert_allclose(scores, same_scores, atol=1e-4)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_a_bundle_of_cut_embeddings_opens_and_answers(workspace, engine):
    shutil.rmtree(workspace.rerankers)
    narrow = RETRIEVER.model_copy(update={"dim": 8})
    report = build_bundle(workspace, narrow, RERANKER, BUILD.model_copy(update={"engine": engine}))
    assert report.manifest.dim == 8
    bundle = open_bundle(workspace.bundles / "v1")
    assert (bundle.retriever.encoder.dim, bundle.retriever.vector_index.dim) == (8, 8)
    assert len(bundle.retriever.retrieve("bread knife", 3)) == 3


def test_an_empty_catalogue_is_refused(workspace):
    ItemTable.from_items([]).write(workspace.data / "items.parquet")
    with pytest.raises(InputError, match="empty catalogue"):
        build_bundle(workspace, RETRIEVER, RERANKER, BUILD)


def test_building_before_preparing_says_so(workspace):
    shutil.rmtree(workspace.data)
    with pytest.raises(ArtefactError, match="tandem prepare"):
        build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
