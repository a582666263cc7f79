"""``tandem train retriever``: tune the towers, fit the fusion weight, describe the outcome."""

import json
import logging
import shutil
from importlib.metadata import version
from pathlib import Path

from corpus.errors import ConfigError
from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.event_log.behaviour import Behaviour
from retrieval.fusion import fit_fusion
from retrieval.model_info import (
    MODEL_FILE,
    MODEL_FOLDER,
    FusionInfo,
    RetrieverModelInfo,
    fingerprint_model,
    write_whole,
)
from retrieval.retriever import DEFAULT_WEIGHTS, build_retriever
from retrieval.training.processes import from_first, joined
from retrieval.training.trainer import device_of
from retrieval.training.tuning import CHECKPOINTS, LOGS, Tuned, tune
from retrieval.training.validation import positive_rows

logger = logging.getLogger(__name__)

SETTINGS_FILE = "training.json"  # what an interrupted training was doing
AT_WILL = {"device", "log_steps", "checkpoint_minutes"}  # may change between a kill and the resumption
TUNED_FILE = "tuned.json"  # the towers are ready, the fusion weight is not
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers")


def train_retriever(
    prepared: Prepared, config: RetrieverConfig, out: Path, *, cache: Path, resume: bool = True
) -> RetrieverModelInfo:
    """Train one version of the retriever; processes that torchrun started train it together.

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
    with joined(device_of(config.train)):
        out = from_first(lambda: out)  # the caller may have counted the versions while the first process made one
        if from_first((out / MODEL_FILE).exists):
            raise ConfigError(f"expected a folder for a new version, {out} holds a finished one; train into another")
        from_first(lambda: _settle(prepared, config, out, resume=resume))
        if not from_first((out / TUNED_FILE).exists):
            tuned = tune(prepared, config, out, cache)
            from_first(lambda: write_whole(out / TUNED_FILE, tuned.model_dump_json()))
        return from_first(lambda: _finish(prepared, config, out, cache))


def _finish(prepared: Prepared, config: RetrieverConfig, out: Path, cache: Path) -> RetrieverModelInfo:
    """Describe the tuned towers in ``model.json`` and clear away what training needed."""
    tuned = Tuned.model_validate_json((out / TUNED_FILE).read_text(encoding="utf-8"))
    info = RetrieverModelInfo(
        fingerprint=fingerprint_model(out / MODEL_FOLDER, config),
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
    write_whole(out / MODEL_FILE, info.model_dump_json(indent=2))
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    for name in (SETTINGS_FILE, TUNED_FILE):
        (out / name).unlink(missing_ok=True)
    return info


def _settle(prepared: Prepared, config: RetrieverConfig, out: Path, *, resume: bool) -> None:
    """Make the folder, or clear it unless it holds an interrupted training of the same data and settings."""
    out.mkdir(parents=True, exist_ok=True)
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
    write_whole(path, json.dumps(settings))


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
    pairs, exposure = prepared.pairs("train"), prepared.exposure("train")
    behaviour = Behaviour.build(pairs, exposure, retriever.encoder, config.behaviour, items=prepared.items, cache=cache)
    report = fit_fusion(retriever.with_query_log(behaviour.queries), examples, depth=config.fusion.depth)
    return FusionInfo(weights=report.weights, fitted=report)
