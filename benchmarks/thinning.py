"""A small store cut out of a prepared one, for quick runs: embedding a whole catalogue takes minutes on two cores.

Kept are a seeded sample of each split's searches, every item that is labelled for one of them, and a seeded sample of
the other items. Figures on it are higher than on the whole catalogue, where more items are in the way; histories lose
the events of items that are gone. It shows that everything runs, not how good anything is.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from corpus.items import ItemTable
from corpus.prepared import EXAMPLE_SCHEMA, EXPOSURE_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is kept."""

    train: int  # searches
    valid: int
    test: int
    items: int  # at least, if there are as many; labelled ones are never left out


def thin(folder: Path, sizes: Sizes, *, seed: int) -> None:
    """Cut a prepared ``data/`` folder down, in place.

    Args:
        folder: Written by ``tandem prepare``. If this is interrupted it has no manifest, and has to be prepared again.
        sizes: How much to keep.
        seed: Of both samples.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    items = pl.read_parquet(folder / "items.parquet").with_row_index("row")
    examples = pl.read_parquet(folder / "examples.parquet")
    limits = pl.col("split").replace_strict({"train": sizes.train, "valid": sizes.valid, "test": sizes.test})
    place = pl.col("query_id").hash(seed).rank("ordinal").over("split")
    kept = examples.filter(place <= limits)
    labelled = kept.select(pl.col("labels").explode().struct.field("row")).to_series().unique().drop_nulls()
    is_labelled = pl.col("row").is_in(labelled.implode())
    others = items.filter(~is_labelled).sort(pl.col("item_id").hash(seed)).head(max(0, sizes.items - len(labelled)))
    chosen = pl.concat([items.filter(is_labelled), others]).sort("row")  # in the order of the catalogue
    (folder / "manifest.json").unlink()
    ItemTable(chosen.drop("row")).write(folder / "items.parquet")
    renamed = pl.element().struct.with_fields(
        pl.element().struct.field("row").replace_strict(chosen["row"], pl.int_range(chosen.height, eager=True))
    )
    kept = kept.with_columns(pl.col("labels").list.eval(renamed))
    kept.cast(pl.Schema(EXAMPLE_SCHEMA)).write_parquet(folder / "examples.parquet")
    exposure = pl.read_parquet(folder / "exposure.parquet").filter(pl.col("row").is_in(chosen["row"].implode()))
    rows = pl.col("row").replace_strict(chosen["row"], pl.int_range(chosen.height, eager=True))
    exposure.with_columns(rows).cast(pl.Schema(EXPOSURE_SCHEMA)).write_parquet(folder / "exposure.parquet")
    kind = f"{manifest['fingerprint']} {json.dumps(asdict(sizes))} {seed}"
    counts = {**manifest["counts"], "items": chosen.height, "examples": kept.height}
    document = {**manifest, "fingerprint": hashlib.sha256(kind.encode()).hexdigest(), "counts": counts}
    (folder / "manifest.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
