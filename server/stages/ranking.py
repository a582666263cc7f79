"""What the stages of a search hand to each other, and the clock that runs beside them."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from corpus.errors import DeadlineExceeded
from corpus.events import HistoryEvent
from corpus.items import Item, ItemTable
from rerank.parts import PartsOf, added, reordered
from retrieval.arrays import FloatArray, IntArray
from retrieval.filtering.facets import Facet, FacetSpec
from retrieval.filtering.filters import Filter
from server.stages.explanations import Contribution
from server.stages.wishes import Spelling, Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTask:
    """One search, validated."""

    query: str  # normalised; empty for a search without one
    spelling: Spelling = Spelling.WORDS
    similar_to: str | None = None  # an item whose like is wanted
    category: tuple[str, ...] = ()  # within which to find, root first; empty: everywhere
    shopper: str | None = None  # key of the history store; None for an anonymous shopper
    events: tuple[HistoryEvent, ...] | None = None  # the history itself, newest first; None: look it up
    session: str | None = None  # the visit, whose events come first
    retrieval_depth: int
    rerank_depth: int
    filter: Filter | None = None  # what results must meet
    facets: tuple[FacetSpec, ...] = ()  # what to count
    exact: bool = False  # compare with every vector instead of searching an approximate index
    excluded: frozenset[str] = frozenset()  # items that may not be found
    explain: bool = False  # tell what made up the scores
    wishes: Wishes = field(default_factory=Wishes)  # what is asked of the order


class DegradationReason(StrEnum):
    """Why an answer is less than it could be."""

    DEADLINE = "deadline"
    RERANKER_FAILED = "reranker_failed"
    RERANKER_SLOW = "reranker_slow"
    HISTORY_UNAVAILABLE = "history_unavailable"
    PROBABILITY_UNKNOWN = "probability_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Something that an answer lacks."""

    reason: DegradationReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidates in their final order; the arrays run in parallel."""

    rows: IntArray  # (n,) rows of the item table
    scores: FloatArray  # (n,) relevance, boosts included; descending unless another order was asked for
    retrieval: FloatArray  # (n,) fused score of the first stage
    dense: FloatArray  # (n,)
    lexical: FloatArray  # (n,) NaN where no word matched
    behaviour: FloatArray  # (n,) 0 where no logged search like this one led to the item
    rerank: FloatArray  # (n,) NaN where the cross-encoder did not read the item
    probabilities: FloatArray  # (n, 3) of click, cart and purchase; NaN where unknown
    parts_of: PartsOf | None = None  # what made up the scores, by position, if that was asked for

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> tuple[FloatArray | IntArray, ...]:
        """The arrays, in the order of the fields."""
        return (
            self.rows,
            self.scores,
            self.retrieval,
            self.dense,
            self.lexical,
            self.behaviour,
            self.rerank,
            self.probabilities,
        )

    def take(self, chosen: IntArray) -> "Ranking":
        """Return some of the items, in the order asked for."""
        return Ranking(
            rows=self.rows[chosen],
            scores=self.scores[chosen],
            retrieval=self.retrieval[chosen],
            dense=self.dense[chosen],
            lexical=self.lexical[chosen],
            behaviour=self.behaviour[chosen],
            rerank=self.rerank[chosen],
            probabilities=self.probabilities[chosen],
            parts_of=None if self.parts_of is None else reordered(self.parts_of, chosen),
        )

    def with_added(self, name: str, values: FloatArray) -> "Ranking":
        """Return the same items with something added to their scores, not yet reordered.

        Args:
            name: What is added, for the explanation.
            values: float32 (n,).
        """
        parts_of = None if self.parts_of is None else added(self.parts_of, name, values)
        return replace(self, scores=self.scores + values, parts_of=parts_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedWindow:
    """The whole answer, from which pages are cut; it outlives the bundle's models but not its items."""

    ranking: Ranking
    items: ItemTable
    opening: int  # number of the opening of a bundle that the items belong to; later ones are greater
    index_version: str
    retriever_version: str
    reranker_version: str  # empty: the bundle has none
    blend_version: str  # likewise
    degraded: tuple[Degradation, ...]
    facets: tuple[Facet, ...] = ()
    pinned: frozenset[int] = frozenset()  # rows that the request put where they stand
    corrected_query: str = ""  # what was searched, or could be, instead of a misspelt query
    no_match: bool = False  # nothing was as likely to be bought as was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One result, ready to be shown."""

    item: Item
    rank: int  # from 1, counted over all pages
    score: float
    retrieval_score: float
    dense_score: float | None
    lexical_score: float | None
    behaviour_score: float | None
    rerank_score: float | None
    click_probability: float | None
    cart_probability: float | None
    purchase_probability: float | None
    explanation: tuple[Contribution, ...] = ()  # empty if that was not asked for


