"""What the blend learns from: validation searches with their candidates' features and grades.

The tables behind the features count the training split alone, and both models were tuned on it: on their own training
searches they would look better than they are, and trees would learn to trust them too much. The validation split is
what they have not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corpus.events import HistoryEvent
from corpus.prepared import Example
from corpus.progress import track
from rerank.config import BlendConfig
from rerank.features import FeatureExtractor
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.retriever import Retriever

_RETRIEVE_AT_ONCE = 512  # queries


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendList:
    """One search with the candidates that were found for it."""

    query_id: str  # a search and its anonymous copy share it
    query: str
    history: tuple[HistoryEvent, ...]  # newest first; empty for the anonymous copy of a search
    candidates: Candidates
    features: FloatArray  # (n, len(FEATURES))
    grades: FloatArray  # (n,) 0-3


def collect_blend_lists(
    examples: Sequence[Example], retriever: Retriever, extractor: FeatureExtractor, config: BlendConfig
) -> list[BlendList]:
    """Find the candidates of searches and compute their features.

    A share of the searches with a history comes a second time without, so that the trees know both kinds of shopper.
    In judged searches, what nobody judged counts as irrelevant: some of it is not, but most is, and trees that learned
    from the judged alone would not know what to keep down.

    Args:
        examples: Searches of the validation split.
        retriever: The tuned first stage, over tables of the training split.
        extractor: Over the same tables.
        config: Depth and dropout.
    Returns:
        The lists that hold something to compare: two grades at least.
    """
    queries = list(dict.fromkeys(example.query for example in examples))
    found: dict[str, Candidates] = {}
    starts = range(0, len(queries), _RETRIEVE_AT_ONCE)
    for start in track(starts, description="finding the blend's candidates"):
        chunk = queries[start : start + _RETRIEVE_AT_ONCE]
        found |= zip(chunk, retriever.retrieve_batch(chunk, config.depth), strict=True)
    generator = np.random.default_rng(config.seed)
    lists = []
    for example, draw in zip(examples, generator.random(len(examples)), strict=True):
        candidates = found[example.query]
        grades = _graded(example, candidates)
        if len(np.unique(grades)) < 2:
            continue
        histories = [example.history]
        if example.history and draw < config.history_dropout:
            histories.append(())
        lists += [
            BlendList(
                query_id=example.query_id,
                query=example.query,
                history=history,
                candidates=candidates,
                features=extractor.features(example.query, history, candidates),
                grades=grades,
            )
            for history in histories
        ]
    return lists


def folds(lists: Sequence[BlendList], n_folds: int, seed: int) -> IntArray:
    """Deal lists out to folds, all lists of one query to the same; int64 (n_lists,) in [0, n_folds)."""
    queries = list(dict.fromkeys(entry.query for entry in lists))
    dealt = np.random.default_rng(seed).permutation(len(queries)) % n_folds
    fold_of = dict(zip(queries, dealt.tolist(), strict=True))
    return np.array([fold_of[entry.query] for entry in lists], dtype=np.int64)


def _graded(example: Example, candidates: Candidates) -> FloatArray:
    """Return each candidate's grade, float32 (n,): 0 for what was judged irrelevant, and for what nobody judged."""
    grade_of = {label.row: label.grade for label in example.labels if label.weight > 0}
    return np.array([grade_of.get(row, 0.0) for row in candidates.rows.tolist()], dtype=np.float32)
