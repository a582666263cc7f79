"""BM25 over the few items that changed since a lexical index was built, in scores that compare with the index's.

The formula is the index's own, and so are its statistics: how many items have a word, and how long a field is on
average, are those of the base. A delta of ten items alone would call every word of theirs common. Two approximations
remain until the next build: the base's statistics do not count the delta, and lengths above 40 words are not rounded to
a byte as tantivy does.
Source: Robertson & Zaragoza 2009, The Probabilistic Relevance Framework, eq. 3.15; k1 and b as in tantivy.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from corpus.items import Item, ItemTable
from retrieval.arrays import FloatArray, IntArray
from retrieval.filtering.row_set import RowSet
from retrieval.lexical.lexical_index import IDENTIFIER, ItemWords, LexicalIndex

K1, B = 1.2, 0.75
SAMPLE = 2_000  # items that the average lengths of fields are taken from: 2 % off moves a score by less than 1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class _Posting:
    """The items that have one term in one field, or one identifier."""

    rows: IntArray  # (n,)
    saturation: FloatArray  # (n,) BM25 without idf and boost

    @classmethod
    def joined(cls, old: "_Posting | None", gone: IntArray, entries: Mapping[int, float]) -> "_Posting":
        """Return a list without some rows and with others."""
        rows = np.fromiter(entries, dtype=np.int64, count=len(entries))
        saturation = np.fromiter(entries.values(), dtype=np.float32, count=len(entries))
        if old is not None:
            kept = ~np.isin(old.rows, gone)
            rows = np.concatenate([old.rows[kept], rows])
            saturation = np.concatenate([old.saturation[kept], saturation])
        return cls(rows=rows, saturation=saturation)


class LexicalDelta:
    """The words of changed items; immutable, and cheap to change: only the terms concerned are written anew."""

    def __init__(self, index: LexicalIndex, items: ItemTable) -> None:
        """Begin empty.

        Args:
            index: Over the base; gives statistics, analysis and boosts.
            items: The base.
        """
        self._index = index
        step = max(1, len(items) // SAMPLE)
        sample = index.analyse(ItemTable.from_items(map(items.item, range(0, len(items), step))))
        self._average = {
            name: float(np.mean([len(words.terms.get(name, ())) for words in sample])) for name in index.boosts
        }
        self._words: dict[int, ItemWords] = {}
        self._postings: dict[tuple[str, str], _Posting] = {}
        self._known: Counter[str] = Counter()  # words as they are spelt, and their stems

    @property
    def rows(self) -> Collection[int]:
        """The rows that are looked up here, not in the base."""
        return self._words.keys()

    def with_items(self, items: Mapping[int, Item], *, without: Collection[int] = ()) -> Self:
        """Return the delta after a change.

        Args:
            items: By row: what stands there now.
            without: Rows to drop.
        """
        after = object.__new__(type(self))
        after.__dict__.update(self.__dict__)
        fresh = dict(zip(items, self._index.analyse(ItemTable.from_items(items.values())), strict=True))
        dropped = {*items, *without} & self._words.keys()
        after._words = {row: words for row, words in self._words.items() if row not in dropped} | fresh
        after._known = Counter(self._known)
        after._known.subtract(word for row in dropped for word in _all_words(self._words[row]))
        after._known.update(word for words in fresh.values() for word in _all_words(words))
        after._known = +after._known
        touched: dict[tuple[str, str], dict[int, float]] = {}
        for row in dropped:
            for key in self._entries(self._words[row]):
                touched.setdefault(key, {})
        for row, words in fresh.items():
            for key, value in self._entries(words).items():
                touched.setdefault(key, {})[row] = value
        after._postings = dict(self._postings)
        gone = np.array(list(dropped), dtype=np.int64)
        for key, entries in touched.items():
            posting = _Posting.joined(after._postings.pop(key, None), gone, entries)
            if len(posting.rows):
                after._postings[key] = posting
        return after

    def knows(self, word: str) -> bool:
        """Tell whether a word, lowered and without accents, finds any of these items."""
        return word in self._known or any(term in self._known for term, _ in self._index.query_terms(word))

    def n_with(self, identifier: str) -> int:
        """Return how many of these items have an identifier."""
        posting = self._postings.get((IDENTIFIER, identifier))
        return 0 if posting is None else len(posting.rows)

    def search(self, query: str, k: int, *, allowed: RowSet | None = None) -> tuple[IntArray, FloatArray]:
        """Find the items that share words or identifiers with a text.

        Args:
            query: Mended already, if it is to be.
            k: Most items.
            allowed: Rows to search among; None: all.
        Returns:
            Rows int64 (n,) and scores float32 above 0, best first, equal ones in row order.
        """
        query = unicodedata.normalize("NFKC", query)
        found: list[tuple[IntArray, FloatArray]] = []
        for term, count in self._index.query_terms(query):
            for name, boost in self._index.boosts.items():
                posting = self._postings.get((name, term))
                if posting is not None:
                    n = self._index.n_with(name, term) or len(posting.rows)
                    weight = np.float32(boost * count * self._index.idf(n))
                    found.append((posting.rows, weight * posting.saturation))
        boost = self._index.settings.config.identifier
        for identifier, n in self._index.known_identifiers(query, beside=self) if boost > 0 else ():
            posting = self._postings.get((IDENTIFIER, identifier.term))
            if posting is not None:
                weight = np.float32(boost * self._index.idf(n) * identifier.n_words)
                found.append((posting.rows, weight * posting.saturation))
        if not found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        rows, places = np.unique(np.concatenate([part for part, _ in found]), return_inverse=True)
        weights = np.concatenate([scores for _, scores in found])
        scores = np.bincount(places, weights=weights, minlength=len(rows)).astype(np.float32)
        if allowed is not None:
            kept = allowed.mask[rows]
            rows, scores = rows[kept], scores[kept]
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

    def _entries(self, words: ItemWords) -> dict[tuple[str, str], float]:
        """Return what an item has in each term's list: BM25 without idf and boost."""
        entries = dict.fromkeys(((IDENTIFIER, identifier) for identifier in words.identifiers), 1.0)
        for name, terms in words.terms.items():
            norm = K1 * (1 - B + B * self._relative(name, len(terms)))
            entries |= {(name, term): (K1 + 1) * count / (count + norm) for term, count in Counter(terms).items()}
        return entries

    def _relative(self, name: str, length: int) -> float:
        average = self._average.get(name, 0.0)
        return length / average if average > 0 else 1.0


def _all_words(words: ItemWords) -> frozenset[str]:
    return words.spelling.union(*words.terms.values())
