from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corpus.items import ItemTable
from corpus.synthetic import SyntheticConfig, SyntheticReport, generate
from corpus.synthetic.catalogue import Catalogue, draw_catalogue
from corpus.synthetic.shoppers import Shoppers, draw_shoppers
from corpus.synthetic.vocabulary import Vocabulary, load_vocabulary

SMALL = SyntheticConfig(n_items=2000, n_shoppers=250, n_searches=3500, days=30, seed=7)


@dataclass(frozen=True)
class SyntheticStore:
    """A generated store, with what a test asks of it."""

    folder: Path
    config: SyntheticConfig
    report: SyntheticReport

    def frame(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / f"{name}.parquet")

    @cached_property
    def items(self) -> ItemTable:
        return ItemTable.read(self.folder / "items.parquet")


@pytest.fixture(scope="session")
def synthetic_store(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStore:
    folder = tmp_path_factory.mktemp("synthetic")
    return SyntheticStore(folder, SMALL, generate(SMALL, folder))


@pytest.fixture(scope="session")
def events(synthetic_store: SyntheticStore) -> pl.DataFrame:
    return synthetic_store.frame("events")


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return load_vocabulary()


@pytest.fixture(scope="session")
def catalogue(vocabulary: Vocabulary) -> Catalogue:
    return draw_catalogue(vocabulary, 500, np.random.default_rng(1))


@pytest.fixture(scope="session")
def shoppers(vocabulary: Vocabulary, catalogue: Catalogue) -> Shoppers:
    return draw_shoppers(vocabulary, catalogue, SMALL.choice, 40, np.random.default_rng(2))
