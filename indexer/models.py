"""Which trained models go into a bundle together."""

import logging
from dataclasses import dataclass
from pathlib import Path

from corpus.errors import ArtefactError, ModelIndexMismatch
from corpus.workspace import Workspace, find_version, versions
from rerank.blend_info import BLEND_FILE, BlendInfo, read_blend_info
from rerank.config import RerankerConfig
from rerank.model_info import MODEL_FILE as RERANKER_FILE
from rerank.model_info import RerankerModelInfo
from retrieval.config import RetrieverConfig
from retrieval.first_stage import channel_digest
from retrieval.model_info import MODEL_FILE as RETRIEVER_FILE
from retrieval.model_info import RetrieverModelInfo, load_retriever_info

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModels:
    """Versions of both stages that fit each other."""

    retriever_folder: Path
    retriever: RetrieverModelInfo
    reranker_folder: Path | None  # None: no reranker was trained yet
    reranker: RerankerModelInfo | None
    blend_folder: Path | None = None  # None: no blend was trained on these two
    blend: BlendInfo | None = None

    def reranker_config(self, wanted: RerankerConfig) -> RerankerConfig | None:
        """Return the settings that the reranker was trained with, which are the only ones it can be served with.

        Args:
            wanted: The store's ``[reranker]`` section; a difference in what the model reads is logged.
        """
        if self.reranker is None:
            return None
        _warn_of_change("reranker", _inputs(self.reranker.config), _inputs(wanted))
        return self.reranker.config

    def warn_of_gaps(self) -> None:
        """Log what a bundle of these models will lack."""
        if self.reranker is None:
            logger.warning("no reranker was trained yet: the bundle will answer in the order of retrieval")
        elif self.blend is None:
            logger.warning("no blend was trained on these models: popularity, prices and affinities will not be heeded")


def resolved_config(trained: RetrieverModelInfo, wanted: RetrieverConfig) -> RetrieverConfig:
    """Return the settings of a trained first stage: what the model reads is the model's, the rest the store's choice.

    Args:
        trained: The model.
        wanted: The store's ``[retriever]`` section; a difference in what the model reads is logged.
    """
    _warn_of_change("retriever", _inputs(trained.config), _inputs(wanted))
    if wanted.dim not in (None, trained.dim, *trained.config.train.matryoshka_dims):
        logger.warning("[retriever] dim = %s is not one that the model was trained to be cut to", wanted.dim)
    chosen = {name: getattr(wanted, name) for name in ("dim", "index", "lexical", "behaviour", "fusion")}
    return trained.config.model_copy(update=chosen, deep=True)


def choose_models(workspace: Workspace, retriever_version: str | None, reranker_version: str | None) -> TrainedModels:
    """Find a retriever and a reranker that was trained on its candidates.

    Args:
        workspace: The store.
        retriever_version: Such as ``v3``; None is the newest.
        reranker_version: None is the newest on this retriever's candidates that is no student. The newest
            blend of both comes along.
    Raises:
        VersionNotFound: If a version does not exist, or no retriever does.
        ModelIndexMismatch: If there are rerankers, but none (or not the named one) belongs to this retriever.
    """
    folder = find_version(workspace.retrievers, retriever_version, marker=RETRIEVER_FILE)
    retriever = load_retriever_info(folder)
    known = versions(workspace.rerankers, marker=RERANKER_FILE)
    if reranker_version is not None:
        known = [find_version(workspace.rerankers, reranker_version, marker=RERANKER_FILE).name]
    for version in reversed(known):
        reranker = RerankerModelInfo.load(workspace.rerankers / version)
        # a student is newer than its teacher and no better
        eligible = reranker_version is not None or reranker.teacher_fingerprint is None
        if eligible and reranker.retriever_fingerprint == retriever.fingerprint:
            blend_folder, blend = _newest_blend(workspace, retriever.fingerprint, reranker.fingerprint)
            return TrainedModels(
                retriever_folder=folder,
                retriever=retriever,
                reranker_folder=workspace.rerankers / version,
                reranker=reranker,
                blend_folder=blend_folder,
                blend=blend,
            )
    students = [name for name in known if _is_student_of(workspace.rerankers / name, retriever.fingerprint)]
    if students:
        raise ModelIndexMismatch(
            f"expected a whole reranker trained on the candidates of retriever {folder.name}, got students alone "
            f"({', '.join(students)}); run `tandem train reranker`, or name one with --reranker"
        )
    if known:
        raise ModelIndexMismatch(
            f"expected a reranker trained on the candidates of retriever {folder.name}, got {', '.join(known)}, "
            "trained on another's; run `tandem train reranker`"
        )
    return TrainedModels(retriever_folder=folder, retriever=retriever, reranker_folder=None, reranker=None)


def _is_student_of(folder: Path, retriever_fingerprint: str) -> bool:
    info = RerankerModelInfo.load(folder)
    return info.teacher_fingerprint is not None and info.retriever_fingerprint == retriever_fingerprint


def check_channels(models: TrainedModels, stage: RetrieverConfig) -> None:
    """Refuse a blend that learned from scores which these settings no longer give.

    Args:
        models: To be built.
        stage: Their first stage's settings, resolved.
    Raises:
        ModelIndexMismatch: If words, behaviour or weights of channels have changed since the blend was trained.
    """
    if models.blend is None:
        return
    if models.blend.channels != channel_digest(stage, models.retriever.fusion.resolved(stage.fusion)):
        raise ModelIndexMismatch(
            "expected the blend to have learned from the scores that [retriever.lexical], [retriever.behaviour] and "
            "[retriever.fusion] give, got one of other settings; run `tandem train blend`, or set them back"
        )


def _newest_blend(
    workspace: Workspace, retriever_fingerprint: str, reranker_fingerprint: str
) -> tuple[Path | None, BlendInfo | None]:
    """Find the newest blend that was trained on both models' scores."""
    for version in reversed(versions(workspace.blends, marker=BLEND_FILE)):
        try:
            blend = read_blend_info(workspace.blends / version)
        except ArtefactError as exc:  # of another release: `tandem train blend` itself comes by here
            logger.warning("blend %s is passed over: %s", version, exc)
            continue
        if (blend.retriever_fingerprint, blend.reranker_fingerprint) == (retriever_fingerprint, reranker_fingerprint):
            return workspace.blends / version, blend
    return None, None


def _inputs(config: RetrieverConfig | RerankerConfig) -> dict[str, object]:
    """Return the settings that decide what a model reads, which are fixed by its training."""
    return {
        name: value
        for name, value in config.model_dump().items()
        if name == "item_fields" or name.startswith(("max_", "history_"))
    }


def _warn_of_change(stage: str, trained: dict[str, object], wanted: dict[str, object]) -> None:
    changed = [
        f"{name} = {wanted[name]!r} (trained with {trained[name]!r})"
        for name in wanted
        if wanted[name] != trained[name]
    ]
    if changed:
        logger.warning("[%s] has changed since training and waits for the next one: %s", stage, "; ".join(changed))
