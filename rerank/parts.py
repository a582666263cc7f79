"""What a score is made of. Apart from ``rerank.explanation``, so that who only carries it along loads no engine."""

from collections.abc import Callable
from typing import TypeAlias

from retrieval.arrays import FloatArray, IntArray

Parts: TypeAlias = dict[str, FloatArray]  # name → float32 (n,), what it added to each score
# by positions int64 (n,): who asks for a page waits for no others, of which each takes some ms
PartsOf: TypeAlias = Callable[[IntArray], Parts]

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


def reordered(parts_of: PartsOf, order: IntArray) -> PartsOf:
    """Return what tells the parts of candidates that were put into another order.

    Args:
        parts_of: By the positions before.
        order: int64 (n,), of each candidate its position before.
    """
    return lambda chosen: parts_of(order[chosen])


def added(parts_of: PartsOf, name: str, values: FloatArray) -> PartsOf:
    """Return what tells one part more.

    Args:
        parts_of: What tells the others.
        name: Of the part.
        values: float32 (n,), by position.
    """
    return lambda chosen: parts_of(chosen) | {name: values[chosen]}
