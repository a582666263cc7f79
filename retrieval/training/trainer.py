"""The library's trainer, told about pairs: how they are drawn, what is validated, which checkpoint is kept."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, PrinterCallback
from transformers.integrations import TensorBoardCallback

from corpus.errors import ArtefactError, ConfigError
from retrieval.config import RetrieverTrainConfig
from retrieval.quiet import quiet_libraries
from retrieval.training.callbacks import CheckpointClock, TrainingProgress
from retrieval.training.losses import InBatchSoftmaxLoss
from retrieval.training.pairs import PairCollator, PairSampler, TrainingPairs
from retrieval.training.processes import from_first, is_first, sum_gradients
from retrieval.training.validation import HIT, MRR, Validation

WEIGHTS_FILE = "towers.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One of the trainings that follow each other: the first without mined negatives, the others with."""

    number: int  # from 0
    n_epochs: int
    max_steps: int | None  # None: epochs decide
    checkpoints: Path
    logs: Path  # TensorBoard


class TowerTrainer(SentenceTransformerTrainer):  # type: ignore[misc]  # the library is untyped
    """The library's trainer with Tandem's way of drawing pairs and of sharing batches, and without model cards."""

    def __init__(self, *, sampler: PairSampler, **kwargs: object) -> None:
        """Take the sampler; the rest is the library's."""
        self._sampler = sampler
        super().__init__(**kwargs)
        # several processes: the gradients are summed below, which suits several passes per step; DDP does not
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def _wrap_model(self, model: SentenceTransformer, *args: object, **kwargs: object) -> SentenceTransformer:
        return model  # one process, one device: the library would split batches among all that it sees

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of whole batches, in every process."""
        loader = self._build_dataloader(self.train_dataset, self.args.train_batch_size, dataset_kind="train")
        return prepare_data_loader(  # type: ignore[no-any-return]
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        """Compute a step's gradients, those of the other processes included."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        sum_gradients(self.model.parameters())
        return loss

    def get_batch_sampler(self, *args: object, **kwargs: object) -> PairSampler:
        """Return the sampler given."""
        return self._sampler

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Collect nothing for a model card: it would tokenise the whole data set for statistics."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # weights alone: the library could not open a model with adapters in it
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS_FILE))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        load_model(self.model, str(Path(checkpoint_path) / WEIGHTS_FILE))

    def _load_best_model(self) -> None:
        # the library would log a failure and go on with the last model; and the folder may have moved since
        best = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint).name
        try:
            self._load_from_checkpoint(str(best))
        except (OSError, RuntimeError, SafetensorError) as exc:
            raise ArtefactError(f"expected the best checkpoint at {best}, got: {exc}; train with --fresh") from exc


def build_trainer(
    model: SentenceTransformer,
    pairs: TrainingPairs,
    collator: PairCollator,
    validation: Validation | None,
    train: RetrieverTrainConfig,
    training_round: Round,
) -> TowerTrainer:
    """Put a round's trainer together.

    Args:
        model: The towers to tune.
        pairs: The training pairs.
        collator: Makes batches of them.
        validation: Chooses the best checkpoint; None: the last one is kept.
        train: The training section.
        training_round: Which round, how long, and where its checkpoints and logs go.
    Raises:
        ConfigError: If bf16 is asked for and no CUDA device offers it.
    """
    per_epoch = math.ceil(len(pairs) / train.batch_size)
    total = per_epoch * training_round.n_epochs
    if training_round.max_steps is not None:
        total = min(total, training_round.max_steps)
    seed = train.seed + training_round.number  # a round does not repeat the orders of the one before
    interval = math.ceil(per_epoch / train.evaluations_per_epoch)
    weights = pairs.draw_weights(weighted=train.weighting == "sample")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(training_round.checkpoints),
        max_steps=total,
        per_device_train_batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        warmup_steps=round(train.warmup_share * total),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=_bf16(train),
        use_cpu=device_of(train) == "cpu",
        seed=seed,
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
        dataloader_pin_memory=device_of(train) != "cpu",
    )
    callbacks: list[Any] = [CheckpointClock(train.checkpoint_minutes, agree=from_first)]
    if is_first():
        callbacks.append(TrainingProgress("training the retriever"))
        callbacks.append(TensorBoardCallback(SummaryWriter(str(training_round.logs))))
    if validation is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=train.patience))
    with quiet_libraries():
        trainer = TowerTrainer(
            sampler=PairSampler(weights, train.batch_size, seed),
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"pair": range(len(pairs))}),
            loss=InBatchSoftmaxLoss(
                model, temperature=train.temperature, chunk=train.cached_chunk, dims=train.matryoshka_dims
            ),
            evaluator=validation,
            data_collator=collator,
            callbacks=callbacks,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def device_of(train: RetrieverTrainConfig) -> str:
    """Return where to train, as torch names it."""
    return "cuda" if train.device == "auto" and torch.cuda.is_available() else "cpu"


def _bf16(train: RetrieverTrainConfig) -> bool:
    """Mixed precision where the device has it; a CPU that emulates bfloat16 is many times slower with it."""
    able = device_of(train) == "cuda" and torch.cuda.is_bf16_supported()
    if train.precision == "bf16" and not able:
        raise ConfigError("expected a CUDA device with bfloat16 for precision = 'bf16', found none; use 'auto'")
    return able and train.precision != "fp32"


def best_metrics(trainer: TowerTrainer) -> dict[str, float]:
    """Return the validation figures of the checkpoint that was kept; empty if nothing was validated."""
    for entry in trainer.state.log_history:
        if entry.get("step") == trainer.state.best_global_step and f"eval_{MRR}" in entry:
            return {name: float(entry[f"eval_{name}"]) for name in (MRR, HIT)}
    return {}
