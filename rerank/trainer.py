"""The transformers Trainer, told about lists: how they are ordered, what the loss is, how a model is validated."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from corpus.errors import DeviceUnavailable
from corpus.progress import track
from rerank.config import RerankerTrainConfig
from rerank.cross_encoder import CrossEncoder, pair_logits
from rerank.dataset import GroupedByLength, ListCollator, ListDataset
from rerank.inputs import PairTokenizer
from rerank.loss import listwise_loss
from rerank.scorer import PairScorer
from rerank.validation import ValidationSet, validate
from retrieval.torch_engine import TorchEngine

BEST_METRIC = "eval_mrr_at_10"
WEIGHT_METRIC = "eval_retrieval_weight"


class RerankerTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trains on lists; validates by reranking."""

    control: Any  # transformers.TrainerControl

    def __init__(
        self,
        classifier: Any,  # noqa: ANN401
        arguments: TrainingArguments,
        dataset: ListDataset,
        validation: ValidationSet,
        tokenizer: PairTokenizer,
    ) -> None:
        super().__init__(
            model=classifier,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=validation,
            data_collator=ListCollator(tokenizer),
        )
        self._validation = validation
        self._tokenizer = tokenizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return the listwise loss of a batch."""
        logits = pair_logits(model, inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"])[:, 0]
        loss = listwise_loss(logits, inputs["targets"], inputs["places"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        """Rerank the validation queries; the Trainer calls this after each epoch."""
        began = time.monotonic()
        engine = TorchEngine(CrossEncoder(self.model), str(self.args.device))
        outcome = validate(self._validation, PairScorer(engine, self._tokenizer))
        metrics = {f"eval_{name}": value for name, value in outcome.metrics.items()}
        metrics[WEIGHT_METRIC] = outcome.score_weights["retrieval"]
        metrics["eval_seconds"] = time.monotonic() - began
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedByLength:  # noqa: ANN401
        return GroupedByLength(
            self.train_dataset, batch_size=self.args.per_device_train_batch_size, seed=self.args.seed
        )


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Shows steps, rate and time left."""

    def __init__(self) -> None:
        self._steps: Iterator[int] | None = None
        self._shown = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Open the bar; a resumed run shows what is left."""
        left = state.max_steps - state.global_step
        self._steps = track(range(left + 1), description="training the reranker", total=left)
        next(self._steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Advance the bar."""
        if self._steps is not None:
            next(self._steps, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Close the bar, also where training stopped early."""
        self._steps = None  # closing the generator closes the bar


class TimedCheckpoint(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint between two epochs when the last one is older than some minutes."""

    def __init__(self, minutes: float, steps_per_epoch: int) -> None:
        self._seconds = 60 * minutes
        self._steps_per_epoch = steps_per_epoch
        self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Ask for a checkpoint, except at the end of an epoch, which is validated and saved anyway."""
        due = time.monotonic() - self._last >= self._seconds
        if due and state.global_step % self._steps_per_epoch != 0 and state.global_step < state.max_steps:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Begin to wait anew."""
        self._last = time.monotonic()


def training_arguments(
    config: RerankerTrainConfig, folder: Path, *, n_lists: int, validated: bool
) -> TrainingArguments:
    """Translate the configuration.

    Args:
        config: The training section.
        folder: Where checkpoints go.
        n_lists: Lists per epoch.
        validated: Whether there are validation queries; without, the last epoch is kept instead of the best.
    Raises:
        DeviceUnavailable: If bf16 is asked for and no CUDA device offers it.
    """
    cuda = torch.cuda.is_available() and config.device == "auto"
    bf16 = cuda and torch.cuda.is_bf16_supported() and config.precision != "fp32"
    if config.precision == "bf16" and not bf16:
        raise DeviceUnavailable(
            "expected a CUDA device with bfloat16 for [reranker.train] precision = 'bf16', found none; use 'auto'"
        )
    steps = config.epochs * -(-n_lists // config.lists_per_batch)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        max_steps=min(steps, config.max_steps or steps),
        per_device_train_batch_size=config.lists_per_batch,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        bf16=bf16,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        eval_strategy="epoch" if validated else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=validated,
        metric_for_best_model=BEST_METRIC if validated else None,
        greater_is_better=True if validated else None,
        restore_callback_states_from_checkpoint=validated,
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=config.seed,
    )
