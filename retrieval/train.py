"""``tandem train retriever``: tune the towers, fit the fusion weight, describe the outcome."""

import hashlib
import json
import logging
import math
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.integrations import TensorBoardCallback

from corpus.config import Section
from corpus.errors import ArtefactError, ConfigError
from corpus.prepared import Prepared
from retrieval.behaviour import Behaviour
from retrieval.checkpoints import newest_checkpoint
from retrieval.config import RetrieverConfig, RetrieverTrainConfig
from retrieval.fusion import fit_fusion
from retrieval.losses import InBatchSoftmaxLoss
from retrieval.model_info import MODEL_FILE, MODEL_FOLDER, FusionInfo, RetrieverModelInfo
from retrieval.pairs import PairCollator, PairSampler, TrainingPairs
from retrieval.passages import PASSAGE_VERSION, passages
from retrieval.quiet import quiet_libraries
from retrieval.retriever import DEFAULT_WEIGHTS, build_retriever
from retrieval.towers import TowerTokenizer, load_towers
from retrieval.training_callbacks import CheckpointClock, TrainingProgress
from retrieval.validation import HIT, MRR, Validation, positive_rows

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LOGS = "logs"
SETTINGS_FILE = "training.json"  # what an interrupted training was doing
AT_WILL = {"device", "log_steps", "checkpoint_minutes"}  # may change between a kill and the resumption
TUNED_FILE = "tuned.json"  # the towers are ready, the fusion weight is not
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers")


class Tuned(Section):
    """What tuning the towers left behind, besides the towers."""

    dim: int
    n_pairs: int
    n_steps: int
    metrics: dict[str, float]


def train_retriever(
    prepared: Prepared, config: RetrieverConfig, out: Path, *, cache: Path, resume: bool = True
) -> RetrieverModelInfo:
    """Train one version of the retriever.

    Args:
        prepared: Prepared data; its validation examples choose the best checkpoint and the fusion weight.
        config: How to train.
        out: The version's folder. Afterwards it holds ``model/``, ``logs/`` and, written last, ``model.json``.
        cache: Folder of cached embeddings; fitting the fusion weight embeds the catalogue into it.
        resume: Go on with an interrupted training of the same data and settings, if the folder holds one.
    Returns:
        The content of ``model.json``.
    Raises:
        ConfigError: If the folder holds a finished version, or the base model cannot be used.
        InputError: If there is nothing to train on.
    """
    if (out / MODEL_FILE).exists():
        raise ConfigError(f"expected a folder for a new version, {out} holds a finished one; train into another")
    out.mkdir(parents=True, exist_ok=True)
    _settle(prepared, config, out, resume=resume)
    if not (out / TUNED_FILE).exists():
        tuned = _tune(prepared, config, out)
        _write(out / TUNED_FILE, tuned.model_dump_json())
    tuned = Tuned.model_validate_json((out / TUNED_FILE).read_text(encoding="utf-8"))
    info = RetrieverModelInfo(
        fingerprint=_fingerprint(out / MODEL_FOLDER, config),
        base_model=config.base_model,
        dim=tuned.dim,
        config=config,
        data_fingerprint=prepared.fingerprint,
        n_pairs=tuned.n_pairs,
        n_steps=tuned.n_steps,
        seed=config.train.seed,
        metrics=tuned.metrics,
        fusion=_fusion(prepared, config, out, cache),
        packages={name: version(name) for name in PACKAGES},
    )
    _write(out / MODEL_FILE, info.model_dump_json(indent=2))
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    for name in (SETTINGS_FILE, TUNED_FILE):
        (out / name).unlink(missing_ok=True)
    return info


def _settle(prepared: Prepared, config: RetrieverConfig, out: Path, *, resume: bool) -> None:
    """Clear the folder unless it holds an interrupted training of the same data and settings."""
    settings = {
        "data": prepared.fingerprint,
        "config": config.model_dump(
            mode="json", exclude={"index": True, "lexical": True, "fusion": True, "train": AT_WILL}
        ),
    }
    path = out / SETTINGS_FILE
    try:
        interrupted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        interrupted = None
    if resume and interrupted == settings:
        return
    if resume and interrupted is not None:
        logger.warning("the interrupted training in %s had other data or settings: starting anew", out)
    for name in (CHECKPOINTS, LOGS, MODEL_FOLDER):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / TUNED_FILE).unlink(missing_ok=True)
    _write(path, json.dumps(settings))


def _tune(prepared: Prepared, config: RetrieverConfig, out: Path) -> Tuned:
    """Tune the towers and save the best of them to ``model/``."""
    train = config.train
    pairs = TrainingPairs.read(prepared)
    texts = passages(prepared.items, config.item_fields)
    validation = Validation.sample(prepared, texts, config)
    if validation is None:
        logger.warning("no validation example has a positive: the last checkpoint will be kept, not the best")
    model = load_towers(config, device=_device(train))
    collator = PairCollator(
        pairs,
        texts,
        train,
        query_tokenizer=TowerTokenizer(model, "query", config.max_query_tokens),
        item_tokenizer=TowerTokenizer(model, "item", config.max_item_tokens),
    )
    trainer = _trainer(model, pairs, collator, validation, train, out)
    checkpoint = newest_checkpoint(out / CHECKPOINTS)
    logger.info(
        "training on %d pairs of %d queries for %d steps%s",
        len(pairs),
        len(pairs.queries),
        trainer.args.max_steps,
        f", going on from {checkpoint.name}" if checkpoint else "",
    )
    with quiet_libraries():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        part = out / f"{MODEL_FOLDER}.part"
        shutil.rmtree(part, ignore_errors=True)
        model.save(str(part), create_model_card=False)
        part.rename(out / MODEL_FOLDER)
    return Tuned(
        dim=model.get_embedding_dimension(),
        n_pairs=len(pairs),
        n_steps=trainer.state.global_step,
        metrics=_best_metrics(trainer),
    )


