"""``tandem train retriever``, ``tandem train reranker`` and ``tandem train blend``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corpus.errors import ArtefactError, VersionNotFound
from corpus.workspace import Workspace, find_version, next_version, versions
from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report

if TYPE_CHECKING:
    from rerank.blend_info import BlendInfo
    from rerank.model_info import RerankerModelInfo
    from retrieval.model_info import RetrieverModelInfo
    from server.config import TandemConfig

FreshOption = Annotated[bool, typer.Option("--fresh", help="Do not resume an interrupted training.")]


def retriever(
    store: StoreArgument = Path(), overrides: SetOption = None, fresh: FreshOption = False, as_json: JsonOption = False
) -> None:
    """Fine-tune the two towers on what shoppers chose after what they typed."""
    workspace, config = open_store(store, overrides)
    folder, info = train_first_stage(workspace, config, fresh=fresh)
    text = f"retriever {folder.name}: {_metrics(info.metrics)}{_fusion(info)}\nnext: tandem train reranker {store}"
    report(info, as_json=as_json, text=text)


def reranker(
    store: StoreArgument = Path(), overrides: SetOption = None, fresh: FreshOption = False, as_json: JsonOption = False
) -> None:
    """Fine-tune the history-aware cross-encoder on the tuned retriever's candidates."""
    workspace, config = open_store(store, overrides)
    folder, info = train_second_stage(workspace, config, fresh=fresh)
    report(info, as_json=as_json, text=f"reranker {folder.name}: {_metrics(info.metrics)}\nnext: tandem build {store}")


def blend(
    store: StoreArgument = Path(), overrides: SetOption = None, fresh: FreshOption = False, as_json: JsonOption = False
) -> None:
    """Fit the trees that join both stages' scores with popularity, price and the shopper's affinities."""
    workspace, config = open_store(store, overrides)
    folder, info = train_trees(workspace, config, fresh=fresh)
    report(info, as_json=as_json, text=f"blend {folder.name}: {_metrics(info.metrics)}\nnext: tandem build {store}")


def train_first_stage(
    workspace: Workspace, config: "TandemConfig", *, fresh: bool = False
) -> tuple[Path, "RetrieverModelInfo"]:
    """Train the next version of the retriever; an interrupted one goes on where it was."""
    from corpus.prepared import Prepared
    from retrieval.model_info import MODEL_FILE
    from retrieval.training.train import train_retriever

    prepared = Prepared(workspace.data)
    folder = _version_to_train(workspace.retrievers, MODEL_FILE, fresh=fresh)
    info = train_retriever(prepared, config.retriever, folder, cache=workspace.embeddings, resume=not fresh)
    return folder, info


def has_first_stage(workspace: Workspace, config: "TandemConfig") -> bool:
    """Tell whether the newest retriever was trained on the prepared data as they are, with these settings."""
    from corpus.prepared import Prepared
    from retrieval.model_info import MODEL_FILE, load_retriever_info
    from retrieval.training.train import AT_WILL

    known = versions(workspace.retrievers, marker=MODEL_FILE)
    try:
        info = load_retriever_info(workspace.retrievers / known[-1]) if known else None
    except ArtefactError:  # of another release
        return False
    if info is None or info.data_fingerprint != Prepared(workspace.data).fingerprint:
        return False
    # builds make indexes of any kind over the embeddings of one model
    trained, wanted = (
        each.model_dump(exclude={"index": True, "train": AT_WILL}) for each in (info.config, config.retriever)
    )
    return trained == wanted


def has_second_stage(workspace: Workspace, config: "TandemConfig") -> bool:
    """Tell the same of the newest reranker, which the newest retriever's candidates must have taught."""
    from corpus.prepared import Prepared
    from rerank.model_info import MODEL_FILE, RerankerModelInfo
    from retrieval.model_info import MODEL_FILE as RETRIEVER_FILE
    from retrieval.model_info import load_retriever_info

    known = versions(workspace.rerankers, marker=MODEL_FILE)
    try:
        info = RerankerModelInfo.load(workspace.rerankers / known[-1]) if known else None
        first = load_retriever_info(find_version(workspace.retrievers, None, marker=RETRIEVER_FILE))
    except (ArtefactError, VersionNotFound):
        return False
    return info is not None and (info.data_fingerprint, info.config, info.retriever_fingerprint) == (
        Prepared(workspace.data).fingerprint,
        config.reranker,
        first.fingerprint,
    )


