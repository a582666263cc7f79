"""Parsing of cells: what the readers bring as text, or in Parquet's own types, becomes Tandem's types.

Every function takes a whole column and returns one of the same length; what cannot be read becomes null.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import polars as pl

from corpus.cleaning import clean_text, is_missing
from corpus.items import ATTRIBUTES

TIMESTAMP = pl.Datetime("us", "UTC")

_TRUE = ("true", "1", "1.0", "yes", "y", "t", "in stock", "in_stock", "instock", "available")
_FALSE = ("false", "0", "0.0", "no", "n", "f", "out of stock", "out_of_stock", "outofstock", "unavailable")
_NUMBER = re.compile(r"[-+]?\d[\d.,]*")
_EPOCH = r"^\d{9,}(\.\d+)?$"  # from 1973 on; shorter digits are years or dates


def map_text(column: pl.Series, function: Callable[[str], str | None]) -> pl.Series:
    """Apply a function once to each distinct text of a column; null stays null."""
    distinct = column.drop_nulls().unique()
    results = pl.Series([function(text) for text in distinct.to_list()], dtype=pl.String)
    return column.replace_strict(distinct, results, default=None, return_dtype=pl.String)


def texts(column: pl.Series) -> pl.Series:
    """Return a column as text; integers lose no digit, whole floats their ``.0``."""
    if column.dtype == pl.String:
        return column
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        as_text = column.cast(pl.String)
        return pl.select(pl.when(whole.cast(column.dtype) == column).then(whole.cast(pl.String)).otherwise(as_text))[
            :, 0
        ].alias(column.name)
    if column.dtype == pl.Binary:
        column = pl.Series(column.name, [_decode(value) for value in column.to_list()], dtype=pl.String)
    return column.cast(pl.String, strict=False)


def identifiers(column: pl.Series) -> pl.Series:
    """Return a column of ids: trimmed text, with missing values as null."""
    return map_text(texts(column), lambda text: None if is_missing(text) else text.strip())


def optional_texts(column: pl.Series, clean: Callable[[str], str] = clean_text) -> pl.Series:
    """Return a column of cleaned text with missing values as null."""

    def one(text: str) -> str | None:
        cleaned = clean(text)
        return None if is_missing(cleaned) else cleaned

    return map_text(texts(column), one)


def timestamps(column: pl.Series) -> pl.Series:
    """Return a column of instants: ISO 8601, without a zone taken as UTC, or epoch seconds, ms, µs or ns."""
    if isinstance(column.dtype, pl.Datetime):
        aware = column if column.dtype.time_zone else column.dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if column.dtype.is_numeric():
        return _from_epoch(column.cast(pl.Float64) if column.dtype.is_float() else column.cast(pl.Int64, strict=False))
    text = texts(column).str.strip_chars()
    is_epoch = text.str.contains(_EPOCH)
    whole = is_epoch & ~text.str.contains(".", literal=True)
    parts = pl.DataFrame({"text": text, "is_epoch": is_epoch, "whole": whole})
    numbers = parts.select(
        pl.when("whole").then(pl.col("text").cast(pl.Int64, strict=False)),
        pl.when(pl.col("is_epoch") & ~pl.col("whole")).then("text").cast(pl.Float64, strict=False).alias("fraction"),
    )
    parsed = parts.select(pl.when(~pl.col("is_epoch")).then("text")).to_series()
    frame = pl.DataFrame(
        {
            "iso": _from_iso(parsed),
            "whole": _from_epoch(numbers["text"]),
            "fraction": _from_epoch(numbers["fraction"]),
        }
    )
    return frame.select(pl.coalesce("iso", "whole", "fraction")).to_series().alias(column.name)


def numbers(column: pl.Series) -> pl.Series:
    """Return a column of finite, non-negative Float64; currency signs and thousands separators are read over."""
    if column.dtype.is_numeric():
        values = column.cast(pl.Float64)
    else:
        text = texts(column).str.strip_chars()
        values = text.cast(pl.Float64, strict=False)
        rest = text.filter(values.is_null() & text.is_not_null()).unique()
        if len(rest):
            read = pl.Series([_number(value) for value in rest.to_list()], dtype=pl.Float64)
            found = text.replace_strict(rest, read, default=None, return_dtype=pl.Float64)
            values = values.fill_null(found)
    return pl.select(pl.when(values.is_finite() & (values >= 0)).then(values)).to_series().alias(column.name)


def whole_numbers(column: pl.Series) -> pl.Series:
    """Return a column of non-negative Int64."""
    values = numbers(column)
    return pl.select(pl.when((values == values.floor()) & (values < 2**53)).then(values)).to_series().cast(pl.Int64)


def booleans(column: pl.Series) -> pl.Series:
    """Return a column of Boolean: true, 1, yes, in stock and their opposites."""
    if column.dtype == pl.Boolean:
        return column
    text = texts(column).str.strip_chars().str.to_lowercase()
    return pl.select(
        pl.when(text.is_in(_TRUE)).then(pl.lit(True)).when(text.is_in(_FALSE)).then(pl.lit(False))
    ).to_series()


def categories(column: pl.Series, separator: str) -> pl.Series:
    """Return a column of category paths, root to leaf: a list, JSON's text of one, or text with separators."""
    values = column.to_list()
    paths = [_path(value, separator) for value in values]
    return pl.Series(column.name, paths, dtype=pl.List(pl.String))


