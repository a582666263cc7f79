"""Wayfair's annotation data set (Chen et al., ECIR 2022, github.com/wayfair/WANDS).

Files, as published, all separated by tabs: ``query.csv`` (query_id, query, query_class), ``product.csv`` (product_id,
product_name, product_class, category hierarchy, product_description, product_features, rating_count, average_rating,
review_count) and ``label.csv`` (id, query_id, product_id, label). Features are ``name:value`` joined by ``|``, the
hierarchy's levels by ``/``.
"""

import json
from pathlib import Path

import polars as pl

from corpus.importers.report import (
    ITEMS_FILE,
    JUDGMENTS_FILE,
    ImportReport,
    find,
    read_table,
    write_items,
    write_judgments,
)
from corpus.values import map_text

# the paper's gains are 1, 0.5 and 0
GRADES = {"Exact": 3.0, "Partial": 1.5, "Irrelevant": 0.0}
POSITIVE_GRADE = 3.0


def import_wands(source: Path, out: Path) -> ImportReport:
    """Write items and judgments; WANDS has no split, so prepare draws one from the queries.

    Raises:
        BadSource: If a file is missing or laid out differently.
    """
    queries = read_table(find(source, "query.csv"), ("query_id", "query"))
    labels = read_table(find(source, "label.csv"), ("query_id", "product_id", "label"))
    products = read_table(
        find(source, "product.csv"),
        ("product_id", "product_name"),
        ("product_class", "category hierarchy", "product_description", "product_features"),
    )
    items = products.select(
        item_id="product_id",
        title="product_name",
        description="product_description",
        category=map_text(products["category hierarchy"].fill_null(products["product_class"]), _levels),
        attributes=map_text(products["product_features"], _features),
    )
    judgments = labels.join(queries, on="query_id", how="left", maintain_order="left").select(
        "query",
        item_id="product_id",
        grade=pl.col("label").str.strip_chars().replace_strict(GRADES, default=None, return_dtype=pl.Float64),
    )
    counts = {"items": write_items(items, out), "judgments": write_judgments(judgments, out)}
    settings = {
        "items": f"source/{ITEMS_FILE}",
        "events": "",
        "judgments": f"source/{JUDGMENTS_FILE}",
        "judgment_positive_grade": POSITIVE_GRADE,
    }
    return ImportReport(settings=settings, counts=counts)


def _levels(text: str) -> str:
    return json.dumps([level.strip() for level in text.split("/") if level.strip()])


def _features(text: str) -> str:
    attributes: dict[str, list[str]] = {}
    for feature in text.split("|"):
        name, separator, value = feature.partition(":")
        if separator and name.strip() and value.strip():
            attributes.setdefault(name.strip(), []).append(value.strip())
    return json.dumps(attributes)