def train_second_stage(
    workspace: Workspace, config: "TandemConfig", *, fresh: bool = False
) -> tuple[Path, "RerankerModelInfo"]:
    """Train the next version of the reranker on the newest retriever's candidates."""
    from corpus.prepared import Prepared
    from indexer.models import resolved_config
    from rerank.model_info import MODEL_FILE
    from rerank.train import train_reranker
    from retrieval.first_stage import open_first_stage
    from retrieval.model_info import MODEL_FILE as RETRIEVER_FILE
    from retrieval.model_info import MODEL_FOLDER, load_retriever_info

    prepared = Prepared(workspace.data)
    first = find_version(workspace.retrievers, None, marker=RETRIEVER_FILE)
    settings = resolved_config(load_retriever_info(first), config.retriever)
    stage = open_first_stage(prepared, first, settings, workspace.embeddings)
    named = config.reranker.teacher
    teacher = None if named is None else find_version(workspace.rerankers, named, marker=MODEL_FILE)
    folder = _version_to_train(workspace.rerankers, MODEL_FILE, fresh=fresh)
    trained = train_reranker(
        prepared,
        stage.retriever,
        config.reranker,
        folder,
        retriever_fingerprint=stage.fingerprint,
        retriever_model=first / MODEL_FOLDER,
        teacher=teacher,
        resume=not fresh,
    )
    return folder, trained


def train_trees(workspace: Workspace, config: "TandemConfig", *, fresh: bool = False) -> tuple[Path, "BlendInfo"]:
    """Train the next version of the blend on the newest models that fit each other."""
    from corpus.prepared import Prepared
    from indexer.models import choose_models, resolved_config
    from rerank.blend_info import BLEND_FILE
    from rerank.blend_training import train_blend
    from rerank.reranker import open_torch_reranker
    from retrieval.first_stage import open_first_stage

    prepared = Prepared(workspace.data)
    models = choose_models(workspace, None, None)
    if models.reranker is None or models.reranker_folder is None:
        raise VersionNotFound("expected a trained reranker to blend with, found none; run `tandem train reranker`")
    settings = resolved_config(models.retriever, config.retriever)
    stage = open_first_stage(prepared, models.retriever_folder, settings, workspace.embeddings)
    folder = _version_to_train(workspace.blends, BLEND_FILE, fresh=fresh)
    reranker = open_torch_reranker(models.reranker_folder, prepared.items)
    info = train_blend(
        prepared,
        stage,
        reranker,
        config.blend,
        folder,
        reranker_fingerprint=models.reranker.fingerprint,
    )
    return folder, info


def _version_to_train(folder: Path, marker: str, *, fresh: bool) -> Path:
    """Return the folder of the interrupted version, if the newest one is, else that of a new one."""
    number = int(next_version(folder)[1:])
    newest = folder / f"v{number - 1}"
    if not fresh and newest.is_dir() and not (newest / marker).exists():
        return newest
    return folder / f"v{number}"


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())


def _fusion(info: "RetrieverModelInfo") -> str:
    """Say what fitting the channels' weights found; nothing if the configuration set them."""
    fitted = info.fusion.fitted
    if fitted is None:
        return ""
    rows = [
        (f"dense {fitted.weights.dense:.2f}, behaviour {fitted.weights.behaviour:.2f}", fitted.chosen),
        ("dense alone", fitted.dense_alone),
        ("BM25 alone", fitted.lexical_alone),
        ("both", fitted.text),
        ("both by reciprocal rank", fitted.reciprocal_rank),
        ("the query log alone", fitted.behaviour_alone),
    ]
    figures = "\n".join(f"  {name:<30} {found.mrr:.3f}  {found.recall:.3f}" for name, found in rows)
    return f"\nfusion on {fitted.n_examples} validation searches, MRR@10 and recall@{fitted.depth}:\n{figures}"
