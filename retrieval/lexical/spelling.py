"""Mending the words of a query that the catalogue lacks, by the words that it has.

Mended are letters (``skyrm``), a missing space (``playstation3``) and a surplus one (``x box``). The letters of a word
that finds items are never changed, however rare it is; two such words become one only if more items hold the one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rapidfuzz.distance import OSA

from retrieval.arrays import IntArray

ONE_EDIT_FROM, TWO_EDITS_FROM = 4, 8  # letters; shorter words have too many neighbours
MAX_NEAR = 5  # of equally close words, the most frequent, so many are tried beside the rest of the query
MAX_PARTS = 4  # of a word that lacks its spaces
MAX_UNKNOWN = 8  # a text with more unknown words is in another language, or no query
JOINTS = (" ", "-")  # what may stand between two words that are one


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word of a query."""

    text: str  # lowered, without accents
    start: int  # of the query's characters, the first that belongs to it
    end: int  # and the one behind the last
    fixed: bool = False  # not to be changed: part of an identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What to write instead of a stretch of a query."""

    start: int
    end: int
    text: str


class Speller:
    """Mends the words of queries. Immutable; safe to call from several threads."""

    def __init__(
        self, counts: Mapping[str, int], has_stem: Callable[[str], bool], n_together: Callable[[Sequence[str]], int]
    ) -> None:
        """Take in a catalogue's words.

        Args:
            counts: How many items hold each word, lowered and without accents.
            has_stem: Whether a word that is not in ``counts`` finds items all the same, by its stem.
            n_together: How many items hold all of several words of ``counts``.
        """
        self._counts = counts
        self._has_stem = has_stem
        self._n_together = n_together
        # a number or a model number is never a mistake for another
        self._words = sorted((word for word in counts if word.isalpha()), key=len)
        self._lengths = np.fromiter(map(len, self._words), dtype=np.int64, count=len(self._words))
        self._letters = np.fromiter(map(_letters, self._words), dtype=np.uint64, count=len(self._words))

    def is_clean(self, words: Sequence[Word]) -> bool:
        """Tell, fast, whether ``changes`` has nothing to do."""
        return all(map(self._knows, words)) and not any(
            first.text + second.text in self._counts for first, second in pairwise(words)
        )

    def changes(self, query: str, words: Sequence[Word]) -> list[Change]:
        """Return what to change, from left to right.

        Args:
            query: The text that ``words`` are of.
            words: All its words, in order.
        """
        known = [self._knows(word) for word in words]
        if known.count(False) > MAX_UNKNOWN:
            return []
        changes: list[Change] = []
        at = 0
        while at < len(words):
            word, pair = words[at], words[at : at + 2]
            joined = self._joined(query, pair, known=all(known[at : at + 2])) if len(pair) == 2 else None
            if joined is not None:
                changes.append(Change(start=word.start, end=pair[1].end, text=joined))
                at += 1
            elif not known[at]:
                beside = [words[place].text for place in (at - 1, at + 1) if 0 <= place < len(words) and known[place]]
                mended = self._parts(word.text) or self._nearest(word.text, beside)
                if mended is not None:
                    changes.append(Change(start=word.start, end=word.end, text=mended))
            at += 1
        return changes

    def _knows(self, word: Word) -> bool:
        return word.fixed or word.text in self._counts or self._has_stem(word.text)

    def _joined(self, query: str, pair: Sequence[Word], *, known: bool) -> str | None:
        """Return two words as one, if the catalogue writes them so: always, or more often than apart."""
        first, second = pair
        joined = first.text + second.text
        if joined not in self._counts or first.fixed or second.fixed or joined.isdigit():
            return None
        if query[first.end : second.start] not in JOINTS:
            return None
        apart = self._n_together((first.text, second.text)) if known else 0
        return joined if self._counts[joined] > apart else None

    def _parts(self, word: str) -> str | None:
        """Return the fewest known words, all of one item, that make up a word; of equally many the most frequent."""
        least = 2 if word.isalpha() else 1  # "31x32" has three parts; "d canvas" would be no correction of "dcanvas"
        best: list[tuple[int, float, tuple[str, ...]] | None] = [(0, 0.0, ()), *[None] * len(word)]
        for end in range(1, len(word) + 1):
            options = []
            for start, before in enumerate(best[: max(0, end - least + 1)]):
                part = word[start:end]
                if before is not None and before[0] < MAX_PARTS and part in self._counts:
                    rarity = before[1] - float(np.log(self._counts[part]))
                    options.append((before[0] + 1, rarity, (*before[2], part)))
            best[end] = min(options, default=None)
        found = best[-1]
        if found is None or word.isdigit() or not self._n_together(found[2]):
            return None
        return " ".join(found[2])

    def _nearest(self, word: str, beside: Sequence[str]) -> str | None:
        """Return the closest word; of equally close ones the one that most items hold with the words beside it.

        A swap of two neighbouring letters is one edit (optimal string alignment).
        """
        most = (len(word) >= ONE_EDIT_FROM) + (len(word) >= TWO_EDITS_FROM)
        if not most or not word.isalpha():
            return None
        near: list[tuple[int, int, str]] = [
            (distance, -self._counts[candidate], candidate)
            for candidate in (self._words[place] for place in self._candidates(word, most))
            if (distance := OSA.distance(word, candidate, score_cutoff=most)) <= most
        ]
        if not near:
            return None
        closest = min(near)[0]
        names = [candidate for distance, _, candidate in sorted(near) if distance == closest][:MAX_NEAR]
        n_beside = [sum(self._n_together((name, other)) for other in beside) for name in names]
        return names[n_beside.index(max(n_beside))]

    def _candidates(self, word: str, most: int) -> IntArray:
        """Return where the words stand whose length and letters allow so few edits: it spares most comparisons."""
        first, last = np.searchsorted(self._lengths, [len(word) - most, len(word) + most + 1])
        # an edit takes one letter from the set at most, and adds one at most
        differing = np.bitwise_count(self._letters[first:last] ^ np.uint64(_letters(word)))
        return np.asarray(first + np.flatnonzero(differing <= 2 * most), dtype=np.int64)


def _letters(word: str) -> int:
    """Return the set of a word's letters as 64 bits."""
    bits = 0
    for letter in word:
        bits |= 1 << (ord(letter) % 64)
    return bits
