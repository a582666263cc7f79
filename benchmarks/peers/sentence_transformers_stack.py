"""The do-it-yourself stack: what an engineer would write from the documentation of Sentence Transformers and FAISS.

    python -m benchmarks.peers.sentence_transformers_stack stores/bestbuy --max-steps 300

The first stage is a SentenceTransformer, fine-tuned with MultipleNegativesRankingLoss, over an exact FAISS index. The
second is a CrossEncoder, trained with BinaryCrossEntropyLoss on negatives mined by the first, that reorders its first
30. Both follow the library's training overviews (sbert.net, "Training Overview" of either model): one epoch in batches
of 64, batches without duplicates for the first, five mined negatives per positive for the second; the learning rate
and all else are the trainers' defaults. Neither reads histories, nor how often something was chosen.

The data, the base model and the number of steps are those of Tandem's retriever, so that the comparison is one of
recipes.
"""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.items import ItemTable
from corpus.prepared import Example, Prepared
from corpus.workspace import Workspace
from indexer.judged import order
from indexer.systems import DEPTH, Run
from retrieval.arrays import FloatArray, IntArray
from retrieval.config import DEFAULT_MODEL
from retrieval.quiet import quiet_libraries
from retrieval.training.base_models import resolve_base_model

logger = logging.getLogger(__name__)

DENSE = "do-it-yourself dense"
TWO_STAGES = "do-it-yourself two stages"
RERANK_DEPTH = 30
BATCH_SIZE = 64
N_NEGATIVES = 5  # mined per positive, as the training overview of cross-encoders has it
SEED = 13
NAME = "sentence-transformers"
SETTINGS_FILE = "stack.json"  # written last: the stack is whole


class StackSettings(BaseModel):
    """What decides what the stack learns; another stack in the folder is trained anew."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_fingerprint: str
    base_model: str
    max_steps: int | None  # of either training, over as many epochs as that takes; None: one epoch
    seed: int = SEED


class SentenceTransformersStack:
    """Both stages, trained. A ``Peer`` of ``indexer.systems``."""

    def __init__(self, folder: Path, items: ItemTable, *, seed: int = 0) -> None:
        """Open a folder that ``train`` filled.

        Args:
            folder: Holds both models and the catalogue's embeddings.
            items: The catalogue.
            seed: Of the order of judged items that score alike.
        """
        from sentence_transformers import CrossEncoder, SentenceTransformer

        with quiet_libraries():
            self._encoder = SentenceTransformer(str(folder / "retriever"))
            self._cross_encoder = CrossEncoder(str(folder / "reranker"))
        self._texts = passages(items)
        self._vectors: FloatArray = np.load(folder / "embeddings.npy", allow_pickle=False)
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(self._vectors)
        self._seed = seed

    def runs(self, examples: Sequence[Example]) -> Iterator[tuple[str, Run]]:
        """Yield both systems' rankings."""
        queries = list(dict.fromkeys(example.query for example in examples))
        _, found = self._index.search(self._embed(queries), min(DEPTH, len(self._texts)))
        first = dict(zip(queries, found.astype(np.int64), strict=True))
        yield DENSE, {e.query_id: first[e.query].tolist() for e in examples}
        scores = self._read([(query, first[query][:RERANK_DEPTH]) for query in queries])
        second = {
            query: np.concatenate([rows[:RERANK_DEPTH][np.argsort(-score, kind="stable")], rows[RERANK_DEPTH:]])
            for (query, rows), score in zip(first.items(), scores, strict=True)
        }
        yield TWO_STAGES, {e.query_id: second[e.query].tolist() for e in examples}

    def judged_runs(self, examples: Sequence[Example]) -> Iterator[tuple[str, Run]]:
        """Yield both systems' orders of the labelled items alone."""
        queries = list(dict.fromkeys(example.query for example in examples))
        embeddings = dict(zip(queries, self._embed(queries), strict=True))
        yield DENSE, order(examples, lambda query, rows: self._vectors[rows] @ embeddings[query], seed=self._seed)
        yield TWO_STAGES, order(examples, lambda query, rows: self._read([(query, rows)])[0], seed=self._seed)

    def _embed(self, texts: Sequence[str]) -> FloatArray:
        with quiet_libraries():
            return embed(self._encoder, texts)

    def _read(self, lists: Sequence[tuple[str, IntArray]]) -> list[FloatArray]:
        """Return the cross-encoder's scores of each query's rows; in one call, so that it can sort by length."""
        pairs = [(query, self._texts[row]) for query, rows in lists for row in rows.tolist()]
        with quiet_libraries():
            scores = np.asarray(self._cross_encoder.predict(pairs, show_progress_bar=False), dtype=np.float32)
        return np.split(scores, np.cumsum([len(rows) for _, rows in lists])[:-1])


