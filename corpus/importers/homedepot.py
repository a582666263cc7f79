"""Home Depot product search relevance (Kaggle 2016).

Files: ``catalogue.jsonl[.gz]`` (item_id, title) and ``judgments.csv[.gz]`` (query, item_id, relevance, split), the
relevance a mean of raters from 1 (irrelevant) to 3 (perfect), the split train or dev by query. Grades run from 0 to 3
throughout, 0 for irrelevant, so that a grade is ``1.5 · (relevance - 1)``.
"""

from pathlib import Path

import polars as pl

from corpus.errors import EmptyQuery
from corpus.importers.report import (
    ITEMS_FILE,
    JUDGMENTS_FILE,
    ImportReport,
    find,
    read_table,
    write_items,
    write_judgments,
)
from corpus.queries import normalize_query
from corpus.splitting import split_of_query
from corpus.values import map_text

VALID_SHARE = 0.1  # of the training queries, drawn by a hash of their text
LEAST_RELEVANCE = 1.0
STEP = 1.5  # grades per point of relevance: 3 points of grade over 2 of relevance
POSITIVE_GRADE = STEP * (2.5 - LEAST_RELEVANCE)  # half of the raters, at least, saw a perfect match


def import_homedepot(source: Path, out: Path) -> ImportReport:
    """Write items and judgments; dev becomes test, and a tenth of the training queries validates.

    Raises:
        BadSource: If a file is missing or laid out differently.
    """
    items = read_table(find(source, "catalogue.jsonl.gz", "catalogue.jsonl"), ("item_id", "title"))
    judged = read_table(
        find(source, "judgments.csv.gz", "judgments.csv"), ("query", "item_id", "relevance"), ("split",)
    )
    drawn = map_text(judged["query"], _carve)
    is_test = pl.col("split").is_in(["dev", "test"])
    judgments = judged.select(
        "query",
        "item_id",
        grade=STEP * (pl.col("relevance").cast(pl.Float64) - LEAST_RELEVANCE),
        split=pl.when(is_test).then(pl.lit("test")).otherwise(drawn),
    )
    counts = {"items": write_items(items, out), "judgments": write_judgments(judgments, out)}
    settings = {
        "items": f"source/{ITEMS_FILE}",
        "events": "",
        "judgments": f"source/{JUDGMENTS_FILE}",
        "judgment_positive_grade": POSITIVE_GRADE,
    }
    return ImportReport(settings=settings, counts=counts)


def _carve(query: str) -> str:
    try:
        text = normalize_query(query)
    except EmptyQuery:
        return "train"
    return split_of_query(text, valid_share=VALID_SHARE, test_share=0.0)
