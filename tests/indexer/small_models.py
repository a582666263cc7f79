"""Version folders of both stages around tiny real models, written without training."""

import shutil
from pathlib import Path

from corpus.prepared import Prepared
from corpus.workspace import Workspace
from indexer.config import BuildConfig
from rerank.config import BlendConfig, RerankerConfig
from rerank.model_info import RerankerModelInfo
from rerank.probabilities import Platt
from retrieval.config import RetrieverConfig, VectorIndexConfig
from retrieval.fusion import FusionWeights
from retrieval.model_info import FusionInfo, RetrieverModelInfo

RETRIEVER = RetrieverConfig(
    item_fields=("title", "category"),
    max_query_tokens=16,
    max_item_tokens=24,
    index=VectorIndexConfig(kind="hnsw", m=8),
)
RERANKER = RerankerConfig(max_query_tokens=16, max_history_tokens=24, max_item_tokens=24)
BLEND = BlendConfig(
    min_searches=20, depth=30, rerank_depth=6, n_leaves=5, min_leaf=10, max_trees=20, patience=10, n_folds=3
)
BUILD = BuildConfig(
    encoder_precision="fp32", reranker_precision="fp32", n_calibration=12, n_recall_queries=20, suggestion_shoppers=2
)


def write_retriever(folder: Path, encoder: Path, *, fingerprint: str) -> None:
    shutil.copytree(encoder, folder / "model")
    info = RetrieverModelInfo(
        fingerprint=fingerprint,
        base_model="tiny",
        dim=32,
        config=RETRIEVER,
        data_fingerprint="d",
        n_pairs=1,
        n_steps=1,
        seed=1,
        metrics={},
        fusion=FusionInfo(weights=FusionWeights(dense=0.6, behaviour=0.3)),
        packages={},
    )
    (folder / "model.json").write_text(info.model_dump_json(), encoding="utf-8")


def write_reranker(folder: Path, bert: Path, *, retriever_fingerprint: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from retrieval.quiet import quiet_libraries

    torch.manual_seed(3)
    with quiet_libraries():
        model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=3)
    model.save_pretrained(folder / "model")
    shutil.copy2(bert / "tokenizer.json", folder / "model")
    RerankerModelInfo(
        fingerprint="reranker-1",
        retriever_fingerprint=retriever_fingerprint,
        data_fingerprint="d",
        base_model="tiny",
        config=RERANKER,
        score_weights={"rerank": 1.0, "retrieval": 0.5},
        heads=("click", "cart", "purchase"),
        head_weights={"click": 0.25, "cart": 0.25, "purchase": 0.5},
        probability_maps={"click": Platt(slope=0.5, intercept=-1.0), "purchase": Platt(slope=1.0, intercept=-2.0)},
        metrics={},
        n_parameters=1,
        seed=1,
        packages={},
    ).save(folder)


def write_blend(workspace: Workspace, version: str = "v1") -> None:
    """Train tiny trees on the store's own models."""
    from rerank.blend_training import train_blend
    from rerank.reranker import open_torch_reranker
    from retrieval.event_log.behaviour import Behaviour
    from retrieval.first_stage import FirstStage, channel_digest
    from retrieval.retriever import build_retriever

    prepared = Prepared(workspace.data)
    retriever = build_retriever(prepared.items, workspace.retrievers / "v1", RETRIEVER, workspace.embeddings)
    known, exposure = prepared.pairs_before("valid"), prepared.exposure_before("valid")
    behaviour = Behaviour.build(known, exposure, retriever.encoder, RETRIEVER.behaviour, items=prepared.items)
    retriever = retriever.with_query_log(behaviour.queries)
    train_blend(
        prepared,
        FirstStage(
            retriever=retriever,
            behaviour=behaviour,
            fingerprint="retriever-1",
            channels=channel_digest(RETRIEVER, retriever.weights),
        ),
        open_torch_reranker(workspace.rerankers / "v1", prepared.items),
        BLEND,
        workspace.blends / version,
        reranker_fingerprint="reranker-1",
    )


def copy_of(workspace: Workspace, root: Path) -> Workspace:
    shutil.copytree(workspace.root, root)
    return Workspace(root)
