"""Which importers there are."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from corpus.errors import BadSource, ConfigError
from corpus.importers import bestbuy, esci, homedepot, purchases, ubi, wands
from corpus.importers.report import ImportReport

KINDS: dict[str, Callable[[Path, Path], ImportReport]] = {
    "bestbuy": bestbuy.import_bestbuy,
    "homedepot": homedepot.import_homedepot,
    "purchases": purchases.import_purchases,
    "esci": esci.import_esci,
    "wands": wands.import_wands,
    "ubi": ubi.import_ubi,
}


def import_store(kind: str, source: Path, out: Path) -> ImportReport:
    """Bring a public data set or a standard log into Tandem's own columns.

    Nothing is judged here: ``tandem prepare`` cleans, refuses and counts.

    Args:
        kind: One of ``KINDS``.
        source: Folder that holds the published files.
        out: Folder for ``items.parquet`` and ``events.parquet`` or ``judgments.parquet``: a workspace's ``source/``.
    Returns:
        The settings to write into ``[data]`` and the numbers of rows.
    Raises:
        ConfigError: If the kind is unknown.
        BadSource: If a file is missing, damaged or laid out differently.
    """
    importer = KINDS.get(kind)
    if importer is None:
        raise ConfigError(f"expected a kind of {', '.join(KINDS)}, got {kind!r}")
    if not source.is_dir():
        raise BadSource(f"expected a folder with the files of {kind} at {source}, found none; check the path")
    out.mkdir(parents=True, exist_ok=True)
    try:
        return importer(source, out)
    except (OSError, EOFError, pl.exceptions.PolarsError) as exc:
        raise BadSource(f"cannot read the files of {kind} in {source}: {exc}; check that they are whole") from exc
