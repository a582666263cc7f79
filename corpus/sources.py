"""Readers of a store's own files: CSV, JSON Lines and Parquet, plain, gzip or zstd, one file or a glob.

Every reader yields blocks of raw rows with the number of the line each came from. Nothing is interpreted here except
what makes a row unreadable: broken UTF-8, a wrong number of fields, text that is no JSON.
"""

import csv
import glob
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from corpus.compression import COMPRESSIONS, open_compressed
from corpus.errors import BadSource, ConfigError

BLOCK_ROWS = 100_000  # about 100 MB as Python strings

_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_FIELD_LIMIT = 16 * 2**20  # characters; an unclosed quote would otherwise swallow the rest of the file
_BROKEN = "broken UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSchema:
    """The columns that a table of the store may have, under Tandem's names."""

    name: str  # items, events or judgments
    setting: str  # the key of [data] that maps its columns
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, required ones first."""
        return self.required + self.optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of one file."""

    file: str  # as shown to the user
    lines: list[int]  # from 1; of a Parquet file the row's number
    frame: pl.DataFrame  # the schema's columns; String, or Parquet's own types; absent ones are missing
    broken: list[tuple[int, str]] = field(default_factory=list)  # line and reason of each row that cannot be read


def find_files(pattern: str, root: Path) -> list[Path]:
    """Return the files that a path or glob names, sorted.

    Args:
        pattern: Absolute, or relative to ``root``; ``*``, ``?`` and ``[`` make it a glob, ``**`` descends.
        root: Folder of the workspace.
    Raises:
        BadSource: If there is no such file.
    """
    full = str(root / pattern)
    names = [full] if Path(full).exists() or not glob.has_magic(full) else glob.glob(full, recursive=True)
    files = [path for path in map(Path, sorted(names)) if path.is_file()]
    if not files:
        raise BadSource(f"expected a file at {full}, found none; put it there or correct its path in [data]")
    return files


def read_blocks(
    pattern: str, root: Path, schema: TableSchema, mapping: Mapping[str, str], *, block_rows: int = BLOCK_ROWS
) -> Iterator[Block]:
    """Read all rows of a table, block by block, in file and line order.

    Args:
        pattern: Path or glob, see ``find_files``.
        root: Folder of the workspace.
        schema: The columns to look for.
        mapping: Tandem's name to the file's column, where they differ; in JSON Lines ``a.b`` descends into objects.
        block_rows: Rows in a block, at most.
    Raises:
        BadSource: If a file is missing, damaged, in an unknown format or lacks a required column.
        ConfigError: If the mapping names a column that the schema does not have.
    """
    unknown = sorted(set(mapping) - set(schema.columns))
    if unknown:
        raise ConfigError(
            f"expected [data] {schema.setting} to map {', '.join(schema.columns)}, got {', '.join(unknown)}; "
            "write Tandem's name on the left and the file's column on the right"
        )
    for path in find_files(pattern, root):
        source = _Source(path, _shown(path, root), schema, mapping, block_rows)
        try:
            yield from source.blocks()
        except (OSError, EOFError, zlib.error, csv.Error, pl.exceptions.PolarsError) as exc:
            raise BadSource(f"cannot read {source.shown}: {exc}; check that the file is whole") from exc


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    shown: str
    schema: TableSchema
    mapping: Mapping[str, str]
    block_rows: int

    def blocks(self) -> Iterator[Block]:
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        compression = COMPRESSIONS.get(suffixes[-1] if suffixes else "")
        ending = (suffixes[-2] if len(suffixes) > 1 else "") if compression else (suffixes[-1] if suffixes else "")
        kind = _FORMATS.get(ending)
        if kind is None or (kind == "parquet" and compression):
            raise BadSource(
                f"expected a name that ends in .csv, .tsv, .jsonl, .ndjson (then .gz or .zst) or .parquet, "
                f"got {self.path.name}; convert or rename the file"
            )
        if kind == "parquet":
            return self._parquet()
        return self._csv() if kind == "csv" else self._json()

    def _present(self, columns: Sequence[str]) -> dict[str, str]:
        """Map the schema's names to the file's columns, as far as the file has them."""
        found = {name: self.mapping.get(name, name) for name in self.schema.columns}
        present = {name: column for name, column in found.items() if column in columns}
        missing = [found[name] for name in self.schema.required if name not in present]
        missing += [column for name, column in self.mapping.items() if name not in present and column not in missing]
        if missing:
            example = f"{self.schema.setting} = {{ {self.schema.required[0]} = '…' }}"
            raise BadSource(
                f"expected column {', '.join(map(repr, missing))} in {self.shown}, "
                f"found: {', '.join(columns) or 'none'}; name the file's columns in [data], such as {example}"
            )
        return present

    def _csv(self) -> Iterator[Block]:
        csv.field_size_limit(_FIELD_LIMIT)
        with open_compressed(self.path) as binary:
            text = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
            first = text.readline()
            if not first.strip():
                raise BadSource(f"expected a header line in {self.shown}, found none; is the file empty?")
            delimiter = max(",;\t|", key=first.count)
            header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]
            if not _is_unicode("".join(header)):
                raise BadSource(f"expected UTF-8 in {self.shown}, got another encoding; convert it, e.g. with iconv")
            present = self._present(header)
            reader = csv.reader(text, delimiter=delimiter)
            collected = _Collector(self, present, [header.index(column) for column in present.values()])
            line = 2
            for row in reader:
                if len(row) == len(header):
                    collected.add(line, [row[i] for i in collected.positions])
                elif row:
                    collected.refuse(line, f"expected {len(header)} fields, got {len(row)}")
                line = reader.line_num + 2
                if collected.is_full:
                    yield collected.take()
            yield collected.take()

    def _json(self) -> Iterator[Block]:
        rows: list[tuple[int, dict[str, Any]]] = []
        broken: list[tuple[int, str]] = []
        present: dict[str, str] | None = None
        with open_compressed(self.path) as binary:
            for line, raw in enumerate(binary, start=1):
                if not raw.strip():
                    continue
                row = _parse(raw)
                if isinstance(row, str):
                    broken.append((line, row))
                else:
                    rows.append((line, row))
                if len(rows) + len(broken) >= self.block_rows:
                    present = present or self._keys(rows)
                    yield self._json_block(rows, broken, present)
                    rows, broken = [], []
        if rows or broken:
            yield self._json_block(rows, broken, present or self._keys(rows))

    def _keys(self, rows: list[tuple[int, dict[str, Any]]]) -> dict[str, str]:
        """Find the columns of a JSON Lines file from its first block; every optional one may still come later."""
        keys = dict.fromkeys(key for _, row in rows for key in row)
        if not keys:
            return {name: self.mapping.get(name, name) for name in self.schema.columns}
        for column in self.mapping.values():
            if column not in keys and any(_dig(row, column) is not None for _, row in rows):
                keys[column] = None
        self._present(list(keys))
        return {name: self.mapping.get(name, name) for name in self.schema.columns}

    def _json_block(
        self, rows: list[tuple[int, dict[str, Any]]], broken: list[tuple[int, str]], present: dict[str, str]
    ) -> Block:
        collected = _Collector(self, present, [])
        collected.broken = broken
        for line, row in rows:
            collected.add(line, [_as_text(_dig(row, column)) for column in present.values()])
        return collected.take()

    def _parquet(self) -> Iterator[Block]:
        scan = pl.scan_parquet(self.path)
        present = self._present(scan.collect_schema().names())
        done = 0
        wanted = scan.select(pl.col(column).alias(name) for name, column in present.items())
        for frame in wanted.collect_batches(chunk_size=self.block_rows, maintain_order=True):
            yield Block(file=self.shown, lines=list(range(done + 1, done + 1 + frame.height)), frame=frame)
            done += frame.height


