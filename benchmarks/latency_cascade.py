"""The whole second stage over real searches: what it saves to read only whom the blend chooses."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.latency_cases import by_turns, milliseconds, ratios
from benchmarks.latency_models import PLAIN, TANDEM, Models
from benchmarks.latency_quality import ALL_READ, Judged
from benchmarks.peers.plain_stack import written, written_prefix
from rerank.reranker import Reranker

logger = logging.getLogger(__name__)

SEARCHES = 8  # of each system in a round


def measure_cascade(
    models: Models, served: Reranker, judged: Sequence[Judged], *, depth: int, rounds: int
) -> list[dict[str, Any]]:
    """Time features, trees and cross-encoder together; the plain stack's cross-encoder alone reads the same candidates.

    Args:
        models: The same weights in every system.
        served: The bundle's second stage.
        judged: Searches; each round takes others while there are enough.
        depth: Candidates of a search.
        rounds: How often each system has its turn.
    """
    # behind those of the round that does not count, which are the first round's
    chunks = [[judged[(number * SEARCHES + i) % len(judged)] for i in range(SEARCHES)] for number in range(rounds)]
    texts = [[_texts(served, each, depth) for each in chunk] for chunk in chunks]
    n_read: list[int] = []

    def plain(number: int) -> None:
        for first, passages in texts[number]:
            models.plain.score(first, passages)

    def chain(*, whole: bool) -> Callable[[int], None]:
        def run(number: int) -> None:
            for each in chunks[number]:
                example = each.example
                found = served.rerank(example.query, example.history, each.candidates, depth=depth, whole=whole)
                if not whole:
                    n_read.append(found.n_scored)

        return run

    seconds = by_turns({PLAIN: plain, ALL_READ: chain(whole=True), TANDEM: chain(whole=False)}, rounds)
    each = {name: [value / SEARCHES for value in values] for name, values in seconds.items()}
    read = {PLAIN: float(depth), ALL_READ: float(depth), TANDEM: float(np.mean(n_read))}
    logger.info("the second stage reads %.1f of %d", read[TANDEM], depth)
    return [
        {
            "system": name,
            "depth": depth,
            "read": round(read[name], 1),
            "ms": asdict(milliseconds(taken)),
            "times_faster": asdict(ratios(each[PLAIN], taken)),
        }
        for name, taken in each.items()
    ]


def _texts(served: Reranker, each: Judged, depth: int) -> tuple[str, list[str]]:
    example = each.example
    prefix = served.tokenizer.prefix(example.query, example.history, served.name_of, served.config)
    passages = [served.passage_tokens.of(row) for row in each.candidates.rows[:depth].tolist()]
    return written_prefix(served.tokenizer, prefix), written(served.tokenizer, passages)