def open_stack(
    prepared: Prepared, folder: Path, *, base_model: str = DEFAULT_MODEL, max_steps: int | None = None
) -> SentenceTransformersStack:
    """Open the stack in a folder, trained first unless it was trained so before.

    Args:
        prepared: The data.
        folder: Where both models and the catalogue's embeddings are kept.
        base_model: Of both stages; as ``retriever.base_model``.
        max_steps: Steps of either training, over as many epochs as that takes; None: one epoch.
    Raises:
        ConfigError: If the base model is not on this machine.
    """
    settings = StackSettings(data_fingerprint=prepared.fingerprint, base_model=base_model, max_steps=max_steps)
    try:
        known = StackSettings.model_validate_json((folder / SETTINGS_FILE).read_bytes())
    except (OSError, ValidationError):
        known = None
    if known != settings:
        shutil.rmtree(folder, ignore_errors=True)
        train(prepared, folder, settings)
    return SentenceTransformersStack(folder, prepared.items)


def train(prepared: Prepared, folder: Path, settings: StackSettings) -> None:
    """Train both stages and embed the catalogue; see the top of this module."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    texts = passages(prepared.items)
    base = resolve_base_model(settings.base_model)
    pairs = prepared.pairs("train")
    distinct = dict.fromkeys(zip(pairs.query.tolist(), pairs.row.tolist(), strict=True))
    data = Dataset.from_dict(
        {"query": [pairs.queries[query] for query, _ in distinct], "passage": [texts[row] for _, row in distinct]}
    )
    logger.info("the do-it-yourself stack: training on %d distinct pairs", len(data))
    with quiet_libraries():
        encoder = SentenceTransformer(base)
        _train_retriever(encoder, data, folder, settings)
        encoder.save(str(folder / "retriever"), create_model_card=False)
        logger.info("the do-it-yourself stack: embedding %d items", len(texts))
        np.save(folder / "embeddings.npy", embed(encoder, texts), allow_pickle=False)
        logger.info("the do-it-yourself stack: training the cross-encoder")
        cross_encoder = _train_reranker(base, encoder, data, folder, settings)
        cross_encoder.save_pretrained(str(folder / "reranker"), create_model_card=False)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / SETTINGS_FILE).write_text(settings.model_dump_json() + "\n", encoding="utf-8")


def passages(items: ItemTable) -> list[str]:
    """Write each item as one text: title, brand and category, whatever of them it has."""
    columns = zip(items.column("title"), items.column("brand"), items.column("category"), strict=True)
    return [" ".join([title, *([brand] if brand else []), *(category or [])]) for title, brand, category in columns]


def _train_retriever(encoder: Any, data: Any, folder: Path, settings: StackSettings) -> None:  # noqa: ANN401 - untyped library
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    arguments = SentenceTransformerTrainingArguments(
        **_arguments(folder, settings), batch_sampler=BatchSamplers.NO_DUPLICATES
    )
    loss = MultipleNegativesRankingLoss(encoder)
    _run(SentenceTransformerTrainer(model=encoder, args=arguments, train_dataset=data, loss=loss))


def _train_reranker(base: str, encoder: Any, data: Any, folder: Path, settings: StackSettings) -> Any:  # noqa: ANN401 - untyped library
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from sentence_transformers.util import mine_hard_negatives

    mined = mine_hard_negatives(
        data,
        encoder,
        num_negatives=N_NEGATIVES,
        absolute_margin=0,
        range_max=100,
        sampling_strategy="top",
        output_format="labeled-pair",
        verbose=False,
    )
    torch.manual_seed(settings.seed)  # of the fresh head
    model = CrossEncoder(base, num_labels=1)
    arguments = CrossEncoderTrainingArguments(**_arguments(folder, settings))
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(N_NEGATIVES))
    _run(CrossEncoderTrainer(model=model, args=arguments, train_dataset=mined, loss=loss))
    return model


def _run(trainer: Any) -> None:  # noqa: ANN401 - untyped library
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # it prints a summary among the report's lines
    trainer.train()


def _arguments(folder: Path, settings: StackSettings) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "checkpoints"),
        "num_train_epochs": 1,
        "max_steps": -1 if settings.max_steps is None else settings.max_steps,
        "per_device_train_batch_size": BATCH_SIZE,
        "seed": settings.seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def embed(encoder: Any, texts: Sequence[str]) -> FloatArray:  # noqa: ANN401 - untyped library
    """Return a SentenceTransformer's embeddings of texts, float32 (n, dim), L2-normalised."""
    vectors = encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the stack of a store, and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a store with prepared data")
    parser.add_argument("--max-steps", type=int, help="steps of either training; default: one epoch")
    options = parser.parse_args(arguments)
    workspace = Workspace(options.store)
    folder = folder_of(workspace)
    open_stack(Prepared(workspace.data), folder, max_steps=options.max_steps)
    sys.stdout.write(json.dumps({"folder": str(folder), "max_steps": options.max_steps}) + "\n")


def folder_of(workspace: Workspace) -> Path:
    """Return where a store keeps this stack."""
    return workspace.root / "peers" / NAME


if __name__ == "__main__":
    main()