class _Collector:
    """Gathers rows of text until they make a block."""

    def __init__(self, source: _Source, present: dict[str, str], positions: list[int]) -> None:
        self.source = source
        self.names = list(present)
        self.positions = positions
        self.lines: list[int] = []
        self.rows: list[list[str | None]] = []
        self.broken: list[tuple[int, str]] = []

    @property
    def is_full(self) -> bool:
        return len(self.rows) + len(self.broken) >= self.source.block_rows

    def add(self, line: int, row: list[Any]) -> None:
        self.lines.append(line)
        self.rows.append(row)

    def refuse(self, line: int, reason: str) -> None:
        self.broken.append((line, reason))

    def take(self) -> Block:
        """Return what was gathered and begin anew."""
        try:
            frame = self._frame()
        except UnicodeEncodeError:  # a lone surrogate stands for a byte that is not UTF-8
            keep = [all(value is None or _is_unicode(value) for value in row) for row in self.rows]
            self.broken += [(line, _BROKEN) for line, good in zip(self.lines, keep, strict=True) if not good]
            self.lines = [line for line, good in zip(self.lines, keep, strict=True) if good]
            self.rows = [row for row, good in zip(self.rows, keep, strict=True) if good]
            frame = self._frame()
        block = Block(file=self.source.shown, lines=self.lines, frame=frame, broken=sorted(self.broken))
        self.lines, self.rows, self.broken = [], [], []
        return block

    def _frame(self) -> pl.DataFrame:
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.names)
        return pl.DataFrame(
            {name: pl.Series(column, dtype=pl.String) for name, column in zip(self.names, columns, strict=True)}
        )


def _parse(raw: bytes) -> dict[str, Any] | str:
    """Return a JSON object, or the reason why the line is none."""
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return _BROKEN
    except (ValueError, RecursionError):
        return "not valid JSON"
    return row if isinstance(row, dict) else "expected a JSON object"


def _dig(row: dict[str, Any], column: str) -> object:
    if column in row or "." not in column:
        return row.get(column)
    value: object = row
    for key in column.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
