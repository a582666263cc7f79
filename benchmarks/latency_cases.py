"""What the latency benchmark feeds its systems, and how it takes their times: by turns, so that load hits all alike."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.build import Spread
from benchmarks.peers.plain_stack import written, written_prefix
from rerank.inputs import TokenArray
from rerank.reranker import Reranker
from rerank.scorer import Pairs
from retrieval.arrays import IntArray

LEAST_TOKENS = 3  # of a made-up passage
# between turns: threads of torch and ONNX Runtime go on spinning after their work, on the cores of whoever comes next
REST_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request's pairs, as tokens and as the texts that give these tokens."""

    query: str
    first: str  # query and history, with separators
    prefix: TokenArray
    passages: list[TokenArray]
    texts: list[str]

    @property
    def lengths(self) -> IntArray:
        """Tokens of each pair, int64 (n,)."""
        return np.array([len(self.prefix) + len(passage) + 1 for passage in self.passages], dtype=np.int64)

    @property
    def pairs(self) -> Pairs:
        """What a ``PairScorer`` reads."""
        return Pairs(prefixes=[self.prefix] * len(self.passages), passages=self.passages)


def make_case(reranker: Reranker, query: str, *, n: int, tokens: int, rng: np.random.Generator) -> Case:
    """Make up n pairs of so many tokens on average, as uneven in length as the catalogue's own passages.

    A passage longer than the catalogue's is several of them in a row.

    Args:
        reranker: Knows the catalogue's passages.
        query: A real one.
        n: Candidates.
        tokens: Mean tokens of a pair.
        rng: Draws the passages.
    """
    known = reranker.passage_tokens
    prefix = reranker.tokenizer.prefix(query, (), reranker.name_of, reranker.config)
    drawn = rng.integers(0, len(known), n)
    real = known.lengths(drawn)
    wanted = np.maximum(LEAST_TOKENS, real * (tokens - len(prefix) - 1) / max(real.mean(), 1)).round().astype(int)
    cut = []
    for row, length in zip(drawn.tolist(), wanted.tolist(), strict=True):
        part = known.of(row)
        while len(part) < length:
            part = np.concatenate([part, known.of(int(rng.integers(0, len(known))))])
        cut.append(part[:length])
    # a word that is cut inside is another one: what counts is what the text gives
    texts = written(reranker.tokenizer, cut)
    return Case(
        query=query,
        first=written_prefix(reranker.tokenizer, prefix),
        prefix=prefix,
        passages=reranker.tokenizer.token_ids(texts),
        texts=texts,
    )


def by_turns(actions: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Run each action once per round, in changing order and after a rest; a first round does not count.

    Args:
        actions: By name; given the number of the round.
        rounds: How many.
    Returns:
        Seconds of each round, by name.
    """
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        actions[name](0)
    for number in range(rounds):
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            time.sleep(REST_S)
            began = time.perf_counter()
            actions[name](number)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def milliseconds(seconds: Sequence[float]) -> Spread:
    """Return the quartiles of seconds, in milliseconds."""
    return Spread.of([1e3 * each for each in seconds])


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """Return the quartiles of how many times as long the one took as the other, round by round."""
    return Spread.of([a / b for a, b in zip(slow, fast, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a BERT decides how much it computes."""

    n_layers: int
    width: int

    @classmethod
    def of(cls, model: Path) -> "Shape":
        """Read a transformers folder's ``config.json``."""
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        return cls(n_layers=config["num_hidden_layers"], width=config["hidden_size"])
