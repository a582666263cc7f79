"""Why a result stands where it stands, in numbers and words."""

from dataclasses import dataclass

import numpy as np

from rerank.parts import Parts

PIN = "pin"
BOOST = "boost"

WORDS = {
    "base": "what every item of this answer begins with",
    "retrieval": "the first stage as a whole",
    "words": "the match of words",
    "meaning": "the similarity of meaning",
    "query": "what shoppers chose after this query and queries like it",
    "popularity": "how much and how readily the item is chosen",
    "taste": "what the shopper's history says",
    "price": "its price and whether it is in stock",
    "rerank": "the cross-encoder's reading of query, history and item",
    "unread": "standing behind what the cross-encoder read",
    "shoppers": "how many shoppers chose both items",
    BOOST: "the request's boosts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One part of a score."""

    name: str
    value: float  # what it added to the score
    description: str


def contributions(parts: Parts | None, place: int, *, is_pinned: bool) -> tuple[Contribution, ...]:
    """Return what made up the score of one result, strongest first; what added nothing is left out.

    Args:
        parts: Of a page; None: it is not to be explained.
        place: Of the result on it, from 0.
        is_pinned: Whether the request put it there.
    """
    if parts is None:
        return ()
    values = {name: float(numbers[place]) for name, numbers in parts.items()}
    told = [Contribution(name=name, value=value, description=_words(name, value)) for name, value in values.items()]
    told = sorted((each for each in told if each.value), key=lambda each: (-abs(each.value), each.name))
    if is_pinned:  # it says nothing of the score, but all of the rank
        told.insert(0, Contribution(name=PIN, value=0.0, description="the request put the item at this rank"))
    return tuple(told)


def _words(name: str, value: float) -> str:
    return f"{WORDS[name]} {'raises' if value > 0 else 'lowers'} the score by {np.abs(value):.3g}"
