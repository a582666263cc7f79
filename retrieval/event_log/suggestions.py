"""Completes what a shopper is typing, from the queries that many shoppers typed and that led to a choice.

What is offered, best first, until there are enough:

    beginning   logged queries that begin with what was typed
    words       logged queries that have all of its words, of which the last may be a beginning, in any order
    last word   what was typed with its last word completed
    mended      the first two again, after words that the log lacks are replaced by the likeliest that differ by one
                slip (a letter missing, added, changed, or two swapped)

Within each, the more popular come first. Letter case and accents do not count. A query enters only if enough distinct
shoppers typed it, so that nobody's own words are shown to others; shoppers without an id count as none.
"""

import json
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from rapidfuzz.distance import OSA

from corpus.errors import ArtefactError
from corpus.prepared import Pairs
from retrieval.arrays import FloatArray, IntArray

SUGGESTIONS_FILE = "suggestions.json"
LEAST_LETTERS = 4  # of a word that is mended: shorter ones differ by one slip from too many
LAST = "\U0010ffff"  # sorts behind every text that goes on
N_COMPLETIONS = 3  # of a last word, where no logged query has it
MOST_WORDS = 100  # that a beginning of a word may stand for, the most popular: one letter would stand for thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One completion."""

    query: str
    score: float  # 1 to 4: the whole part says how well the beginning is met, the rest how popular the query is


