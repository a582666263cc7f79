"""Queries as shoppers mistype them: so that the query tower learns to read through typing errors."""

from collections.abc import Callable

import numpy as np

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of a QWERTY keyboard
_SHORTEST_WORD = 4  # a changed letter makes another word of a shorter one
_SHORTEST_PART = 3  # of a word that a space cuts


def _neighbours() -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(_ROWS):
        for place, letter in enumerate(row):
            near = [row[place - 1 : place], row[place + 1 : place + 2]]
            # a row stands half a key to the right of the one above it
            near += [_ROWS[number - 1][place : place + 2]] if number else []
            near += [_ROWS[number + 1][max(place - 1, 0) : place + 1]] if number + 1 < len(_ROWS) else []
            found[letter] = "".join(near)
    return found


NEIGHBOURS = _neighbours()


def augment(query: str, rng: np.random.Generator) -> str:
    """Return the query with one error: in three of four cases within a word, else of a space.

    A query in which nothing can be changed comes back as it is: numbers are never touched, nor words of one to three
    letters, nor first letters, which are seldom mistyped, and without which a word is hard to recognise.

    Args:
        query: Normalised.
        rng: Where chance comes from.
    Source: the four errors within a word Damerau 1964, "A technique for computer detection and correction of spelling
        errors"; spared first letters Yannakoudakis & Fawthrop 1983, "The rules of spelling errors"; as training of
        dense retrievers Zhuang & Zuccon 2021, "Dealing with typos for BERT-based passage retrieval and ranking".
    """
    within_a_word = rng.random() < 0.75
    first, second = (_misspell, _respace) if within_a_word else (_respace, _misspell)
    return first(query, rng) or second(query, rng) or query


def _misspell(query: str, rng: np.random.Generator) -> str | None:
    words = query.split(" ")
    long = [number for number, word in enumerate(words) if len(word) >= _SHORTEST_WORD and word.isalpha()]
    if not long:
        return None
    number = long[rng.integers(len(long))]
    word = words[number]
    edit = EDITS[rng.integers(len(EDITS))]
    words[number] = edit(word, int(rng.integers(1, len(word))), rng)
    return " ".join(words)


def _replace(word: str, place: int, rng: np.random.Generator) -> str:
    near = NEIGHBOURS.get(word[place])
    if near is None:  # a letter of another alphabet
        return _drop(word, place, rng)
    return word[:place] + near[rng.integers(len(near))] + word[place + 1 :]


def _swap(word: str, place: int, rng: np.random.Generator) -> str:
    place = min(place, len(word) - 2)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _drop(word: str, place: int, rng: np.random.Generator) -> str:
    return word[:place] + word[place + 1 :]


def _double(word: str, place: int, rng: np.random.Generator) -> str:
    return word[: place + 1] + word[place:]


EDITS: tuple[Callable[[str, int, np.random.Generator], str], ...] = (_replace, _swap, _drop, _double)


def _respace(query: str, rng: np.random.Generator) -> str | None:
    """Lose a space, or gain one within a word."""
    words = query.split(" ")
    lost = [(number, 0) for number in range(1, len(words))]  # the space before the word
    gained = [
        (number, cut)
        for number, word in enumerate(words)
        if word.isalpha()
        for cut in range(_SHORTEST_PART, len(word) - _SHORTEST_PART + 1)
    ]
    if not lost and not gained:
        return None
    options = lost if lost and (not gained or rng.random() < 0.5) else gained
    number, cut = options[rng.integers(len(options))]
    if cut == 0:
        words[number - 1 : number + 1] = [words[number - 1] + words[number]]
    else:
        words[number] = f"{words[number][:cut]} {words[number][cut:]}"
    return " ".join(words)
