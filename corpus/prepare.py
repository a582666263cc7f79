"""``tandem prepare``: from a store's files to the tables that training and serving read.

read_catalogue ─ clean items ──────────────► items.parquet
read_events ─ clean events ─ make_examples ─► examples.parquet   (attribution, splits, labels, histories)
                                           ─► exposure.parquet   (impressions, clicks, expected clicks)
read_judgments ─ clean pairs ──────────────►       "
every refused row ─────────────────────────► rejects.jsonl
"""

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import polars as pl
from pydantic import BaseModel

from corpus.catalogue import read_catalogue
from corpus.errors import ArtefactError, ConfigError, InputError
from corpus.event_log import EventParts, read_events
from corpus.events import EventType
from corpus.examples import Behaviour, make_examples
from corpus.exposure import write_exposure
from corpus.folders import replaced_folder, sha256_of, writing
from corpus.items import ItemTable
from corpus.judgments import read_judgments
from corpus.live_log import Held
from corpus.prepared import EXAMPLE_SCHEMA, FORMAT_VERSION, TABLES, Prepared
from corpus.rejects import DUPLICATE, RejectLog
from corpus.settings import DataConfig

__all__ = ["DataConfig", "PrepareReport", "prepare"]

logger = logging.getLogger(__name__)


class PrepareReport(BaseModel):
    """What ``prepare`` did, in counts."""

    n_items: int
    n_events: int  # usable, duplicates included
    n_searches: int
    n_clicks: int
    n_carts: int
    n_purchases: int
    n_impressions: int
    n_unattributed: int  # interactions without a search: they count in histories only
    n_labels_past_split: int  # observed after the next split began
    n_train: int
    n_valid: int
    n_test: int
    n_judged_queries: int
    n_rejected: int
    n_duplicates: int
    valid_from: str | None
    test_from: str | None
    fingerprint: str


def prepare(config: DataConfig, root: Path, out: Path, *, held: Held | None = None) -> PrepareReport:
    """Write a prepared data folder, whole or not at all.

    Args:
        config: The ``[data]`` section.
        root: Folder of the workspace, to which its paths are relative.
        out: The folder to write or replace; its layout is that of ``corpus.prepared``. Work files lie beside it until
            the end: about 200 bytes per event.
        held: Live updates that the export holds already; None: those noted in ``out``.
    Raises:
        ConfigError: If there is neither an event log nor judgments.
        BadSource: If a file is missing or damaged, lacks columns, or no item is usable.
        InputError: If too many rows are unusable (the rejects stay beside ``out``), or no example results.
    """
    if not config.events and not config.judgments:
        raise ConfigError("expected data.events or data.judgments, got neither; name at least one file")
    kept_rejects = out.parent / f"{out.name}.rejects.jsonl"
    kept_rejects.unlink(missing_ok=True)
    if held is None:
        held = _noted(out)
    with replaced_folder(out) as folder:
        try:
            with RejectLog(folder / "rejects.jsonl") as rejects:
                report = _write(config, root, folder, rejects)
            _write_manifest(folder, report, config, rejects, held)
        except InputError as exc:
            if (folder / "rejects.jsonl").stat().st_size:
                os.replace(folder / "rejects.jsonl", kept_rejects)
                exc.args = (f"{exc}; every refused row is listed in {kept_rejects}",)
            raise
    logger.info("prepared %s items and %s training examples", f"{report.n_items:,}", f"{report.n_train:,}")
    return report


