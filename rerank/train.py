"""Training of the reranker, from prepared data and a tuned retriever to a finished version folder."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch.utils.tensorboard import SummaryWriter
from transformers import AutoTokenizer, EarlyStoppingCallback, PrinterCallback, set_seed
from transformers.integrations import TensorBoardCallback

from corpus.errors import ConfigError, InputError
from corpus.prepared import Prepared
from rerank.candidates import TrainingList, add_candidates, choices_per_head, collect_lists, n_draws
from rerank.checkpoints import open_checkpoints
from rerank.config import FROM_RETRIEVER, RerankerConfig
from rerank.cross_encoder import check_length, load_classifier
from rerank.dataset import ListDataset
from rerank.heads import HEADS, resolve_weights, taught_heads
from rerank.history import HISTORY_VERSION, item_names
from rerank.inputs import TOKENIZER_FILE, PairTokenizer, PassageTokens
from rerank.model_info import MODEL_FILE, MODEL_FOLDER, RerankerModelInfo
from rerank.scorer import load_module
from rerank.trainer import (
    BEST_METRIC,
    WEIGHT_METRIC,
    Objective,
    RerankerTrainer,
    training_arguments,
)
from rerank.validation import build_validation, calibrate, history_effect
from retrieval.passages import PASSAGE_VERSION, passages
from retrieval.quiet import quiet_libraries
from retrieval.retriever import Retriever
from retrieval.training.base_models import resolve_base_model
from retrieval.training.callbacks import CheckpointClock, TrainingProgress

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
LOG_FOLDER = "logs"  # TensorBoard
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "numpy")


def train_reranker(
    prepared: Prepared,
    retriever: Retriever,
    config: RerankerConfig,
    out: Path,
    *,
    retriever_fingerprint: str,
    retriever_model: Path | None = None,
    teacher: Path | None = None,
    resume: bool = True,
) -> RerankerModelInfo:
    """Train a cross-encoder on the tuned retriever's candidates.

    Args:
        prepared: The prepared data.
        retriever: The tuned first stage over the same catalogue.
        config: The ``[reranker]`` section.
        out: The version folder to fill: ``model/``, ``logs/``, last ``model.json``; ``checkpoints/`` while it runs.
        retriever_fingerprint: Of the retriever's trained version.
        retriever_model: Folder of its transformer, for a configuration that starts from it.
        teacher: Folder of the version that ``config.teacher`` names; a student starts from its first layers, as in
            Sanh et al. 2019, and learns its scores.
        resume: Go on from the last checkpoint of an interrupted run of the same configuration, data and retriever.
    Returns:
        What was written to ``model.json``.
    Raises:
        ConfigError: If the folder holds a finished version, the base model cannot be used, training diverged, or the
            teacher knows other candidates or reads other inputs.
        InputError: If the training split holds nothing to learn an order from.
        DeviceUnavailable: If the configured precision needs a device that is missing.
    """
    if (out / MODEL_FILE).exists():
        raise ConfigError(f"expected a folder for a new version, {out} holds a finished one; train into another")
    taught_by = None if teacher is None else _check_teacher(teacher, config, retriever_fingerprint)
    identity = {
        "config": config.model_dump_json(),
        "data": prepared.fingerprint,
        "retriever": retriever_fingerprint,
        "teacher": taught_by.fingerprint if taught_by else "",
    }
    checkpoints = out / CHECKPOINT_FOLDER
    checkpoint = open_checkpoints(checkpoints, identity, resume=resume)
    base_model = _base_model(config, retriever_model) if teacher is None else str(teacher / MODEL_FOLDER)
    with quiet_libraries():
        tokenizer, pretrained = _load_tokenizer(base_model)
        set_seed(config.train.seed)  # the fresh head is drawn at random
        classifier = load_classifier(base_model, n_layers=config.n_layers)
        check_length(classifier, config)
        trainer = _trainer(prepared, retriever, config, tokenizer, classifier, out, teacher)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        metrics, retrieval_weight = _best(trainer)
        validation, scorer = trainer.validation, trainer.scorer()
        logits = validation.heads(scorer)
        calibration = calibrate(validation, logits, trainer.objective.heads)
        metrics |= calibration.metrics | history_effect(validation, scorer, logits, retrieval_weight)
        model_folder = out / MODEL_FOLDER
        classifier.save_pretrained(model_folder)
        pretrained.save_pretrained(model_folder)
        tokenizer.save(model_folder)
    objective = trainer.objective
    info = RerankerModelInfo(
        fingerprint=_fingerprint(model_folder, config, objective.head_weights),
        retriever_fingerprint=retriever_fingerprint,
        data_fingerprint=prepared.fingerprint,
        base_model=config.teacher or config.base_model,
        teacher_fingerprint=taught_by.fingerprint if taught_by else None,
        config=config,
        score_weights={"rerank": 1.0, "retrieval": retrieval_weight},
        heads=objective.heads,
        head_weights=objective.head_weights,
        probability_maps=calibration.maps,
        metrics=metrics,
        n_parameters=int(classifier.num_parameters()),
        seed=config.train.seed,
        packages={name: version(name) for name in _PACKAGES},
    )
    info.save(out)
    shutil.rmtree(checkpoints)
    return info


def _base_model(config: RerankerConfig, retriever_model: Path | None) -> str:
    if config.base_model != FROM_RETRIEVER:
        return resolve_base_model(config.base_model)
    if retriever_model is None or not (retriever_model / "config.json").is_file():
        raise ConfigError(
            f"expected a retriever with one shared encoder for [reranker] base_model = {FROM_RETRIEVER!r}, got "
            "separate towers or none; name a folder or a hub id"
        )
    return str(retriever_model)


def _check_teacher(folder: Path, config: RerankerConfig, retriever_fingerprint: str) -> RerankerModelInfo:
    info = RerankerModelInfo.load(folder)
    if info.retriever_fingerprint != retriever_fingerprint:
        raise ConfigError(
            f"expected [reranker] teacher to be trained on this retriever's candidates, got {folder.name}, trained on "
            "another's; train a new one first"
        )
    mine, others = (_reading(each) for each in (config, info.config))
    differing = [name for name, value in mine.items() if value != others[name]]
    if differing:
        raise ConfigError(
            f"expected a student to read what its teacher {folder.name} reads, got other [reranker] "
            f"{', '.join(differing)}; set them as in its {MODEL_FILE}"
        )
    return info


def training_lists(prepared: Prepared, retriever: Retriever, config: RerankerConfig) -> list[TrainingList]:
    """Read the training split and find its candidates; no more lists than the configured steps will see.

    Raises:
        InputError: If nothing is left to learn from.
    """
    train = config.train
    lists = collect_lists(prepared.examples("train", limit=train.max_examples, seed=train.seed))
    if train.max_steps is not None:
        # evenly from all of them: lists with a history come before those without
        step = max(1, sum(map(n_draws, lists)) // (train.max_steps * train.lists_per_batch))
        lists = lists[::step]
    lists = add_candidates(lists, retriever, depth=train.negatives_depth)
    if not lists:
        raise InputError(
            "expected searches in the training split whose shoppers chose one item of several, found none; "
            "check the events and [data] settings, then run `tandem prepare` again"
        )
    return lists


def _trainer(
    prepared: Prepared,
    retriever: Retriever,
    config: RerankerConfig,
    tokenizer: PairTokenizer,
    classifier: Any,  # noqa: ANN401
    out: Path,
    teacher: Path | None,
) -> RerankerTrainer:
    name_of = item_names(prepared.items)
    texts = passages(prepared.items, config.item_fields)
    passage_tokens = PassageTokens.build(tokenizer, texts, config.max_item_tokens)
    lists = training_lists(prepared, retriever, config)
    dataset = ListDataset(lists, tokenizer, passage_tokens, name_of, config)
    validation = build_validation(prepared, retriever, tokenizer, passage_tokens, name_of, config)
    validated = len(validation) > 0
    if not validated:
        logger.warning("no validation search has an answer: the last epoch is kept and retrieval's score is not used")
    arguments = training_arguments(config.train, out / CHECKPOINT_FOLDER, n_lists=len(dataset), validated=validated)
    logger.info(
        "training the reranker on %d lists in %d steps, validating on %d searches",
        len(dataset),
        arguments.max_steps,
        len(validation),
    )
    trainer = RerankerTrainer(classifier, arguments, dataset, validation, tokenizer, _objective(config, lists, teacher))
    trainer.remove_callback(PrinterCallback)  # prints to the standard output
    trainer.add_callback(TrainingProgress("training the reranker"))
    trainer.add_callback(CheckpointClock(config.train.checkpoint_minutes))
    trainer.add_callback(TensorBoardCallback(SummaryWriter(log_dir=str(out / LOG_FOLDER))))
    if validated:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=config.train.patience))
    return trainer


def _objective(config: RerankerConfig, lists: Sequence[TrainingList], teacher: Path | None) -> Objective:
    if teacher is not None:
        known = RerankerModelInfo.load(teacher).heads
        weights = resolve_weights(config.head_weights, known)
        return Objective(
            loss=config.train.loss, heads=known, head_weights=weights, teacher=load_module(teacher / MODEL_FOLDER)
        )
    taught = taught_heads(choices_per_head(lists))
    if len(taught) < len(HEADS):
        logger.info("the training split teaches only: %s", ", ".join(taught))
    return Objective(loss=config.train.loss, heads=taught, head_weights=resolve_weights(config.head_weights, taught))


def _load_tokenizer(base_model: str) -> tuple[PairTokenizer, Any]:
    try:
        pretrained = AutoTokenizer.from_pretrained(base_model)
        backend: Tokenizer = pretrained.backend_tokenizer
    except (OSError, ValueError, AttributeError) as exc:
        raise ConfigError(f"expected a fast tokenizer at [reranker] base_model, got {base_model}: {exc}") from exc
    return PairTokenizer(Tokenizer.from_str(backend.to_str())), pretrained


def _best(trainer: RerankerTrainer) -> tuple[dict[str, float], float]:
    """Return the metrics of the validation whose weights were kept, and its weight of the retrieval score.

    Raises:
        ConfigError: If the model answered NaN in every validation.
    """
    history = [entry for entry in trainer.state.log_history if BEST_METRIC in entry]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    metrics = {"n_steps": float(trainer.state.global_step)} | ({"train_loss": float(losses[-1])} if losses else {})
    if not history:
        return metrics, 0.0
    best = max(history, key=lambda entry: float(entry[BEST_METRIC]))  # the first of equals, as the Trainer takes it
    if best[BEST_METRIC] == 0.0 and best["eval_mrr_at_10_retrieval"] > 0.0:
        raise ConfigError(
            "expected finite scores after training, got NaN: it diverged; lower [reranker.train] learning_rate"
        )
    figures = {name: value for name, value in best.items() if name.startswith("eval_mrr")}
    metrics |= {name.removeprefix("eval_"): float(value) for name, value in figures.items()}
    return metrics | {"epoch": float(best["epoch"])}, float(best[WEIGHT_METRIC])


def _reading(config: RerankerConfig) -> dict[str, Any]:
    """Return the settings that decide what the model reads."""
    return config.model_dump(
        mode="json", exclude={"train", "preset", "base_model", "n_layers", "teacher", "head_weights"}
    )


def _fingerprint(model_folder: Path, config: RerankerConfig, head_weights: dict[str, float]) -> str:
    """Hash all that decides a score: weights, tokenizer, how inputs are written and how the heads are joined."""
    digest = hashlib.sha256()
    for path in sorted([*model_folder.glob("*.safetensors"), model_folder / TOKENIZER_FILE]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    settings = _reading(config)
    settings |= {"history_version": HISTORY_VERSION, "passage_version": PASSAGE_VERSION, "head_weights": head_weights}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
