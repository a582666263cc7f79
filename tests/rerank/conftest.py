"""Fixtures of the second stage: the real first stage over the tiny catalogue, and one tiny trained reranker."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.columns import ItemColumns
from corpus.events import HistoryEvent
from corpus.items import ItemTable
from corpus.prepared import EXAMPLE_SCHEMA, EXPOSURE_SCHEMA, FORMAT_VERSION, Prepared
from rerank.blend import Blend, open_blend
from rerank.config import BlendConfig, RerankerConfig, RerankerTrainConfig
from rerank.features import FeatureExtractor
from rerank.inputs import PairTokenizer, PassageTokens
from rerank.model_info import RerankerModelInfo
from rerank.probabilities import ProbabilityMap
from rerank.reranker import Reranker
from rerank.scorer import PairScorer
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.config import BehaviourConfig
from retrieval.event_log.behaviour import Behaviour
from tests.rerank.scripted import CONFIG, MAPS, N_ITEMS, Engine


class WordRetriever:
    """A first stage that counts common words, ties in catalogue order: right often, best seldom."""

    def __init__(self, items: ItemTable) -> None:
        self._titles = [set(title.split()) for title in items.column("title")]

    def retrieve_batch(self, queries: Sequence[str], k: int) -> list[Candidates]:
        return [self.retrieve(query, k) for query in queries]

    def retrieve(self, query: str, k: int) -> Candidates:
        words = set(query.split())
        scores = np.array([len(words & title) / (len(words) + len(title)) for title in self._titles], dtype=np.float32)
        rows = np.argsort(-scores, kind="stable")[:k]
        return Candidates(
            rows=rows,
            scores=scores[rows],
            dense=scores[rows],
            lexical=np.full(len(rows), np.nan, dtype=np.float32),
            behaviour=np.zeros(len(rows), dtype=np.float32),
        )


def write_tasteful_store(folder: Path, items: ItemTable, *, n_examples: int = 480) -> Prepared:
    """Write searches for a kind of item, which five brands make; retrieval cannot tell the brands apart.

    A shopper with a history buys the brand that the history holds. An anonymous one buys ``kiri``, the fourth of five
    in the order of retrieval.
    """
    generator = np.random.default_rng(5)
    titles = items.column("title")
    kinds = sorted({title.split(maxsplit=2)[2] for title in titles})
    brands = sorted({title.split()[1] for title in titles})
    row_of = {tuple(title.split(maxsplit=2)[1:]): row for row, title in enumerate(titles)}
    rows: list[dict[str, object]] = []
    for number in range(n_examples):
        time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
        kind, other = generator.choice(kinds, size=2, replace=False)
        brand = "kiri" if number % 3 == 0 else str(generator.choice(brands))
        past = {
            "timestamp": time - timedelta(days=1),
            "type": "purchase",
            "item_id": items.ids[row_of[brand, other]],
            "query": None,
        }
        rows.append(
            {
                "query_id": f"q-{number:04d}",
                "query": kind,
                "user_id": None if number % 3 == 0 else f"u-{number}",
                "timestamp": time,
                "split": "train" if number < 0.75 * n_examples else "valid",
                "labels": [{"row": row_of[brand, kind], "weight": 1.0, "grade": 3.0}],
                "history": [] if number % 3 == 0 else [past],
            }
        )
    folder.mkdir(parents=True)
    items.write(folder / "items.parquet")
    pl.DataFrame(rows, schema=EXAMPLE_SCHEMA).write_parquet(folder / "examples.parquet")
    pl.DataFrame(schema=EXPOSURE_SCHEMA).write_parquet(folder / "exposure.parquet")
    digest = hashlib.sha256((folder / "examples.parquet").read_bytes()).hexdigest()
    manifest = {"format_version": FORMAT_VERSION, "fingerprint": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Prepared(folder)


@pytest.fixture(scope="session")
def tasteful(tiny_items: ItemTable, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_tasteful_store(tmp_path_factory.mktemp("tasteful") / "data", tiny_items)


@pytest.fixture(scope="session")
def word_retriever(tiny_items: ItemTable) -> WordRetriever:
    return WordRetriever(tiny_items)


@pytest.fixture(scope="session")
def tiny_config(tiny_bert_folder: Path) -> RerankerConfig:
    train = RerankerTrainConfig(
        epochs=12,
        lists_per_batch=16,
        learning_rate=5e-3,
        negatives_depth=20,
        valid_depth=20,
        patience=12,
        log_steps=1,
        device="cpu",
    )
    return RerankerConfig(
        base_model=str(tiny_bert_folder), max_query_tokens=8, max_history_tokens=24, max_item_tokens=16, train=train
    )


@pytest.fixture(scope="session")
def pair_tokenizer(tiny_bert_folder: Path) -> PairTokenizer:
    return PairTokenizer.load(tiny_bert_folder)


@pytest.fixture(scope="session")
def trained(
    tasteful: Prepared,
    word_retriever: WordRetriever,
    tiny_config: RerankerConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A version folder of a tiny trained reranker."""
    from rerank.train import train_reranker

    out = tmp_path_factory.mktemp("rerankers") / "v1"
    train_reranker(tasteful, word_retriever, tiny_config, out, retriever_fingerprint="retriever")  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="session")
