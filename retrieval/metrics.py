"""Quality of rankings, by ir-measures (pytrec_eval), and paired bootstrap intervals. Needs the ``train`` extra."""

from collections.abc import Mapping, Sequence

import numpy as np

from corpus.errors import InputError
from retrieval.arrays import FloatArray

MEASURES = ("recall@100", "MRR@10", "nDCG@10", "hit@10", "hit@100")
# trec_eval takes whole grades; its nDCG is linear in the grade, so a common factor changes nothing
GRADE_SCALE = 1000
BOOTSTRAP_BLOCK = 4_000_000  # draws held in memory at once


def evaluate_rankings(
    rankings: Mapping[str, Sequence[int]],
    qrels: Mapping[str, Mapping[int, float]],
    *,
    relevant_from: float | None = None,
) -> dict[str, FloatArray]:
    """Judge one system's rankings, query by query.

    - MRR@10: 1 / rank of the first relevant item, 0 past rank 10.
    - nDCG@10: gain = grade, discount = log2(rank + 1), over the ideal order of all graded items.
    - hit@k: whether one of the first k is relevant. recall@100: share of the relevant items in the first 100.

    Args:
        rankings: Rows of the item table by query id, best first, each row once. A query that is missing scores 0.
        qrels: Grade by row by query id, 0-3. Every query in here counts; one without relevant items scores 0.
        relevant_from: The least grade that counts as relevant for the binary measures; None: any grade above 0.
    Returns:
        One float32 (n_queries,) array per name in ``MEASURES``, in the order of ``qrels``.
    Raises:
        InputError: If a threshold is not above 0.
    Source: trec_eval; Järvelin & Kekäläinen 2002 for nDCG, with Burges et al. 2005's discount.
    """
    from ir_measures import RR, R, Success, nDCG, pytrec_eval

    if relevant_from is not None and relevant_from <= 0:
        raise InputError(f"expected a relevance threshold above 0, got {relevant_from}; grade 0 is irrelevant")
    level = 1 if relevant_from is None else max(1, round(relevant_from * GRADE_SCALE))
    judged = {
        query: {str(row): _whole(grade) for row, grade in grades.items()} for query, grades in qrels.items() if grades
    }
    run = {
        query: {str(row): -float(position) for position, row in enumerate(rankings.get(query, ())[:100])}
        for query in judged
    }
    first = {query: dict(list(scores.items())[:10]) for query, scores in run.items()}
    # MRR has no cutoff in trec_eval: the run is cut instead
    shallow = {RR(rel=level): "MRR@10", nDCG @ 10: "nDCG@10", Success(rel=level) @ 10: "hit@10"}
    deep = {Success(rel=level) @ 100: "hit@100", R(rel=level) @ 100: "recall@100"}
    place = {query: position for position, query in enumerate(qrels)}
    values = {name: np.zeros(len(place), dtype=np.float32) for name in MEASURES}
    for names, ranked in ((shallow, first), (deep, run)):
        for metric in pytrec_eval.iter_calc(list(names), judged, ranked):
            values[names[metric.measure]][place[metric.query_id]] = metric.value
    return values


def _whole(grade: float) -> int:
    # a grade above 0 must stay above 0
    return max(1, round(grade * GRADE_SCALE)) if grade > 0 else 0


def paired_bootstrap(a: FloatArray, b: FloatArray, *, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of mean(a) - mean(b) over resampled queries.

    Args:
        a: (n_queries,) one measure of one system.
        b: (n_queries,) the same measure of another, same queries, same order.
        n: Number of resamples.
        seed: Seed of the draw.
    Returns:
        The 2.5th and 97.5th percentiles; 0 outside them is a difference that chance does not explain.
    Raises:
        InputError: If the arrays are empty or their lengths differ.
    Source: Efron & Tibshirani 1993, chapter 13 (percentile interval).
    """
    if np.ndim(a) != 1 or np.shape(a) != np.shape(b) or not len(a):
        raise InputError(f"expected two equally long arrays of per-query values, got {np.shape(a)} and {np.shape(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    generator = np.random.default_rng(seed)
    n_queries = len(differences)
    step = max(1, BOOTSTRAP_BLOCK // n_queries)
    blocks = [
        differences[generator.integers(n_queries, size=(min(step, n - start), n_queries))].mean(axis=1)
        for start in range(0, n, step)
    ]
    low, high = np.percentile(np.concatenate(blocks), [2.5, 97.5])
    return float(low), float(high)
