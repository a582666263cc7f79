"""``tandem train retriever`` and ``tandem train reranker``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corpus.workspace import Workspace, find_version, next_version
from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report

if TYPE_CHECKING:
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


def train_first_stage(
    workspace: Workspace, config: "TandemConfig", *, fresh: bool = False
) -> tuple[Path, "RetrieverModelInfo"]:
    """Train the next version of the retriever; an interrupted one goes on where it was."""
    from corpus.prepared import Prepared
    from retrieval.model_info import MODEL_FILE
    from retrieval.train import train_retriever

    prepared = Prepared(workspace.data)
    folder = _version_to_train(workspace.retrievers, MODEL_FILE, fresh=fresh)
    info = train_retriever(prepared, config.retriever, folder, cache=workspace.embeddings, resume=not fresh)
    return folder, info


def train_second_stage(
    workspace: Workspace, config: "TandemConfig", *, fresh: bool = False
) -> tuple[Path, "RerankerModelInfo"]:
    """Train the next version of the reranker on the newest retriever's candidates."""
    from corpus.prepared import Prepared
    from rerank.model_info import MODEL_FILE
    from rerank.train import train_reranker
    from retrieval.model_info import MODEL_FILE as RETRIEVER_FILE
    from retrieval.model_info import MODEL_FOLDER, load_retriever_info
    from retrieval.retriever import build_retriever

    prepared = Prepared(workspace.data)
    first = find_version(workspace.retrievers, None, marker=RETRIEVER_FILE)
    info = load_retriever_info(first)
    stage = build_retriever(prepared.items, first, config.retriever, workspace.embeddings)
    named = config.reranker.teacher
    teacher = None if named is None else find_version(workspace.rerankers, named, marker=MODEL_FILE)
    folder = _version_to_train(workspace.rerankers, MODEL_FILE, fresh=fresh)
    trained = train_reranker(
        prepared,
        stage,
        config.reranker,
        folder,
        retriever_fingerprint=info.fingerprint,
        retriever_model=first / MODEL_FOLDER,
        teacher=teacher,
        resume=not fresh,
    )
    return folder, trained


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
    return (
        f"\nfusion on {fitted.n_examples} validation searches: dense weight {fitted.dense_weight:.2f} gives MRR@10 "
        f"{fitted.mrr:.3f}; dense alone {fitted.dense_alone:.3f}, BM25 alone {fitted.lexical_alone:.3f}, "
        f"reciprocal-rank fusion {fitted.reciprocal_rank:.3f}"
    )
