"""The three answers of the cross-encoder about a pair: is it clicked, put into the cart, bought?

A label counts for every head up to its grade: a purchase is a click and a cart too. Judged data go by the same
thresholds: a judged grade stands for the chance to interest, and what the store calls positive is a click at least.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from corpus.errors import ConfigError
from corpus.prepared import Label
from rerank.config import HeadWeights
from retrieval.arrays import FloatArray

HEADS = ("click", "cart", "purchase")  # the order of the model's outputs; each includes the ones behind it
N_HEADS = len(HEADS)
_LEAST_GRADES = (1.0, 2.0, 3.0)


def head_flags(label: Label) -> FloatArray:
    """Tell which heads a label is a positive of: float32 (3,), 1 or 0, never rising."""
    flags = np.array([label.grade >= least for least in _LEAST_GRADES], dtype=np.float32)
    flags[0] = max(flags[0], label.weight > 0)
    return flags


def taught_heads(counts: FloatArray) -> tuple[str, ...]:
    """Return the heads that data can teach: those with choices that are no stronger ones.

    In a log of purchases alone all three heads would learn the same, and the first two would be called by a name that
    they do not deserve; in a log of clicks alone there is nothing to learn for the others.

    Args:
        counts: float32 (3,), choices per head, each including those of the heads behind it.
    """
    own = counts - np.append(counts[1:], 0.0)
    return tuple(head for head, n in zip(HEADS, own.tolist(), strict=True) if n > 0)


def resolve_weights(wanted: HeadWeights, taught: Iterable[str]) -> dict[str, float]:
    """Return the weight of each head's logit in the ranking value: 0 for untaught heads, 1 in all.

    Args:
        wanted: The configured weights.
        taught: The heads that were trained.
    Raises:
        ConfigError: If no trained head has a weight.
    """
    known = set(taught)
    weights = {head: float(getattr(wanted, head)) if head in known else 0.0 for head in HEADS}
    total = sum(weights.values())
    if total <= 0:
        raise ConfigError(
            f"expected a weight above 0 in [reranker] head_weights for one of the heads that the data teach, "
            f"{', '.join(sorted(known, key=HEADS.index))}, got none; raise one"
        )
    return {head: weight / total for head, weight in weights.items()}


def weight_array(weights: Mapping[str, float]) -> FloatArray:
    """Return resolved weights as float32 (3,), in the order of the model's outputs."""
    return np.array([weights[head] for head in HEADS], dtype=np.float32)
