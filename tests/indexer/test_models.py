from dataclasses import replace

import pytest

from corpus.errors import ModelIndexMismatch, VersionNotFound
from corpus.workspace import Workspace
from indexer.models import check_channels, choose_models, resolved_config
from rerank.blend_info import BlendInfo
from rerank.config import BlendConfig, RerankerConfig
from rerank.features import FEATURE_VERSION, FEATURES, RERANK_FEATURES
from rerank.model_info import RerankerModelInfo
from retrieval.config import RetrieverConfig, VectorIndexConfig
from retrieval.first_stage import channel_digest
from retrieval.fusion import FusionWeights
from retrieval.model_info import FusionInfo, RetrieverModelInfo


def add_retriever(workspace: Workspace, version: str, fingerprint: str) -> None:
    info = RetrieverModelInfo(
        fingerprint=fingerprint,
        base_model="tiny",
        dim=8,
        config=RetrieverConfig(item_fields=("title",), max_query_tokens=20),
        data_fingerprint="d",
        n_pairs=1,
        n_steps=1,
        seed=1,
        metrics={},
        fusion=FusionInfo(weights=FusionWeights(dense=0.5)),
        packages={},
    )
    (workspace.retrievers / version).mkdir(parents=True)
    (workspace.retrievers / version / "model.json").write_text(info.model_dump_json(), encoding="utf-8")


def add_reranker(
    workspace: Workspace, version: str, retriever_fingerprint: str, *, teacher_fingerprint: str | None = None
) -> None:
    (workspace.rerankers / version).mkdir(parents=True)
    RerankerModelInfo(
        fingerprint=f"of {version}",
        retriever_fingerprint=retriever_fingerprint,
        data_fingerprint="d",
        base_model="tiny",
        teacher_fingerprint=teacher_fingerprint,
        config=RerankerConfig(),
        score_weights={"rerank": 1.0, "retrieval": 1.0},
        heads=("click",),
        head_weights={"click": 1.0, "cart": 0.0, "purchase": 0.0},
        probability_maps={},
        metrics={},
        n_parameters=1,
        seed=1,
        packages={},
    ).save(workspace.rerankers / version)


def add_blend(workspace: Workspace, version: str, retriever: str, reranker: str, **fields: object) -> None:
    info = BlendInfo(
        fingerprint=f"of {version}",
        feature_version=FEATURE_VERSION,
        features=FEATURES,
        rerank_features=RERANK_FEATURES,
        channels="channels",
        retriever_fingerprint=retriever,
        reranker_fingerprint=reranker,
        data_fingerprint="d",
        config=BlendConfig(),
        n_searches=1,
        n_reranked=1,
        n_trees=(1, 1),
        metrics={},
        importance={},
        seed=1,
        packages={},
    ).model_copy(update=fields)
    (workspace.blends / version).mkdir(parents=True)
    (workspace.blends / version / "model.json").write_text(info.model_dump_json(), encoding="utf-8")


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path)
    add_retriever(workspace, "v1", "old")
    add_retriever(workspace, "v2", "new")
    return workspace


def test_the_newest_retriever_is_paired_with_the_newest_reranker_of_its_own(workspace):
    add_reranker(workspace, "v1", "new")
    add_reranker(workspace, "v2", "new")
    add_reranker(workspace, "v3", "old")
    models = choose_models(workspace, None, None)
    assert models.retriever_folder.name == "v2"
    assert models.reranker_folder.name == "v2"
    assert models.reranker.fingerprint == "of v2"


def test_the_newest_blend_of_both_models_comes_along(workspace):
    add_reranker(workspace, "v1", "new")
    add_blend(workspace, "v1", "new", "of v1")
    add_blend(workspace, "v2", "new", "of v1")
    add_blend(workspace, "v3", "old", "of v1")
    add_blend(workspace, "v4", "new", "of v9")
    models = choose_models(workspace, None, None)
    assert models.blend_folder.name == "v2"
    assert models.blend.fingerprint == "of v2"


def test_without_a_blend_of_both_models_there_is_none(workspace, caplog):
    add_reranker(workspace, "v1", "new")
    add_blend(workspace, "v1", "new", "of v9")
    models = choose_models(workspace, None, None)
    assert models.reranker is not None
    assert (models.blend_folder, models.blend) == (None, None)
    assert not caplog.text  # `tandem train blend` comes by here: nothing is amiss
    models.warn_of_gaps()
    assert "no blend was trained on these models" in caplog.text


def test_nothing_is_said_of_a_whole_chain(workspace, caplog):
    add_reranker(workspace, "v1", "new")
    add_blend(workspace, "v1", "new", "of v1")
    choose_models(workspace, None, None).warn_of_gaps()
    assert not caplog.text


