"""Amazon's Shopping Queries data set (Reddy et al. 2022, github.com/amazon-science/esci-data).

Files, as published: ``shopping_queries_dataset_examples.parquet`` (example_id, query, query_id, product_id,
product_locale, esci_label, small_version, large_version, split) and ``shopping_queries_dataset_products.parquet``
(product_id, product_title, product_description, product_bullet_point, product_brand, product_color, product_locale).
"""

from pathlib import Path

import polars as pl

from corpus.errors import BadSource
from corpus.importers.report import ITEMS_FILE, JUDGMENTS_FILE, ImportReport, find

EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCTS = "shopping_queries_dataset_products.parquet"

# Exact, Substitute, Complement, Irrelevant on Tandem's 0-3 scale
GRADES = {"E": 3.0, "S": 2.0, "C": 1.0, "I": 0.0}
POSITIVE_GRADE = 3.0  # a substitute fails some wish of the query: good for evaluation, no positive to train on


def import_esci(source: Path, out: Path, *, locale: str = "us", small: bool = True) -> ImportReport:
    """Write the products and judgments of one locale, without loading the files whole.

    Args:
        source: Folder with both files.
        out: Folder for items and judgments.
        locale: us, es or jp; product ids are unique within one only.
        small: The reduced version of task 1 (ranking); else the large one of tasks 2 and 3.
    Raises:
        BadSource: If a file is missing, lacks columns, or has nothing for the locale.
    """
    examples = _scan(find(source, EXAMPLES), ("query", "product_id", "product_locale", "esci_label", "split"))
    version = "small_version" if small else "large_version"
    if version in examples.collect_schema().names():
        examples = examples.filter(pl.col(version) == 1)
    judgments = examples.filter(pl.col("product_locale") == locale).select(
        "query",
        item_id="product_id",
        grade=pl.col("esci_label").cast(pl.String).replace_strict(GRADES, default=None, return_dtype=pl.Float64),
        # validation is drawn by prepare from the training queries
        split=pl.col("split").cast(pl.String).replace("train", None),
    )
    judgments.sink_parquet(out / JUDGMENTS_FILE, compression="zstd")
    products = _scan(find(source, PRODUCTS), ("product_id", "product_title", "product_locale"))
    _products(products.filter(pl.col("product_locale") == locale)).sink_parquet(out / ITEMS_FILE, compression="zstd")
    counts = {
        name: pl.scan_parquet(out / file).select(pl.len()).collect().item()
        for name, file in (("items", ITEMS_FILE), ("judgments", JUDGMENTS_FILE))
    }
    if not all(counts.values()):
        raise BadSource(f"expected products and examples of locale {locale!r} in {source}, found {counts}")
    settings = {
        "items": f"source/{ITEMS_FILE}",
        "events": "",
        "judgments": f"source/{JUDGMENTS_FILE}",
        "judgment_positive_grade": POSITIVE_GRADE,
        "test_share": 0.0,  # the test queries are given
    }
    return ImportReport(settings=settings, counts=counts)


def _products(products: pl.LazyFrame) -> pl.LazyFrame:
    have = products.collect_schema().names()

    def column(name: str) -> pl.Expr:
        return pl.col(name) if name in have else pl.lit(None, dtype=pl.String)

    color = column("product_color")
    attributes = pl.concat_list(pl.struct(name=pl.lit("color"), values=pl.concat_list(color)))
    text = pl.concat_str(
        column("product_bullet_point"), column("product_description"), separator="\n", ignore_nulls=True
    )
    return products.select(
        item_id="product_id",
        title="product_title",
        description=text,
        brand=column("product_brand"),
        attributes=pl.when(color.is_not_null()).then(attributes),
    )


def _scan(path: Path, required: tuple[str, ...]) -> pl.LazyFrame:
    scan = pl.scan_parquet(path)
    missing = [name for name in required if name not in scan.collect_schema().names()]
    if missing:
        raise BadSource(
            f"expected the columns {', '.join(required)} in {path}, missing: {', '.join(missing)}; "
            "take the file as published"
        )
    return scan
