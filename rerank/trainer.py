"""The transformers Trainer, told about lists: how they are ordered, what the loss is, how a model is validated."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from corpus.errors import ArtefactError, DeviceUnavailable
from rerank.config import RerankerTrainConfig
from rerank.cross_encoder import CrossEncoder, pair_logits
from rerank.dataset import GroupedByLength, ListCollator, ListDataset
from rerank.heads import HEADS
from rerank.inputs import PairTokenizer
from rerank.loss import LossKind, label_targets, list_loss, teacher_targets
from rerank.scorer import PairScorer
from rerank.validation import ValidationSet, validate
from retrieval.engines.torch_engine import TorchEngine

BEST_METRIC = "eval_mrr_at_10"
WEIGHT_METRIC = "eval_retrieval_weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What training is after."""

    loss: LossKind
    heads: tuple[str, ...]  # that the data can teach
    head_weights: dict[str, float]  # resolved, for the ranking that is validated
    teacher: torch.nn.Module | None = None  # whose logits are the targets, instead of the choices


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
        objective: Objective,
    ) -> None:
        super().__init__(
            model=classifier,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=validation,
            data_collator=ListCollator(tokenizer),
        )
        self.validation = validation
        self._tokenizer = tokenizer
        self.objective = objective
        self._teacher = None if objective.teacher is None else objective.teacher.to(self.args.device).eval()

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return the loss of a batch over the heads that the data can teach."""
        pairs = inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"]
        logits = pair_logits(model, *pairs)
        taught = [HEADS.index(head) for head in self.objective.heads]
        rates = inputs["rates"][..., taught]
        if self._teacher is None:
            targets = label_targets(rates)
        else:
            with torch.no_grad():
                targets = teacher_targets(self._teacher(*pairs)[:, taught], rates, inputs["places"])
        loss = list_loss(logits[:, taught], targets, inputs["places"], self.objective.loss)
        return (loss, {"logits": logits}) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        """Rerank the validation queries; the Trainer calls this after each epoch."""
        began = time.monotonic()
        outcome = validate(self.validation, self.scorer())
        metrics = {f"eval_{name}": value for name, value in outcome.metrics.items()}
        metrics[WEIGHT_METRIC] = outcome.score_weights["retrieval"]
        metrics["eval_seconds"] = time.monotonic() - began
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def scorer(self) -> PairScorer:
        """Return a scorer that runs the model as it is now."""
        engine = TorchEngine(CrossEncoder(self.model), str(self.args.device))
        return PairScorer(engine, self._tokenizer, self.objective.head_weights)

    def _load_best_model(self) -> None:
        # the library would log a failure and go on with the last model; and the folder may have moved since
        best = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint or "none").name
        if not best.is_dir():
            raise ArtefactError(f"expected the best checkpoint at {best}, found none; train with --fresh")
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedByLength:  # noqa: ANN401
        return GroupedByLength(
            self.train_dataset, batch_size=self.args.per_device_train_batch_size, seed=self.args.seed
        )


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
    per_epoch = math.ceil(n_lists / config.lists_per_batch)
    steps = per_epoch * config.epochs
    return TrainingArguments(
        output_dir=str(folder),
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
        # by steps, not by epochs: then a validation and its checkpoint cannot be torn apart by a kill
        eval_strategy="steps" if validated else "no",
        eval_steps=per_epoch,
        save_strategy="steps",
        save_steps=per_epoch,
        save_total_limit=2,  # the best and the newest
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
