"""Which texts run together: such of like length, since a batch is as wide as its longest text.

A shorter text costs what the padding behind it costs, a further batch what setting the graph up for its shape costs.
Of all ways to cut the texts, sorted by length, into batches, the cheapest is taken, by dynamic programming over the
widths that graphs read.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from retrieval.engines.engine import even_width

# what one more batch costs, in tokens. 100 pairs of 64 tokens through a reranker of 4 layers of 384, int8 on 2 cores:
# 125 ms at 64 and at 128, 128 at 32 and at 256, and 141 where batches were only filled up
SETUP_TOKENS = 64


def batches_by_length(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut texts into batches of like length, shortest first.

    Args:
        lengths: Number of tokens of each text.
        token_budget: Most tokens of a batch, padding included; a longer text runs alone.
    Returns:
        The positions in ``lengths`` of each batch; together every position once.
    """
    if not lengths:
        return []
    order: list[int] = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    widths = [even_width(lengths[position]) for position in order]
    # between texts of one width nothing is won by a cut
    cuts = [0, *(i for i in range(1, len(order)) if widths[i] != widths[i - 1]), len(order)]
    least, came_from = [0], [0]  # by cut: tokens read up to there, and the cut before
    for end in range(1, len(cuts)):
        width = widths[cuts[end] - 1]
        costs = [least[begin] + _cost(cuts[end] - cuts[begin], width, token_budget) for begin in range(end)]
        least.append(min(costs))
        came_from.append(costs.index(least[-1]))
    chosen = [len(cuts) - 1]
    while chosen[-1]:
        chosen.append(came_from[chosen[-1]])
    batches = []
    for begin, end in pairwise([cuts[cut] for cut in reversed(chosen)]):
        n_batches = _n_batches(end - begin, widths[end - 1], token_budget)
        bounds = [begin + (end - begin) * number // n_batches for number in range(n_batches + 1)]
        batches += [order[start:stop] for start, stop in pairwise(bounds)]
    return batches


def _n_batches(n: int, width: int, token_budget: int) -> int:
    return math.ceil(n / max(1, token_budget // width))


def _cost(n: int, width: int, token_budget: int) -> int:
    return n * width + SETUP_TOKENS * _n_batches(n, width, token_budget)
