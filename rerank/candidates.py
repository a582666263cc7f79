"""What the reranker learns from: lists of items that a shopper could have chosen, and what was chosen.

The lists are drawn from the tuned retriever's own candidates, since those are what the reranker will be shown.
Two questions are put to the model, with the same loss, for each head (see ``rerank.heads``):

- *What does this shopper choose?* For a search with a history. The alternatives are all other candidates, **also
  those that other shoppers chose after the same query**: that one bought this and another bought that is exactly
  what histories explain, and where many shoppers share a few broad queries there are hardly any other candidates.
- *What do shoppers choose?* For a search without history, and for one whose history is dropped in training. All
  searches of the same words are merged into one list; no item that anybody chose is a negative.

What is learned of an item is the rate of the searches that chose it. A choice counts one in each head that it is a
positive of; how much more a purchase says than a click is for ``[reranker] head_weights`` to say.

For any given set of items the best answer to a softmax over it is the share of choices within it, so drawing a few
items of many per epoch leaves what is learned unchanged, as long as the set does not tell which of its items was
chosen. So there are two ways of drawing a negative:

- An item that **nobody** chose after the query comes by its rank, in proportion to 1 / (rank + 10). The head of the
  retriever's list is what the reranker reorders and where a mistake costs most: with 10 as the constant, 38 % of the
  negatives of 50 candidates come from the first ten instead of 20 %. The tail keeps a share, for the model must know
  poor items too. The share of such an item is 0 however often it is drawn.
- An item that **somebody else** chose comes with the mean of those chances, whatever its rank. By rank, those high up
  would be seen as negatives oftener than those below, and the softmax would learn choices divided by that chance: the
  bias that logQ correction subtracts (Bengio & Senécal 2008). With equal chances there is none to correct.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corpus.events import HistoryEvent
from corpus.prepared import Example
from corpus.progress import track
from rerank.heads import N_HEADS, head_flags
from retrieval.arrays import FloatArray, IntArray
from retrieval.retriever import Retriever

logger = logging.getLogger(__name__)

_RETRIEVE_AT_ONCE = 512  # queries
_RANK_OFFSET = 10  # see above


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Items that were chosen; two parallel arrays."""

    rows: IntArray  # (n,) distinct
    rates: FloatArray  # (n, 3) share of the searches that chose it, per head; the first above 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """Items that could have been chosen instead; two parallel arrays."""

    rows: IntArray  # (n,) distinct
    chances: npt.NDArray[np.float64]  # (n,) above 0, in proportion to how often each is to be drawn


@dataclass(slots=True, kw_only=True)
class QueryPool:
    """All that is known about one query text, shared by its lists."""

    query: str
    n_searches: int = 0  # that chose something
    chosen: dict[int, FloatArray] = field(default_factory=dict)  # row -> (3,) searches that chose it, per head
    irrelevant: set[int] = field(default_factory=set)  # rows judged so
    candidates: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # of the retriever, best first

    def everyone(self) -> Choices:
        """Return what shoppers chose after this query."""
        return _choices(self.chosen, self.n_searches)

    def alternatives(self, taken: IntArray) -> Alternatives:
        """Return the candidates, behind them the other items judged irrelevant, without those taken."""
        judged = np.fromiter(sorted(self.irrelevant), dtype=np.int64, count=len(self.irrelevant))
        both = np.concatenate([self.candidates, judged[~np.isin(judged, self.candidates)]])
        ranks = 1 + np.minimum(np.arange(len(both)), len(self.candidates))
        chances = 1.0 / (ranks + _RANK_OFFSET)
        chances[np.isin(both, [*self.chosen])] = chances.mean() if len(both) else 0.0
        left = ~np.isin(both, taken)
        return Alternatives(rows=both[left], chances=chances[left])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingList:
    """One search with a history, or all searches of one query without."""

    pool: QueryPool
    history: tuple[HistoryEvent, ...]  # newest first; empty: anonymous
    own: Choices | None  # what the shopper chose; None: anonymous, the pool's choices count
    n_searches: int = 1  # how many searches were merged into it


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnList:
    """The items that one training step compares."""

    rows: IntArray  # (n,) distinct
    rates: FloatArray  # (n, 3) share of the searches that chose the item, per head; 0 for a negative


