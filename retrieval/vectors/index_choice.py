"""Which kind of vector index a catalogue gets, and what each kind costs in memory.

Bytes per item, d the width of an embedding and m the links per item of a graph (``bytes_per_item``):

    flat        4d               the embeddings, as they lie in the bundle
    flat_fp16   2d
    sq8         d
    hnsw        4d + 8m + 16     the embeddings and the graph: 2m links at the bottom, about one above, offset, level
    hnsw_sq8    d + 8m + 16
    ivf_flat    4d + 8           the embeddings in the order of the cells, and their rows
    ivf_pq      p/2 + 8          4 bits for each of p parts (``n_subvectors``: 64 of 384 numbers)
    ivf_rabitq  d/8 + 16         a bit for every number, two factors, and the row

The cells' centres come on top of the last three: 4d each, of ``ivf_pq`` d/4 each, and 4d² for its rotation. A million
items by 384 numbers in 8,192 cells have 13 bytes each of them, of ``ivf_pq`` one. Beside all kinds but the flat one and
the graph of whole embeddings, which must have them in memory, the exact embeddings (4d per item) stay on the disk,
mapped; only rows that are rescored are read.

The choice on a CPU (``choose_kind``), each step only if it fits the memory budget:

1. up to 20,000 items: ``flat``. A scan takes a few milliseconds, and is exact.
2. up to 2 million items: ``hnsw``, else ``hnsw_sq8``: the fastest to search. Graphs of more take hours to build.
3. ``ivf_pq``: the smallest; also where a graph turns out not to reach the recall (``index_tuning.build_tuned``).

On a GPU it is ``flat``, whose 2d bytes per item (16-bit floats) lie in the GPU's memory: a scan runs at its bandwidth.
Nothing smaller goes there, so that what exceeds the budget is an error; without one FAISS says whether it has the room.
"""

import math
import os
from collections.abc import Sequence

from corpus.errors import ConfigError
from retrieval.config import IndexKind, VectorIndexConfig

GIB = 2**30
MOST_SCANNED = 20_000  # items; a scan of 384 numbers each reads 31 MB
MOST_LINKED = 2_000_000  # items; a graph takes about a millisecond of one core per item
BUDGET_SHARE = 0.5  # of the machine's memory: the models, the lexical index and the catalogue want the rest
TRAINING_POINTS = 39  # least per cell, FAISS's own bound for k-means

GRAPHS: tuple[IndexKind, ...] = ("hnsw", "hnsw_sq8")
CELLS: tuple[IndexKind, ...] = ("ivf_flat", "ivf_pq", "ivf_rabitq")
BEHIND_GRAPHS: IndexKind = "ivf_pq"
COMPRESSED: tuple[IndexKind, ...] = ("flat_fp16", "sq8", "hnsw_sq8", "ivf_pq", "ivf_rabitq")


def n_cells(n_items: int) -> int:
    """Return how many cells an IVF index has: the power of two nearest to 10√n, with 39 items per cell at least.

    FAISS's guidelines say 4√n to 16√n. The more cells, the fewer items have to be looked at, and the longer it takes to
    find the centres and the nearest of them: every item is compared with every centre once, a sample of 39 per cell
    ``TRAINING_ROUNDS`` times, which at 10 million items by 384 numbers in 32,768 cells takes 410 TFLOP.
    """
    if n_items < TRAINING_POINTS:
        return 1
    return int(min(2 ** round(math.log2(10 * math.sqrt(n_items))), n_items // TRAINING_POINTS))


def n_subvectors(dim: int) -> int:
    """Return into how many equal parts product quantisation cuts an embedding: 64 at a width of 256 to 384.

    Narrower embeddings have fewer parts of 4 numbers, wider ones more of 6 or, where 6 does not divide them, a little
    longer ones.
    """
    return most_parts(dim, max(dim // 6, min(dim // 4, 64)))


def most_parts(dim: int, bound: int) -> int:
    """Return the largest number of equal parts of an embedding, up to a bound; at least 1."""
    return next(parts for parts in range(max(bound, 1), 0, -1) if dim % parts == 0)


def bytes_per_item(kind: IndexKind, dim: int, m: int) -> float:
    """Return how much memory an item takes in an index, the cells' centres apart.

    Args:
        kind: Not ``auto``.
        dim: Width of the embeddings.
        m: Links per item of a graph.
    """
    graph = 8 * m + 16
    return {
        "flat": 4 * dim,
        "flat_fp16": 2 * dim,
        "sq8": dim,
        "hnsw": 4 * dim + graph,
        "hnsw_sq8": dim + graph,
        "ivf_flat": 4 * dim + 8,
        "ivf_pq": n_subvectors(dim) / 2 + 8,
        "ivf_rabitq": math.ceil(dim / 8) + 16,
    }[kind]


def choose_kind(config: VectorIndexConfig, n_items: int, dim: int) -> IndexKind:
    """Return the kind that is configured, or the one that ``auto`` stands for.

    Args:
        config: Kind, links, budget and device.
        n_items: Size of the catalogue.
        dim: Width of the embeddings.
    Raises:
        ConfigError: If not even the smallest kind fits the budget.
    """
    if config.kind != "auto":
        return config.kind
    if config.device == "gpu":
        needed = n_items * bytes_per_item("flat_fp16", dim, config.m) / GIB
        if config.memory_budget_gib is not None and needed > config.memory_budget_gib:
            raise _over_budget(n_items, dim, config.memory_budget_gib, f"{needed:.3g} GiB for flat on a GPU")
        return "flat"
    budget = memory_bytes() * BUDGET_SHARE if config.memory_budget_gib is None else config.memory_budget_gib * GIB
    candidates = _candidates(n_items)
    for kind in candidates:
        if n_items * bytes_per_item(kind, dim, config.m) <= budget:
            return kind
    least = n_items * bytes_per_item(candidates[-1], dim, config.m) / GIB
    raise _over_budget(n_items, dim, budget / GIB, f"{least:.3g} GiB for {candidates[-1]}")


def memory_bytes() -> int:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _over_budget(n_items: int, dim: int, budget_gib: float, needed: str) -> ConfigError:
    return ConfigError(
        f"expected an index of {n_items:,} items by {dim} numbers to fit {budget_gib:.3g} GiB, got {needed}; "
        "raise retriever.index.memory_budget_gib, or cut the embeddings with retriever.dim"
    )


def _candidates(n_items: int) -> Sequence[IndexKind]:
    if n_items <= MOST_SCANNED:
        return ("flat", BEHIND_GRAPHS)
    return (*GRAPHS, BEHIND_GRAPHS) if n_items <= MOST_LINKED else (BEHIND_GRAPHS,)
