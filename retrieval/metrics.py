"""Quality of rankings, by ir-measures (pytrec_eval), and paired bootstrap intervals."""

from collections.abc import Mapping, Sequence

from retrieval.arrays import FloatArray

MEASURES = ("MRR@10", "nDCG@10", "hit@10", "hit@100", "recall@100")


def evaluate_rankings(
    rankings: Mapping[str, Sequence[int]],
    qrels: Mapping[str, Mapping[int, float]],
    *,
    relevant_from: float | None = None,
) -> dict[str, FloatArray]:
    """Judge one system's rankings, query by query.

    Args:
        rankings: Rows of the item table by query id, best first. A query that is missing scores 0.
        qrels: Grade by row by query id. Every query in here counts.
        relevant_from: The least grade that counts as relevant for the binary measures; None: any grade above 0.
    Returns:
        One float32 (n_queries,) array per name in ``MEASURES``, in the order of ``qrels``.
    """
    raise NotImplementedError


def paired_bootstrap(a: FloatArray, b: FloatArray, *, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of mean(a) - mean(b) over resampled queries.

    Args:
        a: (n_queries,) one measure of one system.
        b: (n_queries,) the same measure of another, same queries, same order.
        n: Number of resamples.
        seed: Seed of the draw.
    Returns:
        The 2.5th and 97.5th percentiles.
    """
    raise NotImplementedError