def collect_lists(examples: Sequence[Example]) -> list[TrainingList]:
    """Turn searches into lists, merging those of equal words without history. Candidates are not filled in yet.

    Args:
        examples: Searches of the training split; those that chose nothing only tell what is irrelevant.
    """
    pools: dict[str, QueryPool] = {}
    n_anonymous: dict[str, int] = {}
    lists: list[TrainingList] = []
    for example in examples:
        pool = pools.setdefault(example.query, QueryPool(query=example.query))
        own: dict[int, FloatArray] = {}
        for label in example.labels:
            flags = head_flags(label)
            if flags[0]:
                own[label.row] = np.maximum(flags, own.get(label.row, flags))
            else:
                pool.irrelevant.add(label.row)
        if not own:
            continue
        pool.n_searches += 1
        for row, flags in own.items():
            pool.chosen[row] = pool.chosen.get(row, np.zeros_like(flags)) + flags
        if not example.history:
            n_anonymous[example.query] = n_anonymous.get(example.query, 0) + 1
            continue
        lists.append(TrainingList(pool=pool, history=example.history, own=_choices(own, 1)))
    for pool in pools.values():
        pool.irrelevant -= pool.chosen.keys()
    lists += [TrainingList(pool=pools[q], history=(), own=None, n_searches=n) for q, n in n_anonymous.items()]
    return lists


def add_candidates(lists: Sequence[TrainingList], retriever: Retriever, *, depth: int) -> list[TrainingList]:
    """Retrieve the candidates of every query once, and return the lists that hold something to compare.

    Args:
        lists: From ``collect_lists``; their pools are filled in.
        retriever: The tuned first stage.
        depth: Candidates per query.
    """
    pools = list({id(entry.pool): entry.pool for entry in lists}.values())
    chunks = [pools[start : start + _RETRIEVE_AT_ONCE] for start in range(0, len(pools), _RETRIEVE_AT_ONCE)]
    for chunk in track(chunks, description="finding training candidates"):
        found = retriever.retrieve_batch([pool.query for pool in chunk], depth)
        for pool, candidates in zip(chunk, found, strict=True):
            pool.candidates = candidates.rows
    usable = [entry for entry in lists if _is_comparison(entry)]
    if len(usable) < len(lists):
        logger.info(
            "%d of %d training lists hold nothing to compare and are left out", len(lists) - len(usable), len(lists)
        )
    return usable


def draw(entry: TrainingList, *, list_size: int, anonymous: bool, generator: np.random.Generator) -> DrawnList:
    """Draw the items to compare in one step.

    At most half of them are chosen items, drawn by their rates; the rest are drawn from the alternatives by their
    chances.

    Args:
        entry: The list.
        list_size: Most items to draw.
        anonymous: Whether its history is dropped, which makes it the pool's question.
        generator: Source of randomness.
    Returns:
        One chosen item at least; shorter than ``list_size`` where the pool is.
    """
    everyone = entry.pool.everyone()
    positives = everyone if anonymous or entry.own is None else entry.own
    alternatives = entry.pool.alternatives(positives.rows)
    n_positives = min(len(positives.rows), max(list_size // 2, list_size - len(alternatives.rows)))
    if n_positives < len(positives.rows):
        shares = positives.rates.sum(axis=1, dtype=np.float64)
        picked = generator.choice(len(positives.rows), size=n_positives, replace=False, p=shares / shares.sum())
        positives = Choices(rows=positives.rows[picked], rates=positives.rates[picked])
    n_negatives = min(len(alternatives.rows), list_size - n_positives)
    chances = alternatives.chances / alternatives.chances.sum() if n_negatives else None
    negatives = generator.choice(alternatives.rows, size=n_negatives, replace=False, p=chances)
    return DrawnList(
        rows=np.concatenate([positives.rows, negatives]),
        rates=np.concatenate([positives.rates, np.zeros((n_negatives, N_HEADS), dtype=np.float32)]),
    )


def choices_per_head(lists: Sequence[TrainingList]) -> FloatArray:
    """Count the choices of all queries of some lists per head, each head including those behind it; float32 (3,)."""
    pools = {id(entry.pool): entry.pool for entry in lists}.values()
    return sum((flags for pool in pools for flags in pool.chosen.values()), start=np.zeros(N_HEADS, dtype=np.float32))


def n_draws(entry: TrainingList) -> int:
    """Return how often a list is drawn per epoch: 1 + log2 of the searches merged into it.

    A frequent query holds more to learn and matters to more shoppers, but a store's most frequent one, drawn once per
    search, would fill whole epochs.
    """
    return 1 + int(np.log2(entry.n_searches))


def _choices(chosen: dict[int, FloatArray], n_searches: int) -> Choices:
    counts = np.array([*chosen.values()], dtype=np.float32).reshape(len(chosen), N_HEADS)
    return Choices(
        rows=np.fromiter(chosen, dtype=np.int64, count=len(chosen)), rates=counts / np.float32(max(n_searches, 1))
    )


def _is_comparison(entry: TrainingList) -> bool:
    rows = entry.pool.everyone().rows if entry.own is None else entry.own.rows
    return len(rows) > 1 or len(entry.pool.alternatives(rows).rows) > 0
