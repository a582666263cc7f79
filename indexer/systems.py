"""The systems that an evaluation compares: each turns the same queries into rankings.

Work is done once per distinct input: a query that many shoppers typed is encoded and retrieved once, and reranked
once for each distinct history.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from corpus.errors import ConfigError
from corpus.events import HistoryEvent
from corpus.items import ItemTable
from corpus.prepared import Example
from corpus.progress import track
from indexer.bundle import Bundle
from indexer.floors import Floors, Ranking
from rerank.reranker import Reranker
from retrieval.candidates import Candidates
from retrieval.config import RetrieverConfig, VectorIndexConfig
from retrieval.engines.encoder import TextEncoder
from retrieval.fusion import FusionWeights
from retrieval.vectors.vector_index import VectorIndex

logger = logging.getLogger(__name__)

DEPTH = 100  # of every ranking: what hit@100 and recall@100 need
FOUND = 200  # candidates of the first stage, as many as the server finds by default

RANDOM = "random"
POPULAR = "popularity"
POPULAR_WITHIN = "popularity in query"
LEXICAL = "BM25"
UNTUNED = "untuned encoder"
DENSE = "tuned dense"
HYBRID = "hybrid"
TWO_STAGES = "two stages"
WITH_HISTORY = "two stages + history"
CHAIN_ANONYMOUS = "full chain, no history"
CHAIN = "full chain"
ORACLE = "oracle"
FLOORS = (RANDOM, POPULAR, POPULAR_WITHIN, LEXICAL, UNTUNED)  # what can be had without training

Run = Mapping[str, Ranking]  # by query id


class Peer(Protocol):
    """Another stack that takes part in the same run, such as a benchmark's."""

    def runs(self, examples: Sequence[Example]) -> Iterator[tuple[str, Run]]:
        """Yield the name and the rankings, ``DEPTH`` deep, of each of its systems."""
        ...

    def judged_runs(self, examples: Sequence[Example]) -> Iterator[tuple[str, Run]]:
        """Yield the same systems' orders of each query's labelled items alone; see ``indexer.judged``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Untuned:
    """The base model before training, and where its embeddings of the catalogue are kept."""

    config: RetrieverConfig
    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Whatever takes part."""

    bundle: Bundle
    floors: Floors
    untuned: Untuned | None  # None: no row for the base model
    oracle: Run | None  # None: nobody knows the best possible rankings
    peer: Peer | None = None  # None: no other stack takes part


def runs(
    contest: Contest, examples: Sequence[Example], *, rerank_depth: int, seed: int, notes: list[str]
) -> Iterator[tuple[str, Run]]:
    """Yield each system's rankings, the simplest system first.

    Args:
        contest: Whatever takes part.
        examples: The queries.
        rerank_depth: Candidates that the second stage orders.
        seed: Of the random floor.
        notes: Takes up what was left out and why.
    """
    bundle = contest.bundle
    yield from floor_runs(examples, contest.floors, seed=seed)
    yield LEXICAL, lexical_run(examples, bundle)
    if contest.untuned is not None:
        try:
            yield UNTUNED, untuned_run(examples, bundle.items, contest.untuned)
        except ConfigError as exc:
            notes.append(f"no row for the untuned encoder: {exc}")
    if contest.peer is not None:
        yield from contest.peer.runs(examples)
    yield DENSE, candidate_run(examples, retrieve(examples, bundle, FusionWeights(dense=1.0)))
    candidates = retrieve(examples, bundle)
    yield HYBRID, candidate_run(examples, candidates)
    if bundle.reranker is None:
        notes.append("the bundle holds no reranker: no rows for two stages")
    else:
        second = SecondStage(bundle.reranker.with_blend(None), candidates, depth=rerank_depth)
        yield TWO_STAGES, second.run(examples, with_history=False, description="reranking without history")
        yield WITH_HISTORY, second.run(examples, with_history=True, description="reranking with history")
        if bundle.reranker.blend is None:
            notes.append("the bundle holds no blend: no rows for the full chain")
        else:
            chain = SecondStage(bundle.reranker, candidates, depth=rerank_depth)
            yield CHAIN_ANONYMOUS, chain.run(examples, with_history=False, description="full chain without history")
            yield CHAIN, chain.run(examples, with_history=True, description="full chain")
    if contest.oracle is not None:
        yield ORACLE, {example.query_id: contest.oracle[example.query_id] for example in examples}


