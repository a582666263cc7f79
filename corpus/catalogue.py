"""The catalogue as a store delivers it, cleaned into the item table."""

from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl

from corpus.cleaning import clean_text, is_blank, strip_tags
from corpus.errors import BadSource
from corpus.items import ITEM_SCHEMA, Item, ItemTable
from corpus.progress import track
from corpus.rejects import DUPLICATE, RejectLog
from corpus.settings import DataConfig
from corpus.sources import Block, TableSchema, read_blocks
from corpus.values import (
    attributes,
    booleans,
    categories,
    identifiers,
    map_text,
    numbers,
    optional_texts,
    texts,
    timestamps,
)

ITEMS = TableSchema(
    name="items",
    setting="item_columns",
    required=("item_id", "title"),
    optional=(
        "description",
        "brand",
        "category",
        "price",
        "currency",
        "in_stock",
        "attributes",
        "image_uri",
        "updated_at",
    ),
)
MAX_ID_CHARACTERS = 128


def read_catalogue(config: DataConfig, root: Path, rejects: RejectLog) -> pl.DataFrame:
    """Read, validate and clean the catalogue.

    Of several rows with one id the one updated last is kept, and of those the last one read: exports are appended to.

    Args:
        config: Where the catalogue lies and how its columns are called.
        root: Folder of the workspace.
        rejects: Takes the refused rows and the duplicates.
    Returns:
        One row per item in the order of the file, with the columns of ``ITEM_SCHEMA``.
    Raises:
        BadSource: If the files cannot be read or hold no usable item.
        InputError: If too many rows were refused.
    """
    cleaned: list[pl.DataFrame] = []
    n_rows = 0
    for block in track(
        read_blocks(config.items, root, ITEMS, config.item_columns), description="reading the catalogue"
    ):
        n_rows += block.frame.height + len(block.broken)
        rejects.add(ITEMS.name, block.file, block.broken)
        cleaned.append(_clean(block, config, rejects))
    rejects.check(ITEMS.name, n_rows, config.max_reject_share)
    rows = pl.concat(cleaned) if cleaned else pl.DataFrame()
    if rows.is_empty():
        raise BadSource(
            f"expected items in {config.items}, got {n_rows:,} rows and none of them usable; "
            "each needs an item_id and a title"
        )
    return _without_duplicates(rows, rejects).select(list(ITEM_SCHEMA))


def _clean(block: Block, config: DataConfig, rejects: RejectLog) -> pl.DataFrame:
    def given(name: str) -> pl.Series:
        missing = pl.Series(name, [None] * block.frame.height, dtype=pl.String)
        return block.frame[name] if name in block.frame.columns else missing

    columns = _columns(given, config.category_separator)
    frame = pl.DataFrame(columns).with_columns(pl.Series("line", block.lines, dtype=pl.UInt64), file=pl.lit(block.file))
    unprintable = map_text(frame["item_id"], lambda text: None if text.isprintable() else text).is_not_null()
    reason = pl.coalesce(
        pl.when(pl.col("item_id").is_null()).then(pl.lit("item_id missing")),
        pl.when((pl.col("item_id").str.len_chars() > MAX_ID_CHARACTERS) | unprintable).then(
            pl.lit(f"item_id is not 1-{MAX_ID_CHARACTERS} printable characters")
        ),
        pl.when(pl.col("title").is_null()).then(pl.lit("title missing")),
    )
    frame = frame.with_columns(reason=reason)
    refused = frame.filter(pl.col("reason").is_not_null())
    rejects.add(ITEMS.name, block.file, refused.select("line", "reason").iter_rows())
    return frame.filter(pl.col("reason").is_null()).drop("reason")


def clean_items(items: Iterable[Item]) -> list[Item]:
    """Clean items as ``read_catalogue`` does; each needs an id and a title with a visible character."""
    frame = ItemTable.from_items(items).frame
    cleaned = ItemTable(pl.DataFrame(_columns(frame.get_column, separator="")))
    return [cleaned.item(row) for row in range(len(cleaned))]


def _columns(given: Callable[[str], pl.Series], separator: str) -> dict[str, pl.Series]:
    """Clean every column of the item table."""
    return {
        "item_id": identifiers(given("item_id")),
        "title": map_text(texts(given("title")), _title),
        "description": optional_texts(given("description"), strip_tags),
        "brand": optional_texts(given("brand")),
        "category": categories(given("category"), separator),
        "price": numbers(given("price")),
        "currency": optional_texts(given("currency")),
        "in_stock": booleans(given("in_stock")),
        "attributes": attributes(given("attributes")),
        "image_uri": identifiers(given("image_uri")),
        "updated_at": timestamps(given("updated_at")),
    }


def _title(text: str) -> str | None:
    cleaned = clean_text(text)
    return None if is_blank(cleaned) else cleaned


def _without_duplicates(rows: pl.DataFrame, rejects: RejectLog) -> pl.DataFrame:
    ordered = rows.with_row_index("n").sort("updated_at", "n", nulls_last=False)
    kept = ordered.unique("item_id", keep="last").sort("n")
    dropped = ordered.join(kept, on="n", how="anti").sort("n")
    for (file,), group in dropped.group_by("file", maintain_order=True):
        rejects.add(ITEMS.name, str(file), ((line, DUPLICATE) for line in group["line"]), is_fault=False)
    return kept