def _write(config: DataConfig, root: Path, folder: Path, rejects: RejectLog) -> PrepareReport:
    scratch = folder / "work"
    scratch.mkdir()
    items = ItemTable(read_catalogue(config, root, rejects))
    items.write(folder / "items.parquet")
    item_ids = items.frame["item_id"]

    log = read_events(config, root, item_ids, scratch, rejects)
    behaviour = make_examples(log, config, item_ids, scratch, rejects)
    judged = read_judgments(config, root, item_ids, rejects)

    splits = _write_examples(behaviour, judged, scratch, folder / "examples.parquet")
    n_exposed = write_exposure(behaviour.displays, len(items), folder / "exposure.parquet")
    shutil.rmtree(scratch)
    if not sum(splits.values()):
        raise InputError(
            f"expected searches that led to an item of the catalogue, got none from {log.n_rows:,} events; "
            "check that the log's item_ids are those of the catalogue, and that clicks follow their search within "
            "data.attribution_window_minutes or carry its query or search_id"
        )
    if not splits["train"]:
        logger.warning("no training example: every search lies at or after the first split date")
    if log.by_type[EventType.IMPRESSION] and not n_exposed:
        logger.warning("no click rates: no impression of the training split has a position of 1 or more")
    return _report(items, log, behaviour, judged, splits, rejects, folder)


def _noted(out: Path) -> Held:
    try:
        return Prepared(out).held
    except ArtefactError:  # nothing was prepared yet, or by another release
        return Held()


def _write_examples(behaviour: Behaviour, judged: pl.DataFrame, scratch: Path, out: Path) -> Counter[str]:
    """Join the parts into one file without holding them in memory; return the number of examples by split."""
    parts = list(behaviour.parts)
    if judged.height or not parts:
        parts.append(scratch / "judged.arrow")
        columns = {name: pl.lit(None, dtype=dtype) for name, dtype in EXAMPLE_SCHEMA.items()}
        columns["history"] = pl.lit([], dtype=EXAMPLE_SCHEMA["history"])
        columns |= {name: pl.col(name).cast(EXAMPLE_SCHEMA[name]) for name in judged.columns}
        judged.select(columns[name].alias(name) for name in EXAMPLE_SCHEMA).write_ipc(parts[-1])
    scan = pl.scan_ipc(parts)
    with writing(out):
        scan.sink_parquet(out, compression="zstd", row_group_size=20_000, maintain_order=True)
    by_split = pl.scan_parquet(out).group_by("split").len().collect(engine="streaming")
    return Counter(dict(by_split.iter_rows()))


def _report(
    items: ItemTable,
    log: EventParts,
    behaviour: Behaviour,
    judged: pl.DataFrame,
    splits: Counter[str],
    rejects: RejectLog,
    folder: Path,
) -> PrepareReport:
    duplicates = sum(n for reason, n in rejects.counts.items() if reason.endswith(f": {DUPLICATE}"))
    digests = [sha256_of(folder / name) for name in TABLES]
    starts = behaviour.boundaries
    return PrepareReport(
        n_items=len(items),
        n_events=log.n_events,
        n_searches=behaviour.counts["n_searches"],
        n_clicks=log.by_type[EventType.CLICK],
        n_carts=log.by_type[EventType.ADD_TO_CART],
        n_purchases=log.by_type[EventType.PURCHASE],
        n_impressions=log.by_type[EventType.IMPRESSION],
        n_unattributed=behaviour.counts["n_unattributed"],
        n_labels_past_split=behaviour.counts["n_labels_past_split"],
        n_train=splits["train"],
        n_valid=splits["valid"],
        n_test=splits["test"],
        n_judged_queries=judged.height,
        n_rejected=rejects.counts.total() - duplicates,
        n_duplicates=duplicates,
        valid_from=starts.valid_from.isoformat() if starts.valid_from else None,
        test_from=starts.test_from.isoformat() if starts.test_from else None,
        fingerprint=hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def _write_manifest(folder: Path, report: PrepareReport, config: DataConfig, rejects: RejectLog, held: Held) -> None:
    manifest = {
        "format_version": FORMAT_VERSION,
        "fingerprint": report.fingerprint,
        "live_log": held.log,
        "live_sequence": held.sequence,
        "live_as_of": None if held.as_of is None else held.as_of.isoformat(),
        "counts": report.model_dump(exclude={"fingerprint", "valid_from", "test_from"}),
        "valid_from": report.valid_from,
        "test_from": report.test_from,
        "rejects": dict(sorted(rejects.counts.items())),
        "config": config.model_dump(mode="json"),
        "sha256": {name: sha256_of(folder / name) for name in TABLES},
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
