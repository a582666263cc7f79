"""Tuning the towers, round by round: first on the batch's own negatives, then on those mined with what was tuned."""

import logging
import shutil
from pathlib import Path

from corpus.config import Section
from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.model_info import MODEL_FOLDER, fingerprint_model, write_whole
from retrieval.passages import passages
from retrieval.quiet import quiet_libraries
from retrieval.training.checkpoints import newest_checkpoint
from retrieval.training.hard_negatives import HardNegatives
from retrieval.training.mining import mine_hard_negatives
from retrieval.training.pairs import PairCollator, TrainingPairs
from retrieval.training.processes import from_first
from retrieval.training.towers import TowerTokenizer, load_towers, open_towers
from retrieval.training.trainer import Round, best_metrics, build_trainer, device_of
from retrieval.training.validation import MRR, Validation

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LOGS = "logs"
ROUND_FILE = "round.json"  # written last: its presence marks a finished round


class Tuned(Section):
    """What tuning the towers left behind, besides the towers."""

    dim: int
    n_pairs: int
    n_steps: int
    metrics: dict[str, float]


def tune(prepared: Prepared, config: RetrieverConfig, out: Path, cache: Path) -> Tuned:
    """Tune the towers and save the best of them to ``model/``; finished rounds are not trained again.

    Args:
        prepared: Prepared data.
        config: How to train.
        out: The version's folder.
        cache: Folder of cached embeddings, for mining.
    Raises:
        ConfigError: If the base model cannot be used.
        InputError: If there is nothing to train on.
    """
    tuning = _Tuning(prepared, config, out, cache)
    best, best_folder = tuning.round(0, None, steps_done=0), tuning.folder(0)
    n_steps = best.n_steps
    for number in range(1, 1 + (config.train.mining_rounds if config.train.hard_negatives else 0)):
        if config.train.max_steps is not None and n_steps >= config.train.max_steps:
            break
        tuned = tuning.round(number, best_folder / MODEL_FOLDER, steps_done=n_steps)
        n_steps += tuned.n_steps
        if tuned.metrics and tuned.metrics[MRR] <= best.metrics[MRR]:
            logger.info("round %d brought no better %s: the model of the round before is kept", number, MRR)
            break
        best, best_folder = tuned, tuning.folder(number)
    from_first(lambda: _keep(best_folder / MODEL_FOLDER, out / MODEL_FOLDER))
    return best.model_copy(update={"n_steps": n_steps})


def _keep(model: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(model, part)
    part.rename(target)


class _Tuning:
    """What all rounds share."""

    def __init__(self, prepared: Prepared, config: RetrieverConfig, out: Path, cache: Path) -> None:
        self._prepared = prepared
        self._config = config
        self._out = out
        self._cache = cache
        self._pairs = TrainingPairs.read(prepared)
        self._texts = passages(prepared.items, config.item_fields)
        self._validation = Validation.sample(prepared, self._texts, config)
        if self._validation is None:
            logger.warning("no validation example has a positive: the last checkpoint will be kept, not the best")

    def folder(self, number: int) -> Path:
        return self._out / CHECKPOINTS / f"round-{number}"

    def round(self, number: int, start: Path | None, *, steps_done: int) -> Tuned:
        """Train one round, from the base model or a round's; what a killed one left is gone on with."""
        folder = self.folder(number)
        if not from_first((folder / ROUND_FILE).exists):
            mined = None if start is None else self._mined(start, folder)
            tuned = self._train(number, start, mined, steps_done)
            from_first(lambda: write_whole(folder / ROUND_FILE, tuned.model_dump_json()))
        return Tuned.model_validate_json((folder / ROUND_FILE).read_text(encoding="utf-8"))

    def _mined(self, model: Path, folder: Path) -> HardNegatives:
        path = folder / f"mined-{fingerprint_model(model, self._config)[:16]}.safetensors"
        if not from_first(path.exists):
            from_first(lambda: self._mine(model, path))
        return HardNegatives.load(path)

    def _mine(self, model: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine_hard_negatives(self._prepared, self._pairs, model, self._config, self._cache).save(path)

    def _train(self, number: int, start: Path | None, mined: HardNegatives | None, steps_done: int) -> Tuned:
        config, train, folder = self._config, self._config.train, self.folder(number)
        device = device_of(train)
        model = load_towers(config, device=device) if start is None else open_towers(start, device=device)
        adapters = None
        if train.lora_rank is not None:
            from retrieval.training.low_rank import LowRank  # peft takes a second to import

            adapters = LowRank(model, train.lora_rank, seed=train.seed + number)
        collator = PairCollator(
            self._pairs,
            self._texts,
            train,
            query_tokenizer=TowerTokenizer(model, "query", config.max_query_tokens),
            item_tokenizer=TowerTokenizer(model, "item", config.max_item_tokens),
            mined=mined,
        )
        training_round = Round(
            number=number,
            n_epochs=train.epochs if number == 0 else train.mining_epochs,
            max_steps=None if train.max_steps is None else train.max_steps - steps_done,
            checkpoints=folder,
            logs=self._out / LOGS / (f"round-{number}" if number else ""),
        )
        trainer = build_trainer(model, self._pairs, collator, self._validation, train, training_round)
        checkpoint = from_first(lambda: newest_checkpoint(folder))
        logger.info(
            "training on %d pairs of %d queries for %d steps%s",
            len(self._pairs),
            len(self._pairs.queries),
            trainer.args.max_steps,
            f", going on from {checkpoint.name}" if checkpoint else "",
        )
        with quiet_libraries():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            if adapters is not None:
                adapters.merge()
            from_first(lambda: model.save(str(folder / MODEL_FOLDER), create_model_card=False))
        return Tuned(
            dim=model.get_embedding_dimension(),
            n_pairs=len(self._pairs),
            n_steps=trainer.state.global_step,
            metrics=best_metrics(trainer),
        )
