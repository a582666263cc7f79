"""How broadly must an index be searched? Measured against exact search on real queries.

A search has up to two settings: how far it looks (``ef_search`` of a graph, ``nprobe`` of cells) and, if the index
holds compressed embeddings, how many rows are scored again (``refine_factor``). Both cost more the greater they are, so
what a setting that reaches the recall undercuts in both is never tried. Of those that reach it, and of which none
undercuts another, the one that answered fastest is kept; with a single setting that is the smallest number. Breadths
are doubled until one reaches the recall, and then halved in on between that one and the one before.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray
from retrieval.config import VectorIndexConfig
from retrieval.vectors.index_choice import BEHIND_GRAPHS, CELLS, COMPRESSED, GRAPHS
from retrieval.vectors.index_kinds import one_thread
from retrieval.vectors.tuning_point import SETTINGS, TuningPoint
from retrieval.vectors.vector_index import TUNED_DEPTH, VectorHits, VectorIndex

logger = logging.getLogger(__name__)

RECALL_DEPTH = TUNED_DEPTH
TIE_TOLERANCE = 1e-6  # of cosines in float32: items of equal text are one as good as the other
N_TIMED = 50  # queries, one by one, as they come in serving
BREADTHS = (64, 128, 256, 512, 1024, 2048)  # of a graph's search
REFINE_FACTORS = (1, 2, 4, 8, 16, 32, 64)
HALVINGS = 2  # between a breadth that falls short and its double: what is left is a step of a fifth
PLATEAU = 0.001  # recall that doubling one setting must bring: less, and the other one is what limits it


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """An index as it is to be searched."""

    index: VectorIndex
    chosen: TuningPoint
    curve: tuple[TuningPoint, ...]  # all that was measured, in that order


def build_tuned(vectors: FloatArray, queries: FloatArray, minimum: float, wanted: VectorIndexConfig) -> Tuned:
    """Index embeddings, and search them as broadly as it takes.

    Where the kind is left to choose, a graph that cannot reach the recall gives way to cells. Among a million items of
    which 333 each lay around one place, a graph found .966 of the 100 nearest however broadly it was searched.

    Args:
        vectors: float32 (n, dim), L2-normalised; kept, not copied.
        queries: float32 (n_queries, dim), L2-normalised; at least one.
        minimum: ann_recall@100 to reach.
        wanted: As configured.
    Raises:
        ArtefactError: If no setting reaches it.
        DimensionMismatch, InputError, ConfigError, DeviceUnavailable: As ``VectorIndex.build``.
    """
    index = VectorIndex.build(vectors, wanted)
    try:
        return tune(index, queries, minimum, wanted)
    except ArtefactError as exc:
        if wanted.kind != "auto" or index.config.kind not in GRAPHS:
            raise
        logger.warning("%s gives way to %s: %s", index.config.kind, BEHIND_GRAPHS, exc)
    del index
    cells = wanted.model_copy(update={"kind": BEHIND_GRAPHS})
    return tune(VectorIndex.build(vectors, cells), queries, minimum, cells)


def exact_hits(index: VectorIndex, queries: FloatArray) -> VectorHits:
    """Return what the index is measured against: the 100 best of each query."""
    return index.search(queries, RECALL_DEPTH, exact=True)


def measure_recall(index: VectorIndex, queries: FloatArray, exact: VectorHits | None = None) -> float:
    """Return ann_recall@100: the share of the exact search's 100 best that the index finds by itself.

    An item that scores like the last of the exact list counts as found: which of several equal items is listed is
    chance.

    Args:
        index: To judge.
        queries: float32 (n_queries, dim), L2-normalised; at least one.
        exact: From ``exact_hits``, where it is known already.
    """
    exact = exact or exact_hits(index, queries)
    found = index.search(queries, RECALL_DEPTH, complete=False)
    threshold = exact.scores[:, -1:] - TIE_TOLERANCE  # (n_queries, 1)
    return float(np.mean((found.ids >= 0) & (found.scores >= threshold)))


def tune(index: VectorIndex, queries: FloatArray, minimum: float, wanted: VectorIndexConfig) -> Tuned:
    """Search as broadly as it takes, and no more.

    Args:
        index: To tune.
        queries: float32 (n_queries, dim), L2-normalised; at least one.
        minimum: ann_recall@100 to reach.
        wanted: As configured: a setting that it names is kept.
    Returns:
        The index with the cheapest setting that reaches it, and all that was measured.
    Raises:
        ArtefactError: If no setting does.
    """
    curve = sweep(index, queries, minimum, wanted)
    chosen = cheapest(curve, minimum)
    if chosen is None:
        best = max(reversed(curve), key=lambda point: point.recall)
        raise ArtefactError(
            f"expected ann_recall@{RECALL_DEPTH} of at least {minimum:g} (build.min_ann_recall), got {best.recall:.4f} "
            f"with {best.text()}; {_remedy(index.config, wanted)}"
        )
    logger.info("ann_recall@%d of %g takes %s", RECALL_DEPTH, minimum, chosen.text())
    return Tuned(index=with_point(index, chosen), chosen=chosen, curve=tuple(curve))


def sweep(index: VectorIndex, queries: FloatArray, minimum: float, wanted: VectorIndexConfig) -> list[TuningPoint]:
    """Measure settings from narrow to broad, as far as they may be the cheapest; see ``tune``."""
    exact = exact_hits(index, queries)
    curve: list[TuningPoint] = []

    def measured(breadth: int, refine: int | None) -> float:
        tried = index.with_settings(ef_search=breadth or None, nprobe=breadth or None, refine_factor=refine)
        settings = {name: getattr(tried.config, name) for name in SETTINGS}
        recall = measure_recall(tried, queries, exact)
        curve.append(TuningPoint(**settings, recall=recall, ms_per_query=round(milliseconds(tried, queries), 4)))
        return recall

    bound: int | None = None  # the narrowest breadth that reached the minimum so far
    found: dict[int, float] = {}  # recall of each breadth when it was measured last
    saturated: set[int] = set()  # breadths that a greater factor does not help: what is near is not even looked at
    for refine in _refine_factors(index, wanted):
        before = 0.0
        short = 0  # the broadest that falls short with this factor
        for breadth in _breadths(index, wanted, RECALL_DEPTH * (refine or 1)):
            if bound is not None and breadth >= bound:
                break
            if breadth in saturated:
                short = breadth
                continue
            recall = measured(breadth, refine)
            if recall < found.get(breadth, 0.0) + PLATEAU:
                saturated.add(breadth)
            found[breadth] = recall
            if recall >= minimum:
                bound = narrow(short, breadth, minimum, partial(measured, refine=refine))
                break
            if refine is not None and before > 0 and recall < before + PLATEAU:
                break
            before, short = recall, breadth
    return curve


def narrow(short: int, reaching: int, minimum: float, recall_of: Callable[[int], float]) -> int:
    """Return the narrowest breadth that is found to reach a recall.

    Args:
        short: A breadth that does not; 0: none is known, and the other one is returned.
        reaching: One that does.
        minimum: The recall.
        recall_of: Measures that of a breadth between them.
    """
    for _ in range(HALVINGS):
        middle = round(math.sqrt(short * reaching))
        if not short < middle < reaching:
            break
        if recall_of(middle) >= minimum:
            reaching = middle
        else:
            short = middle
    return reaching


def cheapest(curve: Sequence[TuningPoint], minimum: float) -> TuningPoint | None:
    """Return the fastest of the measured settings that reach a recall; None if none does."""
    reaching = [point for point in curve if point.recall >= minimum]
    # of two settings that differ in one number alone, the smaller is cheaper, whatever the clock says
    lean = [point for point in reaching if not any(_undercuts(other, point) for other in reaching)]
    return min(lean, key=lambda point: point.ms_per_query, default=None)


def with_point(index: VectorIndex, point: TuningPoint) -> VectorIndex:
    """Return an index that is searched with a measured setting."""
    return index.with_settings(ef_search=point.ef_search, nprobe=point.nprobe, refine_factor=point.refine_factor)


def milliseconds(index: VectorIndex, queries: FloatArray) -> float:
    """Return the median time of single searches on one thread, after one that is not counted."""
    taken = []
    with one_thread():
        for query in queries[: N_TIMED + 1]:
            began = time.perf_counter()
            index.search_one(query, RECALL_DEPTH)
            taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:] or taken)) * 1e3


def _breadths(index: VectorIndex, wanted: VectorIndexConfig, depth: int) -> tuple[int, ...]:
    """Return what to try of ``ef_search`` or ``nprobe``, ascending; 0 alone for a scan, which has neither."""
    kind = index.config.kind
    if kind in GRAPHS:
        # below the depth all are one, for a graph's search is never narrower
        return (wanted.ef_search,) if wanted.ef_search else tuple(ef for ef in BREADTHS if 2 * ef > depth)
    if kind in CELLS:
        doubled = tuple(2**power for power in range((index.n_cells - 1).bit_length()))
        return (wanted.nprobe,) if wanted.nprobe else (*doubled, index.n_cells)
    return (0,)


def _refine_factors(index: VectorIndex, wanted: VectorIndexConfig) -> tuple[int | None, ...]:
    if index.config.kind not in COMPRESSED:
        return (None,)
    if wanted.refine_factor:
        return (wanted.refine_factor,)
    # from the size of the catalogue on all are one
    return tuple(factor for factor in REFINE_FACTORS if factor == 1 or RECALL_DEPTH * factor < 2 * len(index))


def _undercuts(one: TuningPoint, other: TuningPoint) -> bool:
    pairs = [(getattr(one, name) or 0, getattr(other, name) or 0) for name in SETTINGS]
    return all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)


def _remedy(config: VectorIndexConfig, wanted: VectorIndexConfig) -> str:
    named = [f"retriever.index.{name}" for name in SETTINGS if getattr(wanted, name) and getattr(config, name)]
    if named:
        return f"leave {' and '.join(named)} to the build"
    if config.kind == "hnsw":
        return "raise retriever.index.ef_construction or m, or set retriever.index.kind to flat"
    if config.kind == "hnsw_sq8":
        return "raise retriever.index.ef_construction or m, or set retriever.index.kind to hnsw or flat"
    return "set retriever.index.kind to ivf_flat or flat"