@dataclass(slots=True, kw_only=True)
class Run:
    """The clock of one search, and what went wrong on the way.

    Args:
        deadline: When the answer must be ready to be sent; ``time.monotonic()`` seconds.
    """

    deadline: float
    timings_ms: dict[str, float] = field(default_factory=dict)  # stage → wall-clock milliseconds
    degraded: list[Degradation] = field(default_factory=list)
    begun_ns: dict[str, int] = field(default_factory=dict)  # stage → when it began, since 1970
    rerank_depth: int | None = None  # candidates that the cross-encoder was to read; None: nothing was searched
    n_reranked: int = 0  # of them, how many it read
    history_errors: list[str] = field(default_factory=list)  # "read" or "write", for each that failed
    is_cancelled: bool = False  # nobody waits for the answer any more
    _pending: Future[Any] | None = field(default=None, init=False, repr=False)  # what it waits for

    def note(self, name: str, started: float) -> None:
        """Note that a stage ends now which began at ``time.perf_counter()`` seconds."""
        duration_s = time.perf_counter() - started
        self.timings_ms[name] = duration_s * 1000
        self.begun_ns[name] = time.time_ns() - round(duration_s * 1e9)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, started)

    @property
    def midway(self) -> float:
        """When half of the time that is left will have passed; on the clock of the deadline."""
        return (time.monotonic() + self.deadline) / 2

    def had_time(self) -> bool:
        """Tell whether the answer lacks nothing for want of time."""
        return all(degradation.reason is not DegradationReason.DEADLINE for degradation in self.degraded)

    def has_time(self) -> bool:
        """Tell whether the deadline lies ahead."""
        return time.monotonic() < self.deadline

    def check_time(self) -> None:
        """Refuse to go on once the deadline has passed.

        Raises:
            DeadlineExceeded: If it has.
        """
        if not self.has_time():
            raise DeadlineExceeded("the call's deadline passed before it could be answered; allow it more time")

    def cancel(self) -> None:
        """Let the work end soon: a call that nobody waits for has no time left. From any thread."""
        self.is_cancelled = True
        self.deadline = -math.inf
        pending = self._pending
        if pending is not None:
            pending.cancel()

    @contextmanager
    def waiting_for(self, future: Future[Any]) -> Iterator[None]:
        """Let ``cancel`` end the wait for a future."""
        self._pending = future
        if self.is_cancelled:  # a moment ago
            future.cancel()
        try:
            yield
        finally:
            self._pending = None

    def degrade(self, reason: DegradationReason, message: str) -> None:
        """Note that the answer lacks something."""
        self.degraded.append(Degradation(reason=reason, message=message))


_PRESENT: ContextVar[Run | None] = ContextVar("present", default=None)


def present_run() -> Run | None:
    """Return the clock of the search that this thread is at; None outside of any."""
    return _PRESENT.get()


@contextmanager
def as_present(run: Run) -> Iterator[None]:
    """Let a run be the present one of this thread."""
    token = _PRESENT.set(run)
    try:
        yield
    finally:
        _PRESENT.reset(token)
