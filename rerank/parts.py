"""What a score is made of. Apart from ``rerank.explanation``, so that who only carries it along loads no engine."""

from typing import TypeAlias

from retrieval.arrays import FloatArray, IntArray

Parts: TypeAlias = dict[str, FloatArray]  # name → float32 (n,), what it added to each score

BASE = "base"  # what every candidate begins with
RETRIEVAL = "retrieval"  # the first stage as a whole
RERANK = "rerank"  # the cross-encoder
UNREAD = "unread"  # being behind those that the cross-encoder read


def add_parts(first: Parts, second: Parts) -> Parts:
    """Add what two models in a row added."""
    return {**first, **second, **{name: first[name] + second[name] for name in first.keys() & second.keys()}}


def take_parts(parts: Parts, chosen: IntArray) -> Parts:
    """Return the parts of some candidates, in the order asked for."""
    return {name: values[chosen] for name, values in parts.items()}
