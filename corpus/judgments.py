"""Judgments: graded labels of (query, item) pairs, besides or instead of behaviour."""

import hashlib
from pathlib import Path

import polars as pl

from corpus.errors import EmptyQuery, InputError
from corpus.progress import track
from corpus.queries import MAX_QUERY_CHARACTERS, normalize_query
from corpus.rejects import DUPLICATE, RejectLog
from corpus.settings import DataConfig
from corpus.sources import Block, TableSchema, read_blocks
from corpus.splitting import split_of_query
from corpus.values import identifiers, map_text, numbers, texts

JUDGMENTS = TableSchema(
    name="judgments", setting="judgment_columns", required=("query", "item_id", "grade"), optional=("split",)
)
MAX_GRADE = 3.0

_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
_RANKS = {"train": 0, "valid": 1, "test": 2}
_TOO_LONG = "\0"
_CLEAN = {
    "file": pl.String,
    "line": pl.UInt64,
    "query": pl.String,
    "row": pl.UInt32,
    "grade": pl.Float64,
    "split": pl.String,
}


def read_judgments(config: DataConfig, root: Path, item_ids: pl.Series, rejects: RejectLog) -> pl.DataFrame:
    """Read judgments and make one example of each query.

    A pair that is judged several times gets the mean of its grades. A query belongs to one split: where the file names
    several, the latest of train, valid, test wins, and its rows elsewhere are listed as rejects.

    Returns:
        query_id, query, split and labels (row, weight, grade), ordered by query_id. The weight is grade / 3 from
        ``judgment_positive_grade`` on, else 0.
    Raises:
        BadSource: If the files cannot be read.
        InputError: If too many rows were refused.
    """
    if not config.judgments:
        return _examples(pl.DataFrame(schema=_CLEAN), config)
    rows = pl.DataFrame({"item_id": item_ids, "row": pl.int_range(len(item_ids), dtype=pl.UInt32, eager=True)})
    cleaned = [pl.DataFrame(schema=_CLEAN)]
    n_rows = 0
    blocks = read_blocks(config.judgments, root, JUDGMENTS, config.judgment_columns)
    for block in track(blocks, description="reading judgments, blocks"):
        n_rows += block.frame.height + len(block.broken)
        rejects.add(JUDGMENTS.name, block.file, block.broken)
        cleaned.append(_clean(block, rows, rejects))
    rejects.check(JUDGMENTS.name, n_rows, config.max_reject_share)
    return _examples(_once(_in_one_split(pl.concat(cleaned), config, rejects), rejects), config)


def _clean(block: Block, rows: pl.DataFrame, rejects: RejectLog) -> pl.DataFrame:
    missing = pl.Series([None] * block.frame.height, dtype=pl.String)
    split = texts(block.frame["split"]) if "split" in block.frame.columns else missing
    split = split.str.strip_chars().str.to_lowercase()
    frame = pl.DataFrame(
        {
            "line": pl.Series(block.lines, dtype=pl.UInt64),
            "query": map_text(texts(block.frame["query"]), _query),
            "item_id": identifiers(block.frame["item_id"]),
            "grade": numbers(block.frame["grade"]),
            "given": split,
            "split": split.replace_strict(list(_SPLITS), list(_SPLITS.values()), default=None, return_dtype=pl.String),
        }
    ).join(rows, on="item_id", how="left", maintain_order="left")
    has_split = pl.col("given").str.len_chars() > 0
    reason = pl.coalesce(
        _when(pl.col("query").is_null(), "query without a visible character"),
        _when(pl.col("query") == _TOO_LONG, f"query longer than {MAX_QUERY_CHARACTERS} characters"),
        _when(pl.col("item_id").is_null(), "item_id missing"),
        _when(pl.col("row").is_null(), "item not in the catalogue"),
        _when(pl.col("grade").is_null() | (pl.col("grade") > MAX_GRADE), f"grade is no number from 0 to {MAX_GRADE:g}"),
        _when(has_split & pl.col("split").is_null(), "split is not train, valid or test"),
    )
    frame = frame.with_columns(reason=reason, file=pl.lit(block.file))
    refused = frame.filter(pl.col("reason").is_not_null())
    rejects.add(JUDGMENTS.name, block.file, refused.select("line", "reason").iter_rows())
    return frame.filter(pl.col("reason").is_null()).select(list(_CLEAN))


def _in_one_split(frame: pl.DataFrame, config: DataConfig, rejects: RejectLog) -> pl.DataFrame:
    queries = frame["query"].unique()
    drawn = [split_of_query(q, valid_share=config.valid_share, test_share=config.test_share) for q in queries.to_list()]
    by_hash = frame["query"].replace_strict(queries, pl.Series(drawn, dtype=pl.String), return_dtype=pl.String)
    frame = frame.with_columns(split=pl.col("split").fill_null(by_hash))
    rank = pl.col("split").replace_strict(_RANKS, return_dtype=pl.UInt8)
    frame = frame.with_columns(in_place=rank == rank.max().over("query"))
    _list(frame.filter(~pl.col("in_place")), "query is also in a later split", rejects)
    return frame.filter("in_place").drop("in_place")


def _once(frame: pl.DataFrame, rejects: RejectLog) -> pl.DataFrame:
    pair = ["query", "row"]
    kept = frame.unique(pair, keep="first", maintain_order=True)
    _list(frame.join(kept, on=["file", "line"], how="anti", maintain_order="left"), DUPLICATE, rejects)
    means = frame.group_by(pair).agg(mean=pl.col("grade").mean())
    return kept.join(means, on=pair, how="left", maintain_order="left").with_columns(grade="mean")


def _list(frame: pl.DataFrame, reason: str, rejects: RejectLog) -> None:
    for (file,), group in frame.group_by("file", maintain_order=True):
        rejects.add(JUDGMENTS.name, str(file), ((line, reason) for line in group["line"]), is_fault=False)


def _examples(frame: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    grade = pl.col("grade").cast(pl.Float32)
    weight = pl.when(pl.col("grade") >= config.judgment_positive_grade).then(grade / MAX_GRADE).otherwise(0.0)
    examples = (
        frame.sort("query", "row")
        .group_by("query", "split", maintain_order=True)
        .agg(labels=pl.struct("row", weight=weight.cast(pl.Float32), grade=grade))
    )
    ids = [f"j{hashlib.blake2b(q.encode(), digest_size=8).hexdigest()}" for q in examples["query"].to_list()]
    return examples.with_columns(pl.Series("query_id", ids, dtype=pl.String)).sort("query_id")


def _when(condition: pl.Expr, reason: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(reason))


def _query(text: str) -> str | None:
    try:
        return normalize_query(text)
    except EmptyQuery:
        return None
    except InputError:
        return _TOO_LONG
