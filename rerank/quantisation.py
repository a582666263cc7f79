"""The store's own pairs, from which int8 quantisation learns the ranges of activations."""

from collections.abc import Callable, Sequence

import numpy as np

from corpus.prepared import Example
from rerank.config import RerankerConfig
from rerank.inputs import PairTokenizer, PassageTokens, assemble
from retrieval.arrays import IntArray
from retrieval.engines.engine import TokenBatch

_PAIRS_PER_SEARCH = 8


def calibration_batches(
    tokenizer: PairTokenizer,
    passage_tokens: PassageTokens,
    name_of: Callable[[str], str | None],
    config: RerankerConfig,
    searches: Sequence[tuple[Example, IntArray]],
) -> list[TokenBatch]:
    """Make batches as service would: one search each, with and without history by turns.

    Args:
        tokenizer: The reranker's tokenizer.
        passage_tokens: Pre-tokenised items, by row.
        name_of: An item's name by its id.
        config: How inputs are written.
        searches: Searches with the rows of their candidates, best first; 8 of them, from all ranks, are used.
    Returns:
        One batch per search that has candidates.
    """
    batches: list[TokenBatch] = []
    for number, (example, rows) in enumerate(searches):
        if len(rows) == 0:
            continue
        history = example.history if number % 2 == 0 else ()
        prefix = tokenizer.prefix(example.query, history, name_of, config)
        spread = np.unique(np.linspace(0, len(rows) - 1, _PAIRS_PER_SEARCH).astype(np.int64))
        passages = [passage_tokens.of(row) for row in rows[spread].tolist()]
        batches.append(
            assemble(
                [prefix] * len(passages),
                passages,
                separator_id=tokenizer.separator_id,
                padding_id=tokenizer.padding_id,
            )
        )
    return batches