def attributes(column: pl.Series) -> pl.Series:
    """Return a column of attributes: Tandem's own structs, or JSON's text of ``{"name": "value" | [values]}``."""
    return pl.Series(column.name, [_attributes(value) for value in column.to_list()], dtype=ATTRIBUTES)


def _decode(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", errors="replace")


def _from_iso(text: pl.Series) -> pl.Series:
    """Parse ISO 8601; every form is first brought to ``YYYY-MM-DDTHH:MM:SS[.f]+HH:MM``."""
    full = (
        text.str.replace(r"^((?:19|20)\d{2})(\d{2})(\d{2})$", "${1}-${2}-${3}")
        .str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00")
        .str.replace(r"^(\d{4}-\d{2}-\d{2})[ tT]+", "${1}T")
        .str.replace(r"T(\d{2}:\d{2})($|[Zz+ -])", "T${1}:00${2}")
        .str.replace(r" ?(UTC|GMT|Z|z)$", "+00:00")
        .str.replace(r"(\d) ?([+-]\d{2})$", "${1}${2}:00")
        .str.replace(r"(\d) ([+-]\d{2}:?\d{2})$", "${1}${2}")
        .str.replace(r"(T\d{2}:\d{2}:\d{2}(?:[.,]\d+)?)$", "${1}+00:00")
        .str.replace(",", ".", literal=True)
    )
    full = pl.select(
        # a date alone ends in what looks like an offset
        pl.when(full.str.contains(r"T\d{2}:\d{2}:\d{2}")).then(full)
    ).to_series()
    return full.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)


def _from_epoch(values: pl.Series) -> pl.Series:
    """Read epoch numbers; their size tells the unit (seconds until the year 5138)."""
    frame = pl.DataFrame({"v": values})
    size = pl.col("v").abs()
    micros = (
        pl.when(size < 10**11)
        .then(pl.col("v") * 1_000_000)
        .when(size < 10**14)
        .then(pl.col("v") * 1_000)
        .when(size < 10**17)
        .then(pl.col("v"))
        .otherwise(pl.col("v") // 1_000)
    )
    return frame.select(micros.cast(pl.Int64, strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))[:, 0]


def _number(text: str) -> float | None:
    match = _NUMBER.search(text)
    if match is None:
        return None
    digits = match[0]
    if re.fullmatch(r"[-+]?\d+,\d{1,2}", digits) or re.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+,\d+", digits):
        digits = digits.replace(".", "").replace(",", ".")  # the comma is the decimal sign
    try:
        return float(digits.replace(",", ""))
    except ValueError:
        return None


def _path(value: object, separator: str) -> list[str]:
    if isinstance(value, str):
        levels: object = _json(value) if value.lstrip().startswith("[") else None
        value = levels if isinstance(levels, list) else value.split(separator)
    if not isinstance(value, list):
        return []
    cleaned = (clean_text(str(level)) for level in value if level is not None)
    return [level for level in cleaned if not is_missing(level)]


def _attributes(value: object) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = _json(value)
    if isinstance(value, list):
        pairs = [(entry.get("name"), entry.get("values")) for entry in value if isinstance(entry, dict)]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        return []
    merged: dict[str, list[str]] = {}
    for name, values in pairs:
        key = clean_text(str(name or ""))
        listed = values if isinstance(values, list) else [values]
        cleaned = [clean_text(str(v)) for v in listed if v is not None]
        kept = [v for v in cleaned if not is_missing(v)]
        if key and kept:
            merged.setdefault(key, []).extend(v for v in dict.fromkeys(kept) if v not in merged.get(key, ()))
    return [{"name": name, "values": values} for name, values in merged.items()]


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
