"""How long filters and facets take on large catalogues.

    python -m benchmarks.filters --items 1000000

A catalogue is made up: 2,000 brands of Zipfian frequency, 1,200 categories on three levels, prices, and four attributes
of which one has another value for every item. Printed as one JSON object: how long its columns take to derive, and
the best of some evaluations of each filter and facet, in milliseconds. The best, because what else runs on a machine
only ever adds to a time.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

from benchmarks.circumstances import commit, processor
from corpus.columns import ItemColumns
from corpus.items import ITEM_SCHEMA, ItemTable
from retrieval.filtering.facets import FacetSpec, count_facet
from retrieval.filtering.filter_language import parse_filter
from retrieval.filtering.predicates import matching_rows

FILTERS = (
    "price < 20",
    'brand = "Brand 3"',
    "brand = ('Brand 3' OR 'Brand 7' OR 'Brand 8') AND price < 50",
    'category:"Department 3 > Kind 31"',
    "attributes.color:red",
    "attributes.size >= 40",
    'category:"Department 3" AND attributes.color:(red OR blue) AND price < 50 AND NOT in_stock = false',
)
FACETS = (
    FacetSpec(field="brand", limit=50),
    FacetSpec(field="category", limit=50),
    FacetSpec(field="price", limit=50, interval_bounds=(10, 20, 50, 100)),
    FacetSpec(field="attributes.color", limit=50),
)
N_REPEATS = 20
WINDOW = 1000  # the most that a ranked window holds


def make_items(n_items: int, seed: int) -> ItemTable:
    """Make up a catalogue."""
    rng = np.random.default_rng(seed)
    colours = pl.Series(["Red", "red", "Blue", "Green", "Black", "White"])
    leaf = pl.Series(rng.integers(0, 1200, n_items))
    number = pl.Series(np.arange(n_items))

    def attribute(name: str, *values: pl.Series) -> pl.Expr:
        return pl.struct(name=pl.lit(name), values=pl.concat_list(values))

    def drawn(values: pl.Series) -> pl.Series:
        return values.gather(rng.integers(0, len(values), n_items))

    columns = pl.select(
        item_id=pl.format("i-{}", number),
        title=pl.format("item {}", number),
        description=None,
        brand=pl.format("Brand {}", pl.Series(np.minimum(rng.zipf(1.3, n_items), 2000))),
        category=pl.concat_list(
            pl.format("Department {}", leaf // 100), pl.format("Kind {}", leaf // 10), pl.format("Leaf {}", leaf)
        ),
        price=pl.Series(rng.lognormal(3, 1, n_items)),
        currency=pl.lit("EUR"),
        in_stock=pl.Series(rng.random(n_items) < 0.9),
        attributes=pl.concat_list(
            attribute("color", drawn(colours), drawn(colours)),
            attribute("size", drawn(pl.Series([str(size) for size in range(50)]))),
            attribute("material", drawn(pl.Series([f"material {kind}" for kind in range(30)]))),
            attribute("model", pl.select(pl.format("model {}", number)).to_series()),
        ),
        image_uri=None,
        updated_at=None,
    )
    return ItemTable(columns.select(pl.col(name).cast(kind) for name, kind in ITEM_SCHEMA.items()))


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    items = make_items(options.items, options.seed)
    began, cpu = time.perf_counter(), time.process_time()
    columns = ItemColumns.of(items)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    rows = np.random.default_rng(options.seed).choice(options.items, min(WINDOW, options.items), replace=False)
    read = {text: parse_filter(text) for text in FILTERS}
    result = {
        "items": options.items,
        "seed": options.seed,
        "processor": processor(),
        "tandem": commit(),
        "columns_s": round(seconds, 2),
        "columns_cpu_s": round(cpu_seconds, 2),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "parse_ms": _best_ms(partial(parse_filter, FILTERS[-1])),
        "filter_ms": {text: _best_ms(partial(matching_rows, found, columns)) for text, found in read.items()},
        "n_items": {text: len(matching_rows(found, columns)) for text, found in read.items()},
        "facet_ms": {spec.field: _best_ms(partial(count_facet, spec, rows, columns)) for spec in FACETS},
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


def _best_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(N_REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return round(min(times) * 1000, 3)


if __name__ == "__main__":
    main()
