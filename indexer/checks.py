"""Is what was built as good as what was trained? Measured on real queries before a bundle may exist."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray
from retrieval.encoder import TextEncoder, open_torch_encoder
from retrieval.vector_index import VectorIndex

logger = logging.getLogger(__name__)

RECALL_DEPTH = 100
TIE_TOLERANCE = 1e-6  # of cosines in float32: items of equal text are one as good as the other
N_COMPARED_QUERIES = 64
EF_FACTORS = (1, 2, 4, 8, 16)  # of the configured ef_search
MIN_AGREEMENT = 0.9  # mean cosine; MiniLM in int8 measured 0.996 on 64 typed queries, in fp32 1.000


def measure_recall(index: VectorIndex, queries: FloatArray) -> float:
    """Return ann_recall@100: the share of the exact search's 100 best that the index finds.

    An item that scores like the last of the exact list counts as found: which of several equal items is listed is
    chance.

    Args:
        index: To judge.
        queries: float32 (n_queries, dim), L2-normalised; at least one.
    """
    exact = index.search(queries, RECALL_DEPTH, exact=True)
    found = index.search(queries, RECALL_DEPTH)
    threshold = exact.scores[:, -1:] - TIE_TOLERANCE  # (n_queries, 1)
    return float(np.mean((found.ids >= 0) & (found.scores >= threshold)))


def reach_recall(index: VectorIndex, queries: FloatArray, minimum: float) -> tuple[VectorIndex, float]:
    """Search as broadly as it takes: double ``ef_search`` until enough of the exact search's best is found.

    Args:
        index: As configured, which is tried first.
        queries: float32 (n_queries, dim), L2-normalised; at least one.
        minimum: ann_recall@100 to reach.
    Returns:
        The index with the narrowest search that reaches it, and its recall.
    Raises:
        ArtefactError: If 16 times the configured breadth does not.
    """
    ef_search = index.config.ef_search
    for factor in EF_FACTORS:
        tried = index.with_ef_search(ef_search * factor)
        recall = measure_recall(tried, queries)
        if recall >= minimum:
            if factor > 1:
                logger.info("ann_recall@%d of %g takes ef_search = %d", RECALL_DEPTH, minimum, ef_search * factor)
            return tried, recall
    raise ArtefactError(
        f"expected ann_recall@{RECALL_DEPTH} of at least {minimum:g} (build.min_ann_recall), got {recall:.4f} with "
        f"ef_search = {ef_search * EF_FACTORS[-1]}; raise retriever.index.ef_construction or m, or set "
        "retriever.index.kind to flat"
    )


def check_agreement(encoder: TextEncoder, model_dir: Path, queries: Sequence[str]) -> None:
    """Refuse an exported query encoder whose embeddings are not those of the trained tower.

    Args:
        encoder: As it will be served.
        model_dir: The trained SentenceTransformer folder.
        queries: Real ones; the first 64 are compared.
    Raises:
        ArtefactError: If the mean cosine between both is too low.
    """
    sample = list(queries[:N_COMPARED_QUERIES])
    trained = open_torch_encoder(model_dir, role="query", max_tokens=encoder.info.max_tokens, dim=encoder.info.dim)
    agreement = float(np.mean(np.sum(encoder.encode(sample) * trained.encode(sample), axis=1)))
    if agreement < MIN_AGREEMENT:
        raise ArtefactError(
            f"expected the exported query encoder to agree with the trained one (mean cosine ≥ {MIN_AGREEMENT}), "
            f"got {agreement:.3f}; set build.encoder_precision to fp32"
        )