class TowerTrainer(SentenceTransformerTrainer):  # type: ignore[misc]  # the library is untyped
    """The library's trainer with Tandem's way of drawing pairs, and without model cards."""

    def __init__(self, *, sampler: PairSampler, **kwargs: object) -> None:
        """Take the sampler; the rest is the library's."""
        self._sampler = sampler
        super().__init__(**kwargs)

    def get_batch_sampler(self, *args: object, **kwargs: object) -> PairSampler:
        """Return the sampler given."""
        return self._sampler

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for a model card: it would tokenise the whole data set for statistics."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self.model.save(output_dir or self.args.output_dir, create_model_card=False)

    def _load_best_model(self) -> None:
        # the library would log a failure and go on with the last model; and the folder may have moved since
        best = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint).name
        try:
            self._load_from_checkpoint(str(best))
        except (OSError, RuntimeError, ValueError) as exc:
            raise ArtefactError(f"expected the best checkpoint at {best}, got: {exc}; train with --fresh") from exc


def _trainer(
    model: SentenceTransformer,
    pairs: TrainingPairs,
    collator: PairCollator,
    validation: Validation | None,
    train: RetrieverTrainConfig,
    out: Path,
) -> TowerTrainer:
    per_epoch = math.ceil(len(pairs) / train.batch_size)
    total = per_epoch * train.epochs
    if train.max_steps is not None:
        total = min(total, train.max_steps)
    interval = math.ceil(per_epoch / train.evaluations_per_epoch)
    weights = pairs.weight if train.weighting == "sample" else pairs.weight * 0 + 1
    args = SentenceTransformerTrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        max_steps=total,
        per_device_train_batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        warmup_steps=round(train.warmup_share * total),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=_bf16(train),
        use_cpu=_device(train) == "cpu",
        seed=train.seed,
        eval_strategy="no" if validation is None else "steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,  # the best and the newest
        load_best_model_at_end=validation is not None,
        metric_for_best_model=None if validation is None else f"eval_{MRR}",
        greater_is_better=None if validation is None else True,
        logging_steps=train.log_steps,
        report_to="none",  # TensorBoard comes as a callback, to write where we want
        disable_tqdm=True,
        dataloader_pin_memory=_device(train) != "cpu",
    )
    callbacks: list[Any] = [
        TrainingProgress("training the retriever"),
        CheckpointClock(train.checkpoint_minutes),
        TensorBoardCallback(SummaryWriter(str(out / LOGS))),
    ]
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=train.patience))
    with quiet_libraries():
        trainer = TowerTrainer(
            sampler=PairSampler(weights, train.batch_size, train.seed),
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"pair": range(len(pairs))}),
            loss=InBatchSoftmaxLoss(model, temperature=train.temperature),
            evaluator=validation,
            data_collator=collator,
            callbacks=callbacks,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _device(train: RetrieverTrainConfig) -> str:
    return "cuda" if train.device == "auto" and torch.cuda.is_available() else "cpu"


def _bf16(train: RetrieverTrainConfig) -> bool:
    """Mixed precision where the device has it; a CPU that emulates bfloat16 is many times slower with it."""
    able = _device(train) == "cuda" and torch.cuda.is_bf16_supported()
    if train.precision == "bf16" and not able:
        raise ConfigError("expected a CUDA device with bfloat16 for precision = 'bf16', found none; use 'auto'")
    return able and train.precision != "fp32"


def _best_metrics(trainer: TowerTrainer) -> dict[str, float]:
    """Return the validation figures of the checkpoint that was kept; empty if nothing was validated."""
    for entry in trainer.state.log_history:
        if entry.get("step") == trainer.state.best_global_step and f"eval_{MRR}" in entry:
            return {name: float(entry[f"eval_{name}"]) for name in (MRR, HIT)}
    return {}


def _fusion(prepared: Prepared, config: RetrieverConfig, out: Path, cache: Path) -> FusionInfo:
    """Fit the channels' weights on validation queries, with behaviour of the training split."""
    examples = prepared.examples(
        "valid", limit=config.fusion.valid_examples, seed=config.train.seed, with_history=False
    )
    examples = [example for example in examples if len(positive_rows(example))]
    if not examples:
        logger.warning("no validation example has a positive: the channels' weights stay at %s", DEFAULT_WEIGHTS)
        return FusionInfo(weights=DEFAULT_WEIGHTS)
    retriever = build_retriever(prepared.items, out, config, cache, weights=DEFAULT_WEIGHTS)
    behaviour = Behaviour.build(
        prepared.pairs("train"), retriever.encoder, config.behaviour, n_items=len(prepared.items)
    )
    report = fit_fusion(retriever.with_query_log(behaviour.queries), examples, depth=config.fusion.depth)
    return FusionInfo(weights=report.weights, fitted=report)


def _fingerprint(model: Path, config: RetrieverConfig) -> str:
    """Return the SHA-256 over weights, tokenizer and all that decides what text they read."""
    reading = [PASSAGE_VERSION, config.item_fields, config.max_query_tokens, config.max_item_tokens]
    digest = hashlib.sha256(json.dumps(reading).encode())
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        digest.update(path.relative_to(model).as_posix().encode() + content.digest())
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    """Write by write-and-rename, so that the file is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
