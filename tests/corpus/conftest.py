import json
from pathlib import Path

import polars as pl
import pytest

from corpus.prepare import PrepareReport, prepare
from corpus.prepared import Prepared
from corpus.settings import DataConfig


class Store:
    """A workspace in a temporary folder, filled row by row."""

    def __init__(self, root: Path):
        self.root = root
        self.source = root / "source"
        self.source.mkdir(parents=True)

    def items(self, *ids: str, name: str = "items.jsonl") -> None:
        self.rows(name, [{"item_id": i, "title": f"title of {i}"} for i in ids])

    def rows(self, name: str, rows: list[dict[str, object]]) -> Path:
        path = self.source / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def prepare(self, **settings: object) -> PrepareReport:
        given = {"items": "source/items.jsonl", "events": "source/events.jsonl", **settings}
        return prepare(DataConfig.model_validate(given), self.root, self.root / "data")

    @property
    def prepared(self) -> Prepared:
        return Prepared(self.root / "data")

    @property
    def examples(self) -> list[dict[str, object]]:
        return pl.read_parquet(self.root / "data" / "examples.parquet").sort("timestamp", "query").to_dicts()

    @property
    def rejects(self) -> list[dict[str, object]]:
        lines = (self.root / "data" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