def test_a_blend_of_another_release_is_passed_over(workspace, caplog):
    add_reranker(workspace, "v1", "new")
    add_blend(workspace, "v1", "new", "of v1")
    add_blend(workspace, "v2", "new", "of v1", features=("price",))
    models = choose_models(workspace, None, None)
    assert models.blend_folder.name == "v1"
    assert "got one of" in caplog.text  # whoever trains the next one must get this far


def test_a_student_is_built_only_where_it_is_named(workspace):
    add_reranker(workspace, "v1", "new")
    add_reranker(workspace, "v2", "new", teacher_fingerprint="of v1")
    assert choose_models(workspace, None, None).reranker_folder.name == "v1"
    assert choose_models(workspace, None, "v2").reranker_folder.name == "v2"


def test_students_alone_are_not_built_unasked(workspace):
    add_reranker(workspace, "v2", "new", teacher_fingerprint="of v1")
    with pytest.raises(ModelIndexMismatch, match=r"got students alone \(v2\)"):
        choose_models(workspace, None, None)


def test_a_blend_that_learned_from_other_scores_is_refused(workspace):
    stage = RetrieverConfig()
    models = choose_models(workspace, "v2", None)
    weights = models.retriever.fusion.resolved(stage.fusion)
    blend = BlendInfo.model_construct(channels=channel_digest(stage, weights))
    check_channels(replace(models, blend=blend), stage)
    for changed in ({"lexical": {"title": 2.0}}, {"behaviour": {"prior": 3.0}}, {"fusion": {"dense_weight": 0.11}}):
        with pytest.raises(ModelIndexMismatch, match="tandem train blend"):
            check_channels(replace(models, blend=blend), RetrieverConfig.model_validate(changed))
    unrelated = RetrieverConfig.model_validate({"index": {"ef_search": 77}})
    check_channels(replace(models, blend=blend), unrelated)
    check_channels(models, RetrieverConfig.model_validate({"lexical": {"title": 2.0}}))  # no blend, nothing to go wrong


def test_named_versions_are_taken(workspace):
    add_reranker(workspace, "v1", "old")
    add_reranker(workspace, "v2", "old")
    models = choose_models(workspace, "v1", "v1")
    assert (models.retriever_folder.name, models.reranker_folder.name) == ("v1", "v1")


def test_a_named_reranker_of_another_retriever_is_refused(workspace):
    add_reranker(workspace, "v1", "old")
    add_reranker(workspace, "v2", "new")
    with pytest.raises(ModelIndexMismatch, match=r"retriever v2, got v1"):
        choose_models(workspace, "v2", "v1")


def test_a_retriever_trained_anew_waits_for_a_reranker_of_its_own(workspace):
    add_reranker(workspace, "v1", "old")
    with pytest.raises(ModelIndexMismatch, match="tandem train reranker"):
        choose_models(workspace, None, None)


def test_without_any_reranker_the_first_stage_goes_alone(workspace, caplog):
    models = choose_models(workspace, None, None)
    assert models.reranker is None
    models.warn_of_gaps()
    assert "order of retrieval" in caplog.text


def test_without_a_retriever_nothing_can_be_built(tmp_path):
    with pytest.raises(VersionNotFound):
        choose_models(Workspace(tmp_path), None, None)


def test_an_unknown_reranker_version_is_refused(workspace):
    with pytest.raises(VersionNotFound, match="v7"):
        choose_models(workspace, None, "v7")


def test_what_a_model_reads_stays_as_trained_and_the_indexes_are_configured(workspace, caplog):
    models = choose_models(workspace, None, None)
    wanted = RetrieverConfig(item_fields=("title", "brand"), index=VectorIndexConfig(kind="flat"))
    stage = resolved_config(models.retriever, wanted)
    assert stage.item_fields == ("title",)
    assert stage.max_query_tokens == 20
    assert stage.index.kind == "flat"
    assert "item_fields = ('title', 'brand') (trained with ('title',))" in caplog.text


def test_unchanged_settings_are_not_warned_of(workspace, caplog):
    models = choose_models(workspace, None, None)
    caplog.clear()
    resolved_config(models.retriever, models.retriever.config)
    assert not caplog.text


def test_the_width_is_the_builds_choice_and_an_untrained_one_is_warned_of(workspace, caplog):
    models = choose_models(workspace, None, None)
    caplog.clear()
    config = models.retriever.config
    assert resolved_config(models.retriever, config.model_copy(update={"dim": 8})).dim == 8  # the model's own
    assert not caplog.text
    assert resolved_config(models.retriever, config.model_copy(update={"dim": 4})).dim == 4
    assert "dim = 4 is not one that the model was trained to be cut to" in caplog.text