class Suggestions:
    """The queries that may be suggested. Immutable, safe for several threads."""

    def __init__(self, queries: Sequence[str], weights: Sequence[float]) -> None:
        """Sort the queries.

        Args:
            queries: Distinct normalised texts.
            weights: How popular each is, above 0. Of queries that differ in case and accents alone the most popular
                is shown, for all of them.
        """
        shown: dict[str, tuple[float, str]] = {}
        total: dict[str, float] = defaultdict(float)
        for query, weight in zip(queries, weights, strict=True):
            key = fold(query)
            shown[key] = max(shown.get(key, (0.0, "")), (weight, query))
            total[key] += weight
        self._keys = sorted(key for key in shown if key)
        self._queries = [shown[key][1] for key in self._keys]
        self._weights: FloatArray = np.array([total[key] for key in self._keys], dtype=np.float32)
        self._greatest = float(self._weights.max()) if self._keys else 1.0

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def build(cls, pairs: Pairs, weight: FloatArray, *, least_shoppers: int, most: int) -> "Suggestions":
        """Count the log's searches.

        Args:
            pairs: Searches with what they led to.
            weight: float32 (n_pairs,), what each counts.
            least_shoppers: Distinct shoppers who must have typed a query.
            most: Queries kept, the most popular.
        """
        n_queries = len(pairs.queries)
        named = pairs.shopper >= 0
        typed = np.unique(np.stack([pairs.query[named], pairs.shopper[named]]), axis=1)[0]  # once for each shopper
        n_shoppers = np.bincount(typed, minlength=n_queries)
        popularity = np.bincount(pairs.query, weights=weight, minlength=n_queries)
        kept = np.flatnonzero((n_shoppers >= least_shoppers) & (popularity > 0))
        kept = kept[np.argsort(-popularity[kept], kind="stable")][:most]
        return cls([pairs.queries[number] for number in kept.tolist()], popularity[kept].tolist())

    def save(self, path: Path) -> None:
        """Write them."""
        weights = [round(weight, 6) for weight in self._weights.tolist()]
        path.write_text(json.dumps({"queries": self._queries, "weights": weights}), encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> "Suggestions":
        """Open what ``save`` wrote; a bundle that was built before there were any has none.

        Raises:
            ArtefactError: If the file is broken.
        """
        try:
            if not path.exists():
                return cls([], [])
            document = json.loads(path.read_bytes())
            return cls(document["queries"], document["weights"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ArtefactError(f"expected suggestions at {path}, got: {exc}; build the bundle again") from exc

    def complete(self, typed: str, k: int) -> list[Suggestion]:
        """Complete a beginning.

        Args:
            typed: As typed: a space at its end says that the last word is whole. Empty asks for the most popular.
            k: Most suggestions.
        """
        found: dict[str, Suggestion] = {}
        for query, score in self._matches(fold(typed)):
            found.setdefault(fold(query), Suggestion(query=query, score=score))
            if len(found) >= k:
                break
        return list(found.values())

    def _matches(self, beginning: str) -> Iterator[tuple[str, float]]:
        yield from self._of(self._begun(beginning), 4)
        words = beginning.split()
        if not words:
            return
        is_open = not beginning.endswith(" ")
        yield from self._of(self._worded(words, is_open=is_open), 3)
        if is_open:
            for word in self._begun_words(words[-1], N_COMPLETIONS):
                if word == words[-1]:  # that has been typed already
                    continue
                yield " ".join([*words[:-1], word]), 2 + self._weight_of(word) / (1 + self._greatest)
        mended = [self._mended(word, is_open=is_open and at == len(words)) for at, word in enumerate(words, start=1)]
        if mended != words:
            yield from self._of(self._begun(" ".join(mended) + " " * (not is_open)), 1)
            yield from self._of(self._worded(mended, is_open=is_open), 1)

    def _of(self, places: IntArray, tier: int) -> Iterator[tuple[str, float]]:
        """Yield queries, the most popular first, without sorting those that nobody will ask for."""
        weights = self._weights[places]
        done = 0
        while done < len(places):
            n = min(max(64, 8 * done), len(places))
            best = np.argpartition(-weights, n - 1)[:n] if n < len(places) else np.arange(n)
            best = best[np.lexsort((places[best], -weights[best]))][done:]
            for at in best.tolist():
                yield self._queries[int(places[at])], tier + float(weights[at]) / (1 + self._greatest)
            done = n

    def _begun(self, beginning: str) -> IntArray:
        low, high = bisect_left(self._keys, beginning), bisect_left(self._keys, beginning + LAST)
        return np.arange(low, high, dtype=np.int64)

    def _worded(self, words: Sequence[str], *, is_open: bool) -> IntArray:
        """Return the queries that have all words."""
        found: IntArray | None = None
        for at, word in enumerate(words, start=1):
            ends = is_open and at == len(words)
            names = self._begun_words(word, MOST_WORDS) if ends else [word] * (word in self._postings)
            parts = [self._postings[name] for name in names]
            of_word = np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
            found = of_word if found is None else np.intersect1d(found, of_word, assume_unique=True)
        return np.empty(0, dtype=np.int64) if found is None else found

    @cached_property
    def _postings(self) -> Mapping[str, IntArray]:
        """Queries by their words."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, key in enumerate(self._keys):
            for word in dict.fromkeys(key.split()):
                places[word].append(place)
        return {word: np.array(of_word, dtype=np.int64) for word, of_word in places.items()}

    @cached_property
    def _words(self) -> list[str]:
        return sorted(self._postings)

    @cached_property
    def _word_weights(self) -> FloatArray:
        """Popularity of the most popular query with each word."""
        return np.array([self._weights[self._postings[word]].max() for word in self._words], dtype=np.float32)

    def _range(self, beginning: str) -> tuple[int, int]:
        return bisect_left(self._words, beginning), bisect_left(self._words, beginning + LAST)

    def _begun_words(self, beginning: str, most: int) -> list[str]:
        """Return words that begin so, the most popular first."""
        low, high = self._range(beginning)
        best = np.argsort(-self._word_weights[low:high], kind="stable")[:most]
        return [self._words[low + at] for at in best.tolist()]

    def _weight_of(self, word: str) -> float:
        return float(self._word_weights[bisect_left(self._words, word)])

    def _mended(self, word: str, *, is_open: bool) -> str:
        """Return the likeliest word of the log that differs by one slip; the word itself if it is known, or none is."""
        if len(word) < LEAST_LETTERS or word in self._postings or (is_open and self._begun_words(word, 1)):
            return word
        near = []
        low, high = self._range(word[0])
        for known in self._words[low:high]:  # the first letter is seldom wrong, and spares most of the words
            # of a beginning, what was typed may be one letter longer or shorter than what was meant
            lengths = {len(word) - 1, len(word), len(word) + 1} if is_open else {len(known)}
            if abs(len(known) - len(word)) > 1 and not (is_open and len(known) > len(word)):
                continue
            distance = min(OSA.distance(word, known[:length], score_cutoff=1) for length in lengths)
            if distance <= 1:
                near.append(known)
        return max(near, key=lambda known: (self._weight_of(known), known), default=word)

    def warm(self) -> "Suggestions":
        """Make what look-ups need, so that no shopper waits for it."""
        self._word_weights  # noqa: B018 - cached, and made of all the others
        return self


def fold(text: str) -> str:
    """Return a text without letter case and accents, with single spaces; one at its end stays."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    folded = " ".join(bare.split())
    return folded + " " if folded and bare[-1].isspace() else folded
