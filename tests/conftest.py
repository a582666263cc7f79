"""Shared fixtures: tiny real models, a tiny catalogue. Heavy imports stay inside the fixtures."""

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, settings

from corpus.items import Item, ItemTable
from corpus.prepared import EXAMPLE_SCHEMA, EXPOSURE_SCHEMA, FORMAT_VERSION, SPLITS, TABLES, Exposure, Prepared

# two cores are shared by many tests; tokenizers warn when a test forks after they ran threads
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# how long an example takes says more about the machine than about the code
settings.register_profile("tandem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tandem")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=None, help="long form of the tests that kill processes: so many kills each"
    )
    parser.addoption(
        "--robustness", type=int, default=1, help="long form of tests/robustness: so many times as many calls"
    )


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int | None:
    """How often a test that kills processes is to do so; None: as often as fits the daily run."""
    return request.config.getoption("--kills")


DEPARTMENTS = {
    "shoes": ("running shoe", "leather boot", "sandal"),
    "kitchen": ("steel pan", "coffee mug", "bread knife"),
    "audio": ("wireless headphone", "bluetooth speaker", "turntable"),
    "garden": ("hose", "rose pot", "rake"),
}
BRANDS = ("acme", "nordly", "vanta", "kiri", "solo")
COLOURS = ("red", "blue", "black", "green")
EXTRA_WORDS = ("for", "the", "with", "home", "click", "purchase", "search", "cart", "bought", "clicked", "added")


def catalogue() -> list[Item]:
    """60 items: 4 departments x 3 kinds x 5 brands, colours in turn; item i-17 is row 17."""
    items: list[Item] = []
    for department, kinds in DEPARTMENTS.items():
        for kind in kinds:
            for brand in BRANDS:
                row = len(items)
                colour = COLOURS[row % len(COLOURS)]
                items.append(
                    Item(
                        item_id=f"i-{row:02d}",
                        title=f"{colour} {brand} {kind}",
                        description=f"the {kind} for home" if row % 3 else None,
                        brand=brand,
                        category=(department, kind.split()[-1]),
                        price=10.0 + row,
                        currency="EUR",
                        in_stock=row % 7 != 0,
                        attributes={"colour": (colour,)},
                    )
                )
    return items


def vocabulary() -> list[str]:
    """WordPiece vocabulary: special tokens, the catalogue's words, and every letter as start and continuation."""
    words: set[str] = set(EXTRA_WORDS)
    for item in catalogue():
        words.update(f"{item.title} {item.brand} {' '.join(item.category)} {item.description or ''}".split())
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*sorted(words), *letters, *(f"##{letter}" for letter in letters), *".,-:;|/&'\"()+$%#!?"]
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]))


@pytest.fixture(scope="session")
def tiny_items() -> ItemTable:
    """A catalogue of 60 items in 4 departments."""
    return ItemTable.from_items(catalogue())


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT (2 layers, hidden 32, 2 heads) as a transformers folder: safetensors and tokenizer.json."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = vocabulary()
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=128)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,  # so that untrained texts differ
    )
    BertModel(config, add_pooling_layer=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder_folder(tiny_bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT as a SentenceTransformer folder: mean pooling, L2 normalisation."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    transformer = Transformer(str(tiny_bert_folder), max_seq_length=64)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(
        str(folder), create_model_card=False
    )
    return folder


def write_prepared(folder: Path, items: ItemTable, *, n_examples: int = 240) -> Prepared:
    """Write a prepared folder by hand: shoppers with a favourite brand search for colour and kind, then act.

    The first 60 % of the examples are train, then 20 % valid, then 20 % test, in order of time. Every third
    example is anonymous (no history); the others carry what the shopper did before, newest first. Each split showed
    all items but the last five, with click rates that differ from item to item.
    """
    start = datetime(2026, 1, 1, tzinfo=UTC)
    histories: dict[str, list[dict[str, object]]] = {}
    rows: list[dict[str, object]] = []
    for number in range(n_examples):
        time = start + timedelta(hours=number)
        target = (number * 37) % len(items)
        item = items.item(target)
        kind = item.title.split(maxsplit=2)[2]
        query = f"{item.brand} {kind}" if number % 2 else f"{item.title.split()[0]} {kind}"
        user = None if number % 3 == 0 else f"u-{number % 10}"
        past = histories.get(user, []) if user else []
        bought = number % 4 == 0
        labels = [{"row": target, "weight": 1.0 if bought else 0.2, "grade": 3.0 if bought else 1.0}]
        if number % 5 == 0:  # a second click
            labels.append({"row": (target + 1) % len(items), "weight": 0.2, "grade": 1.0})
        share = number / n_examples
        rows.append(
            {
                "query_id": f"q-{number:04d}",
                "query": query,
                "user_id": user,
                "timestamp": time,
                "split": "train" if share < 0.6 else "valid" if share < 0.8 else "test",
                "labels": labels,
                "history": list(past[:20]),
            }
        )
        if user:
            act = {
                "timestamp": time,
                "type": "purchase" if bought else "click",
                "item_id": item.item_id,
                "query": query,
            }
            histories[user] = [act, *past]
    folder.mkdir(parents=True, exist_ok=True)
    items.write(folder / "items.parquet")
    pl.DataFrame(rows, schema=EXAMPLE_SCHEMA).write_parquet(folder / "examples.parquet")
    shown = [(split, row, 40, row % 7, 3.0) for split in SPLITS for row in range(len(items) - 5)]
    pl.DataFrame(shown, schema=EXPOSURE_SCHEMA, orient="row").write_parquet(folder / "exposure.parquet")
    (folder / "rejects.jsonl").write_text("", encoding="utf-8")
    digest = hashlib.sha256()
    for name in TABLES:
        digest.update((folder / name).read_bytes())
    counts = {"items": len(items), "examples": len(rows)}
    manifest = {"format_version": FORMAT_VERSION, "fingerprint": digest.hexdigest(), "counts": counts}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Prepared(folder)


def exposure(*rows: tuple[int, float, float, float]) -> Exposure:
    """Exposure by hand: (row of the item, impressions, clicks, expected clicks)."""
    return Exposure(
        row=np.array([row[0] for row in rows], dtype=np.int64),
        impressions=np.array([row[1] for row in rows], dtype=np.float32),
        clicks=np.array([row[2] for row in rows], dtype=np.float32),
        expected_clicks=np.array([row[3] for row in rows], dtype=np.float32),
    )


@pytest.fixture(scope="session")
def write_examples() -> Callable[..., Prepared]:
    """``write_prepared``, for tests that need a folder or a size of their own."""
    return write_prepared


@pytest.fixture(scope="session")
def tiny_prepared(tiny_items: ItemTable, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """240 examples over the tiny catalogue: 144 train, 48 valid, 48 test. Read only."""
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", tiny_items)
