"""Is what was built as good as what was trained? Measured on real queries before a bundle may exist."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray
from retrieval.encoder import TextEncoder, open_torch_encoder
from retrieval.vector_index import VectorIndex

RECALL_DEPTH = 100
TIE_TOLERANCE = 1e-6  # of cosines in float32: items of equal text are one as good as the other
N_COMPARED_QUERIES = 64
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


def check_recall(recall: float, minimum: float) -> None:
    """Refuse an index that misses too much.

    Raises:
        ArtefactError: If ann_recall@100 is below the minimum.
    """
    if recall < minimum:
        raise ArtefactError(
            f"expected ann_recall@{RECALL_DEPTH} of at least {minimum:g} (build.min_ann_recall), got {recall:.4f}; "
            "raise retriever.index.ef_search or ef_construction, or set retriever.index.kind to flat"
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
