"""Each system's order of a query's judged items alone.

Judgments are shallow pools: in the whole catalogue, a system that finds good items which nobody judged looks bad. Among
the judged items alone every system is asked the same question. Items that a system cannot tell apart, such as those
without any of the query's words, stand in random order: that of the file may know the grades.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from corpus.errors import ConfigError
from corpus.prepared import Example
from corpus.progress import track
from indexer.floors import Floors, Ranking
from indexer.systems import (
    CHAIN,
    CHAIN_ANONYMOUS,
    DENSE,
    HYBRID,
    LEXICAL,
    POPULAR,
    POPULAR_WITHIN,
    RANDOM,
    TWO_STAGES,
    UNTUNED,
    WITH_HISTORY,
    Contest,
    Run,
    SecondStage,
    open_untuned,
    retrieve,
)
from rerank.config import RERANK_DEPTH
from retrieval.arrays import FloatArray, IntArray
from retrieval.candidates import Candidates
from retrieval.engines.encoder import TextEncoder
from retrieval.filtering.row_set import RowSet
from retrieval.lexical.lexical_index import LexicalIndex
from retrieval.retriever import Retriever
from retrieval.vectors.vector_index import VectorIndex

Score = Callable[[str, IntArray], FloatArray]  # query, rows (n,) -> scores (n,), higher is better


def is_judged(example: Example) -> bool:
    """Tell whether a query comes from judgments: only behaviour has a time."""
    return example.timestamp is None


def judged_runs(contest: Contest, examples: Sequence[Example], *, seed: int) -> Iterator[tuple[str, Run]]:
    """Yield each system's order of the items that are labelled for each query, under the names of ``systems.runs``.

    Args:
        contest: Whatever takes part. The oracle knows no judgments.
        examples: Judged queries.
        seed: Of the order of items that a system cannot tell apart.
    """
    bundle = contest.bundle
    for name, score in floor_scores(contest.floors):
        yield name, order(examples, score, seed=seed)
    yield LEXICAL, order(examples, lexical_score(bundle.retriever.lexical_index), seed=seed)
    if contest.untuned is not None:
        try:
            untuned = dense_score(*open_untuned(bundle.items, contest.untuned))
        except ConfigError:
            pass  # `systems.runs` has noted it
        else:
            yield UNTUNED, order(examples, untuned, seed=seed)
    if contest.peer is not None:
        yield from contest.peer.judged_runs(examples)
    retriever = bundle.retriever
    yield DENSE, order(examples, dense_score(retriever.encoder, retriever.vector_index), seed=seed)
    candidates = judged_candidates(examples, retriever)
    yield HYBRID, _own(examples, {query: found.rows.tolist() for query, found in candidates.items()})
    if bundle.reranker is not None:
        depth = max(map(len, candidates.values()))
        second = SecondStage(bundle.reranker.with_blend(None), candidates, depth=depth)
        yield from _second_runs(second, examples, TWO_STAGES, WITH_HISTORY)
        if bundle.reranker.blend is not None:
            # its features compare candidates with each other: the labelled ones stand among those that are served
            found = retrieve(examples, bundle)
            united = {query: _united(found[query], labelled) for query, labelled in candidates.items()}
            chain = SecondStage(bundle.reranker, united, depth=RERANK_DEPTH)
            yield from _second_runs(chain, examples, CHAIN_ANONYMOUS, CHAIN)


def _second_runs(
    second: SecondStage, examples: Sequence[Example], anonymous: str, personal: str
) -> Iterator[tuple[str, Run]]:
    for name, with_history in ((anonymous, False), (personal, True)):
        run = second.run(examples, with_history=with_history, description="reranking the judged items")
        yield name, {e.query_id: _only(run[e.query_id], e) for e in examples}


def _united(found: Candidates, labelled: Candidates) -> Candidates:
    """Return the first stage's candidates and the labelled items, best first."""
    others = labelled.take(~np.isin(labelled.rows, found.rows))
    names = ("rows", "scores", "dense", "lexical", "behaviour")
    both = Candidates(**{name: np.concatenate([getattr(found, name), getattr(others, name)]) for name in names})
    return both.take(np.argsort(-both.scores, kind="stable"))


def order(examples: Sequence[Example], score: Score, *, seed: int) -> Run:
    """Order each query's labelled items by a score; equal ones stand in seeded random order."""
    rankings: dict[str, Ranking] = {}
    for example in track(examples, description="ordering judged items"):
        rows = np.array([label.row for label in example.labels], dtype=np.int64)
        rows = np.random.default_rng([seed, *example.query_id.encode()]).permutation(rows)
        rankings[example.query_id] = rows[np.argsort(-score(example.query, rows), kind="stable")].tolist()
    return rankings