def trained_info(trained: Path) -> RerankerModelInfo:
    return RerankerModelInfo.load(trained)


TINY_BLEND = BlendConfig(
    min_searches=20,
    max_reranked=60,
    depth=20,
    rerank_depth=8,
    n_leaves=7,
    min_leaf=10,
    max_trees=40,
    patience=15,
    n_folds=3,
)


class TasteReader:
    """Stands for a cross-encoder: likes kiri, and notes what it was given to read."""

    def __init__(self, items: ItemTable) -> None:
        self.score_weights = {"rerank": 1.0, "retrieval": 0.5}
        self.read: list[tuple[str, tuple[HistoryEvent, ...], list[int]]] = []
        self._kiri = np.array([brand == "kiri" for brand in items.column("brand")], dtype=np.float32)

    def score(self, query: str, history: Sequence[HistoryEvent], rows: IntArray) -> FloatArray:
        self.read.append((query, tuple(history), rows.tolist()))
        return self._kiri[rows]


@pytest.fixture(scope="session")
def tasteful_behaviour(tasteful: Prepared, tiny_encoder_folder: Path) -> Behaviour:
    """What the training split of the tasteful store knows."""
    from retrieval.engines.encoder import open_torch_encoder

    encoder = open_torch_encoder(tiny_encoder_folder, role="query", max_tokens=16)
    pairs, exposure = tasteful.pairs("train"), tasteful.exposure("train")
    return Behaviour.build(pairs, exposure, encoder, BehaviourConfig(), items=tasteful.items)


@pytest.fixture(scope="session")
def extractor(tiny_items: ItemTable, tasteful_behaviour: Behaviour) -> FeatureExtractor:
    return FeatureExtractor(tiny_items, ItemColumns.of(tiny_items), tasteful_behaviour)


@pytest.fixture(scope="session")
def trained_blend(
    tasteful: Prepared,
    word_retriever: WordRetriever,
    tasteful_behaviour: Behaviour,
    tiny_items: ItemTable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A version folder of a tiny trained blend. Read only."""
    from rerank.blend_training import FirstStage, train_blend

    out = tmp_path_factory.mktemp("blends") / "v1"
    stage = FirstStage(
        retriever=word_retriever, behaviour=tasteful_behaviour, fingerprint="retriever", channels="channels"
    )  # type: ignore[arg-type]
    reader = TasteReader(tiny_items)
    train_blend(tasteful, stage, reader, TINY_BLEND, out, reranker_fingerprint="reranker")  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="session")
def tiny_blend(trained_blend: Path, extractor: FeatureExtractor) -> Blend:
    return open_blend(trained_blend, extractor)


@pytest.fixture
def build(pair_tokenizer: PairTokenizer):
    """A reranker over ``tests.rerank.scripted.Engine``, which scores each pair by its item."""

    def build(
        score_of: Callable[[int], float],
        *,
        weight: float = 0.0,
        maps: dict[str, ProbabilityMap] = MAPS,
        blend: Blend | None = None,
    ) -> tuple[Reranker, Engine]:
        engine = Engine(score_of)
        tokens = PassageTokens(np.arange(N_ITEMS, dtype=np.int32), np.arange(N_ITEMS + 1, dtype=np.int64))
        scorer = PairScorer(engine, pair_tokenizer, {"click": 1.0, "cart": 0.0, "purchase": 0.0}, maps)
        weights = {"rerank": 1.0, "retrieval": weight}
        reranker = Reranker(scorer, tokens, lambda _: None, CONFIG, weights, blend)
        reranker.clock = lambda: engine.now
        return reranker, engine

    return build
