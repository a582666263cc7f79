"""Is what was exported as good as what was trained? Measured on the store's own texts before a bundle may exist."""

from collections.abc import Sequence

import numpy as np

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray, IntArray

MIN_COSINE = 0.98  # mean; MiniLM in int8 measured 0.998 on product titles, 0.996 on typed queries
RECALL_DEPTH = 100
MAX_RECALL_LOSS = 0.003
NOISE = 1.96  # standard errors: a loss within them may be chance
FEW_SEARCHES = 20  # of fewer, nothing tells a loss from chance


def check_embeddings(name: str, ours: FloatArray, theirs: FloatArray, *, setting: str) -> None:
    """Refuse embeddings that are not those of the trained tower.

    Args:
        name: What they are, for the message.
        ours: float32 (n, dim), L2-normalised; as they are to be served.
        theirs: Those of the same texts by the trained tower.
        setting: The precision's, for the message.
    Raises:
        ArtefactError: If the mean cosine between both is too low.
    """
    cosine = float(np.mean(np.sum(theirs * ours, axis=1)))
    if cosine < MIN_COSINE:
        raise ArtefactError(
            f"expected {name} to agree with the trained tower's (mean cosine ≥ {MIN_COSINE}), got {cosine:.3f}; "
            f"set {setting} to fp32"
        )


def check_recall(name: str, ours: FloatArray, theirs: FloatArray, *, setting: str) -> None:
    """Refuse embeddings that find fewer items than those of the trained tower.

    Args:
        name: What they are, for the message.
        ours: Recall of each query (``recalls``) by the embeddings that are to be served; any number of them.
        theirs: Of the same queries, by the trained tower.
        setting: The precision's, for the message.
    Raises:
        ArtefactError: If more is lost than is allowed and chance explains; with few queries, chance explains much.
    """
    lost = theirs - ours
    if len(lost) < FEW_SEARCHES:
        return
    if float(lost.mean() - NOISE * lost.std(ddof=1) / np.sqrt(len(lost))) > MAX_RECALL_LOSS:
        raise ArtefactError(
            f"expected {name} to lose at most {MAX_RECALL_LOSS:g} of recall@{RECALL_DEPTH}, got {lost.mean():.4f} on "
            f"{len(lost)} searches; set {setting} to fp32"
        )


def depth_in_sample(n_sampled: int, n_items: int) -> int:
    """Return how far down a sample of a catalogue lies what is ``RECALL_DEPTH`` items down the whole of it."""
    return max(1, round(RECALL_DEPTH * n_sampled / n_items))


def recalls(queries: FloatArray, items: FloatArray, wanted: Sequence[IntArray], depth: int) -> FloatArray:
    """Return each query's share of wanted items that are among its nearest.

    Args:
        queries: float32 (n_queries, dim), L2-normalised.
        items: float32 (n_items, dim), L2-normalised.
        wanted: Rows of ``items`` for each query, at least one.
        depth: How many items count as near; one that scores like the last of them counts, too.
    Returns:
        float32 (n_queries,).
    """
    found = np.empty(len(queries), dtype=np.float32)
    depth = min(depth, len(items))
    for number, (query, rows) in enumerate(zip(queries, wanted, strict=True)):
        scores = items @ query  # (n_items,)
        last = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        found[number] = np.mean(scores[rows] >= last)
    return found