def floor_runs(examples: Sequence[Example], floors: Floors, *, seed: int) -> Iterator[tuple[str, Run]]:
    """Yield the rankings of the systems without a model."""
    popular = floors.popular(DEPTH)
    yield RANDOM, {e.query_id: floors.random(e.query_id, DEPTH, seed=seed) for e in examples}
    yield POPULAR, {e.query_id: popular for e in examples}
    yield POPULAR_WITHIN, {e.query_id: floors.popular_within(e.query, DEPTH) for e in examples}


def lexical_run(examples: Sequence[Example], bundle: Bundle) -> Run:
    """Rank by the lexical index alone."""
    index = bundle.retriever.lexical_index
    return _per_query(examples, lambda query: index.search(query, DEPTH)[0].tolist(), LEXICAL)


def untuned_run(examples: Sequence[Example], items: ItemTable, untuned: Untuned) -> Run:
    """Rank by the base model's own embeddings, exactly.

    Raises:
        ConfigError: If the base model is not on this machine.
    """
    encoder, index = open_untuned(items, untuned)
    queries = _distinct(examples)
    embeddings = dict(zip(queries, encoder.encode(queries), strict=True))
    return _per_query(examples, lambda query: index.search_one(embeddings[query], DEPTH)[0].tolist(), UNTUNED)


def open_untuned(items: ItemTable, untuned: Untuned) -> tuple[TextEncoder, VectorIndex]:
    """Return the base model's query encoder, and an exact index of its embeddings of the catalogue.

    Raises:
        ConfigError: If the base model is not on this machine.
    """
    from retrieval.engines.encoder import open_torch_encoder
    from retrieval.passages import passages
    from retrieval.training.base_models import resolve_base_model
    from retrieval.vectors.embeddings import embed_items

    config = untuned.config
    folder = Path(resolve_base_model(config.base_model))
    texts = passages(items, config.item_fields)
    item_encoder = open_torch_encoder(folder, role="item", max_tokens=config.max_item_tokens)
    vectors = embed_items(item_encoder, texts, untuned.cache).vectors
    encoder = open_torch_encoder(folder, role="query", max_tokens=config.max_query_tokens)
    return encoder, VectorIndex.build(vectors, VectorIndexConfig(kind="flat"))


def retrieve(
    examples: Sequence[Example], bundle: Bundle, weights: FusionWeights | None = None
) -> dict[str, Candidates]:
    """Return the first stage's candidates of each distinct query.

    Args:
        examples: The queries.
        bundle: Whose first stage is asked.
        weights: Of the channels, instead of those fitted.
    """
    retriever = bundle.retriever if weights is None else bundle.retriever.with_weights(weights)
    queries = _distinct(examples)
    return dict(zip(queries, retriever.retrieve_batch(queries, FOUND), strict=True))


def candidate_run(examples: Sequence[Example], candidates: dict[str, Candidates]) -> Run:
    """Rank as the first stage does."""
    return {e.query_id: candidates[e.query].rows.tolist() for e in examples}


class SecondStage:
    """Reranks the first stage's candidates, each distinct query and history once."""

    def __init__(self, reranker: Reranker, candidates: dict[str, Candidates], *, depth: int) -> None:
        """Take the candidates of ``retrieve``.

        Args:
            reranker: The second stage.
            candidates: By query.
            depth: How many of each query's candidates the cross-encoder reads.
        """
        self._reranker = reranker
        self._candidates = candidates
        self._depth = depth
        self._known: dict[tuple[str, tuple[HistoryEvent, ...]], Ranking] = {}

    def run(self, examples: Sequence[Example], *, with_history: bool, description: str) -> Run:
        """Rank all queries, reading the shoppers' histories or not."""
        keys = {e.query_id: (e.query, e.history if with_history else ()) for e in examples}
        new = list(dict.fromkeys(key for key in keys.values() if key not in self._known))
        for query, history in track(new, description=description):
            self._known[query, history] = self._rank(query, history)
        return {query_id: self._known[key] for query_id, key in keys.items()}

    def _rank(self, query: str, history: Sequence[HistoryEvent]) -> Ranking:
        found = self._candidates[query]
        return found.rows[self._reranker.rerank(query, history, found, depth=self._depth).order].tolist()  # type: ignore[no-any-return]


def _distinct(examples: Sequence[Example]) -> list[str]:
    return list(dict.fromkeys(e.query for e in examples))


def _per_query(examples: Sequence[Example], rank: Callable[[str], Ranking], name: str) -> Run:
    rankings = {query: rank(query) for query in track(_distinct(examples), description=f"evaluating {name}")}
    return {e.query_id: rankings[e.query] for e in examples}
