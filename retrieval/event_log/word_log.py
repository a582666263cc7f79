"""What the words of queries mean in this store: the traits of what was chosen after queries that hold them.

Sellers and shoppers use different words, and an item that nobody chose yet has no log of its own. But whoever types
"sofa" chooses what is titled *Settee*, and whoever types "black" chooses the colour *Midnight*: so much can be counted
for every word, and holds for queries and items that the log never saw together.

Words are kept as hashes, not as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray, IntArray, find_places
from retrieval.event_log.query_log import query_hash
from retrieval.event_log.traits import TITLE, Hashes, Traits, words
from retrieval.ragged import Ragged

MAX_WORDS = 100_000  # of all queries, those that most choices followed
MAX_TRAITS = 512  # of a word, the most chosen; of the others it knows that they are rare
MAX_QUERY_WORDS = 16  # the first ones of a query

HASHES_FILE = "word_hashes.npy"
TOTALS_FILE = "word_totals.npy"
CHOSEN = "word_traits"
_ENTRIES_AT_ONCE = 4_000_000  # of a choice's traits, while counting


@dataclass(frozen=True, slots=True, kw_only=True)
class WordLog:
    """The words of the log's queries; immutable."""

    hashes: Hashes  # (n_words,) ascending
    totals: FloatArray  # (n_words, n_kinds) weight of all choices after a word whose item has a known trait of the kind
    chosen: Ragged  # by word: numbers of traits ascending, and the weight of the choices that had them

    @classmethod
    def build(cls, queries: Sequence[str], pairs: tuple[IntArray, IntArray, FloatArray], traits: Traits) -> "WordLog":
        """Count.

        Args:
            queries: Distinct normalised texts.
            pairs: The choices as columns: position in ``queries``, row of the item table, weight.
            traits: Of the items.
        """
        number, row, weight = pairs
        of_query = [[query_hash(word) for word in words(query)[:MAX_QUERY_WORDS]] for query in queries]
        hashes = np.array(sorted({known for found in of_query for known in found}), dtype=np.uint64)
        in_query = Ragged.join(
            [
                (np.searchsorted(hashes, np.array(found, dtype=np.uint64)).astype(np.int32), _ones(len(found)))
                for found in of_query
            ]
        )
        position, word, _ = in_query.entries(number)
        row, weight = row[position], weight[position]
        total = np.bincount(word, weights=weight, minlength=len(hashes))
        kept = np.sort(np.argsort(-total, kind="stable")[:MAX_WORDS])
        place = np.full(len(hashes), -1, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        inside = place[word] >= 0
        # one entry for each word and item that met
        met = Ragged.build(
            place[word[inside]], row[inside], weight[inside], n_keys=len(kept), most=len(traits.of_items) or 1
        )
        chosen, totals = _count(met, traits)
        return cls(hashes=hashes[kept], totals=totals, chosen=chosen)

    def find(self, query: str) -> IntArray:
        """Return the places of a query's words, those that the log knows: int64 (n,), n at most ``MAX_QUERY_WORDS``."""
        wanted = np.array([query_hash(word) for word in words(query)[:MAX_QUERY_WORDS]], dtype=np.uint64)
        places, known = find_places(self.hashes, wanted)
        return places[known]

    def save(self, folder: Path) -> None:
        """Write all parts into a folder."""
        np.save(folder / HASHES_FILE, self.hashes, allow_pickle=False)
        np.save(folder / TOTALS_FILE, self.totals, allow_pickle=False)
        self.chosen.save(folder, CHOSEN)

    @classmethod
    def load(cls, folder: Path, traits: Traits) -> "WordLog":
        """Open what ``save`` wrote.

        Raises:
            ArtefactError: If a file is missing or broken, or they do not fit each other or the traits.
        """
        try:
            hashes = np.load(folder / HASHES_FILE, allow_pickle=False)
            totals = np.load(folder / TOTALS_FILE, allow_pickle=False)
        except (OSError, ValueError, EOFError) as exc:
            raise ArtefactError(f"expected words of queries in {folder}, got: {exc}; build the bundle again") from exc
        chosen = Ragged.load(folder, CHOSEN, n_items=len(traits.hashes))
        fits = (
            (hashes.dtype, totals.dtype) == (np.uint64, np.float32)
            and hashes.ndim == 1
            and bool((hashes[1:] > hashes[:-1]).all())
            and totals.shape == (len(hashes), traits.n_kinds)
            and bool((totals >= 0).all())
            and len(chosen) == len(hashes)
        )
        if not fits:
            raise ArtefactError(f"expected words of queries in {folder} whose parts fit; build the bundle again")
        return cls(hashes=hashes, totals=totals, chosen=chosen)


def _count(met: Ragged, traits: Traits) -> tuple[Ragged, FloatArray]:
    """Sum up, for each word, the traits of the items that were chosen after it.

    Args:
        met: By word: rows of the items, and the weight of their choices.
        traits: Of the items.
    Returns:
        By word: numbers of traits and weights; and the weight per kind, float32 (n_words, n_kinds).
    """
    totals = np.zeros((len(met), traits.n_kinds), dtype=np.float64)
    parts: list[tuple[npt.NDArray[np.int32], FloatArray]] = []
    n_of_item = np.diff(traits.of_items.offsets)
    n_entries = np.concatenate([[0], np.cumsum(n_of_item[met.rows])])[met.offsets]  # before each word
    start = 0
    while start < len(met):
        end = max(start + 1, int(np.searchsorted(n_entries, n_entries[start] + _ENTRIES_AT_ONCE, side="right")) - 1)
        word, row, weight = met.entries(np.arange(start, end))
        choice, number, share = traits.of_items.entries(row.astype(np.int64))
        word_of, counted = word[choice], weight[choice] * share
        kind = traits.kinds[number]
        width = totals.shape[1]
        sums = np.bincount(word_of * width + kind, weights=counted, minlength=(end - start) * width)
        totals[start:end] = sums.reshape(-1, width)
        totals[start:end, TITLE] = np.bincount(word, weights=weight, minlength=end - start)
        best = Ragged.build(word_of, number.astype(np.int64), counted, n_keys=end - start, most=MAX_TRAITS)
        parts += [_ascending(*best.of(place)) for place in range(end - start)]
        start = end
    return Ragged.join(parts), totals.astype(np.float32)


def _ascending(numbers: npt.NDArray[np.int32], weights: FloatArray) -> tuple[npt.NDArray[np.int32], FloatArray]:
    order = np.argsort(numbers)
    return numbers[order], weights[order]


def _ones(n: int) -> FloatArray:
    return np.ones(n, dtype=np.float32)