def floor_scores(floors: Floors) -> Iterator[tuple[str, Score]]:
    """Yield the scores of the systems without a model; chance cannot tell any items apart."""
    popular = _by_place(floors.popular(floors.n_items))
    yield RANDOM, lambda query, rows: np.zeros(len(rows), dtype=np.float32)
    yield POPULAR, lambda query, rows: popular(rows)
    yield POPULAR_WITHIN, lambda query, rows: _by_place(floors.popular_within(query, floors.n_items))(rows)


def lexical_score(index: LexicalIndex) -> Score:
    """Return BM25; 0 for an item without any of the query's words."""

    def score(query: str, rows: IntArray) -> FloatArray:
        found, scores = index.search(query, len(rows), allowed=RowSet.of(rows, len(index)))
        known = dict(zip(found.tolist(), scores.tolist(), strict=True))
        return np.array([known.get(row, 0.0) for row in rows.tolist()], dtype=np.float32)

    return score


def dense_score(encoder: TextEncoder, index: VectorIndex) -> Score:
    """Return the cosine of query and item."""
    return lambda query, rows: index.vectors_of(rows) @ encoder.encode([query])[0]


def judged_candidates(examples: Sequence[Example], retriever: Retriever) -> dict[str, Candidates]:
    """Return what the first stage thinks of the labelled items, by query: exactly those, best first.

    The channels are summed as in ``retrieval.fusion``, with the best lexical score of the whole catalogue as the
    measure; unlike there, an item past a channel's depth keeps its score.
    """
    labelled: dict[str, set[int]] = {}
    for example in examples:
        labelled.setdefault(example.query, set()).update(label.row for label in example.labels)
    weights, index = retriever.weights, retriever.lexical_index
    lexical_of = lexical_score(index)
    candidates = {}
    for query, known in track(labelled.items(), description="scoring judged items", total=len(labelled)):
        rows = np.array(sorted(known), dtype=np.int64)
        vector = retriever.encoder.encode([query])[0]
        dense = retriever.vector_index.vectors_of(rows) @ vector
        # a retriever that leaves a channel out does not ask it, either
        lexical = lexical_of(query, rows) if weights.dense < 1 else np.zeros_like(dense)
        behaviour = _behaviour(retriever, vector, rows) if weights.behaviour > 0 else np.zeros_like(dense)
        best = float(index.search(query, 1)[1].max(initial=0.0)) or 1.0
        text = weights.dense * dense + (1 - weights.dense) * lexical / best
        scores = (weights.behaviour * behaviour + (1 - weights.behaviour) * text).astype(np.float32)
        found = Candidates(
            rows=rows,
            scores=scores,
            dense=dense,
            lexical=np.where(lexical > 0, lexical, np.nan).astype(np.float32),
            behaviour=behaviour,
        )
        candidates[query] = found.take(np.lexsort((rows, -dense, -scores)))
    return candidates


def _behaviour(retriever: Retriever, vector: FloatArray, rows: IntArray) -> FloatArray:
    """Return the share of like searches that chose each item; float32 (n,)."""
    if retriever.query_log is None:
        return np.zeros(len(rows), dtype=np.float32)
    allowed = RowSet.of(rows, len(retriever.vector_index))
    found, shares = retriever.query_log.search(vector, len(rows), allowed=allowed)
    known = dict(zip(found.tolist(), shares.tolist(), strict=True))
    return np.array([known.get(row, 0.0) for row in rows.tolist()], dtype=np.float32)


def _by_place(ranking: Ranking) -> Callable[[IntArray], FloatArray]:
    """Return a score by the place in a ranking: 0 at the top, below all for what is not in it."""
    place = {row: -number for number, row in enumerate(ranking)}
    return lambda rows: np.array([place.get(row, -np.inf) for row in rows.tolist()], dtype=np.float32)


def _own(examples: Sequence[Example], rankings: dict[str, Ranking]) -> Run:
    return {e.query_id: _only(rankings[e.query], e) for e in examples}


def _only(ranking: Ranking, example: Example) -> Ranking:
    """Keep what is labelled for this very query: its words may have been judged for others as well."""
    own = {label.row for label in example.labels}
    return [row for row in ranking if row in own]
