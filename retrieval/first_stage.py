"""The tuned first stage as the second one learns from it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from corpus.prepared import Prepared
from retrieval.config import RetrieverConfig
from retrieval.event_log.behaviour import Behaviour
from retrieval.fusion import FusionWeights
from retrieval.model_info import load_retriever_info
from retrieval.retriever import Retriever, build_retriever


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStage:
    """All channels of a tuned retriever, over behaviour of the training split alone."""

    retriever: Retriever
    behaviour: Behaviour
    fingerprint: str  # of the trained retriever
    channels: str  # ``channel_digest`` of the settings that its scores come by


def channel_digest(config: RetrieverConfig, weights: FusionWeights) -> str:
    """Return the SHA-256 of all settings but the models' that the channels' scores depend on, hexadecimal.

    What is trained on those scores goes with no others.

    Args:
        config: Of the first stage.
        weights: As resolved.
    """
    sections = (config.lexical, config.behaviour, weights)
    return hashlib.sha256("\n".join(section.model_dump_json() for section in sections).encode()).hexdigest()


def open_first_stage(prepared: Prepared, model_dir: Path, config: RetrieverConfig, cache: Path) -> FirstStage:
    """Open a trained version: torch encoders, exact search. Imports torch.

    Args:
        prepared: The catalogue, and the choices to count.
        model_dir: A finished version's folder.
        config: Its settings, those of the indexes and tables as the store wants them now.
        cache: Folder of cached embeddings.
    Raises:
        ArtefactError: If there is no such version.
    """
    retriever = build_retriever(prepared.items, model_dir, config, cache)
    pairs, exposure = prepared.pairs_before("valid"), prepared.exposure_before("valid")
    behaviour = Behaviour.build(pairs, exposure, retriever.encoder, config.behaviour, items=prepared.items, cache=cache)
    return FirstStage(
        retriever=retriever.with_query_log(behaviour.queries),
        behaviour=behaviour,
        fingerprint=load_retriever_info(model_dir).fingerprint,
        channels=channel_digest(config, retriever.weights),
    )
