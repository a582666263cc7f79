"""A store to serve: a copy of a bundle, with as many more items as a size takes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.index_vectors import extend
from corpus.items import ItemTable
from corpus.workspace import Workspace
from indexer.bundle import (
    BEHAVIOUR_FOLDER,
    ITEMS_FILE,
    LEXICAL_FOLDER,
    PASSAGES_FOLDER,
    VECTOR_INDEX_FILE,
    VECTORS_FILE,
    open_bundle,
)
from indexer.config import BuildConfig
from indexer.manifest import MANIFEST_FILE
from indexer.verify import hash_files
from rerank.inputs import PassageTokens
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.vectors.index_tuning import build_tuned

CHOSEN_BY_BUILDS = {"kind": "auto", "ef_search": None, "nprobe": None, "refine_factor": None}
PER_ITEM = (ITEMS_FILE, VECTORS_FILE, VECTOR_INDEX_FILE, LEXICAL_FOLDER, PASSAGES_FOLDER, BEHAVIOUR_FOLDER)


def serving_store(
    workspace: Workspace, version: str, folder: Path, n_items: int | None, queries: Sequence[str], *, seed: int
) -> Workspace:
    """Make a store that holds one published bundle and nothing else; one that is there already is opened.

    The items beyond a bundle's own are copies of them under other ids; their embeddings are made up as those of the
    index benchmark are, and nobody ever chose them. The vector index is what a build chooses for so many, tuned.

    Args:
        workspace: Holds the bundle.
        version: Of the bundle.
        folder: Of the new store.
        n_items: Size of the catalogue; None, or fewer than it has: the bundle's own.
        queries: Real ones, which the vector index of a larger catalogue is tuned for; at least one.
        seed: Of the made-up embeddings.
    """
    store = Workspace(folder)
    current = store.bundles / "CURRENT"
    if current.exists():
        return store
    shutil.rmtree(folder, ignore_errors=True)
    source, target = workspace.bundles / version, store.bundles / version
    bundle = None if n_items is None else open_bundle(source)
    if bundle is None or n_items is None or n_items <= len(bundle.items):
        shutil.copytree(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*PER_ITEM, MANIFEST_FILE))
        rows = np.arange(n_items) % len(bundle.items)
        copy = pl.Series(np.arange(n_items) // len(bundle.items)).cast(pl.String)
        frame = bundle.items.frame[rows]
        ids = pl.when(copy == "0").then(pl.col("item_id")).otherwise(pl.col("item_id") + "~" + copy)
        items = ItemTable(frame.with_columns(ids.alias("item_id")))
        items.write(target / ITEMS_FILE)
        real = bundle.retriever.vectors_of(np.arange(len(bundle.items)))
        vectors = extend(real, n_items, folder / "extended.npy", seed=seed)
        np.save(target / VECTORS_FILE, np.ascontiguousarray(vectors), allow_pickle=False)
        (folder / "extended.npy").unlink()
        kind = bundle.stage.index.model_copy(update=CHOSEN_BY_BUILDS)
        asked = bundle.retriever.encoder.encode(queries)
        tuned = build_tuned(np.asarray(vectors), asked, BuildConfig().min_ann_recall, kind)
        tuned.index.save(target / VECTOR_INDEX_FILE)
        stage = bundle.stage.model_copy(update={"index": tuned.index.config})
        LexicalIndex.build(items, bundle.stage.lexical, target / LEXICAL_FOLDER)
        bundle.behaviour.extended(n_items).save(target / BEHAVIOUR_FOLDER)
        if bundle.reranker is not None:
            _repeat(bundle.reranker.passage_tokens, rows).save(target / PASSAGES_FOLDER)
        config = {**bundle.manifest.config, "retriever": stage.model_dump(mode="json")}
        manifest = bundle.manifest.model_copy(
            update={"n_items": n_items, "config": config, "files": hash_files(target)}
        )
        (target / MANIFEST_FILE).write_bytes(manifest.render())
    if workspace.config_path.exists():
        shutil.copyfile(workspace.config_path, store.config_path)
    else:
        store.config_path.write_text("", encoding="utf-8")
    shutil.copyfile(workspace.bundles / "CURRENT", current)  # last: the store is whole
    return store


def _repeat(tokens: PassageTokens, rows: np.ndarray) -> PassageTokens:
    lengths = tokens.lengths(rows)
    whole, rest = divmod(len(rows), len(tokens))
    parts = [np.asarray(tokens.tokens)] * whole + [np.asarray(tokens.tokens[: tokens.offsets[rest]])]
    return PassageTokens(np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
