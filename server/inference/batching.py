"""Both models as searches see them: with the interface of what they wrap, run by their owners' threads.

What several searches ask for at once goes through the model together, cut into batches of like length by the wrapped
encoder or scorer itself, and comes back to each of them. In fp32 the numbers do not depend on the company.
"""

import math
import time
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import numpy as np

from rerank.scorer import Pairs, PairScorer
from retrieval.arrays import FloatArray
from retrieval.engines.encoder import EncoderInfo, TextEncoder
from retrieval.engines.engine import TokenBatch
from server.inference.caches import Cache, PairKeys
from server.inference.model_owner import ModelOwner
from server.inference.pace import Pace

CHARACTERS_PER_TOKEN = 4  # of an English query, roughly: the tokenizer runs with the model, on its owner's thread


class BatchingEncoder(TextEncoder):
    """A query encoder that its owner runs."""

    def __init__(self, encoder: TextEncoder, owner: ModelOwner, cache: Cache[tuple[str, str]]) -> None:
        """Wrap an encoder.

        Args:
            encoder: Runs on the owner's thread alone.
            owner: Of this and of no other kind of model.
            cache: Embeddings by the encoder's fingerprint and the text.
        """
        self.info = encoder.info
        self.tokenizer = encoder.tokenizer
        self._encoder = encoder
        self._owner = owner
        self._cache = cache

    def reading(self, info: EncoderInfo, *, token_budget: int) -> TextEncoder:
        """See ``TextEncoder.reading``: the other encoder has no owner, and takes turns with this one at the engine."""
        return self._encoder.reading(info, token_budget=token_budget)

    def encode(self, texts: Sequence[str], *, progress: str | None = None) -> FloatArray:
        """See ``TextEncoder.encode``.

        Raises:
            DeadlineExceeded: If the present search has no time to wait for its turn.
        """
        if not texts or progress is not None:
            return self._encoder.encode(texts, progress=progress)
        if not self._cache.is_on:
            return self._encoded(texts)
        keys = [(self.fingerprint, text) for text in texts]
        found = dict(zip(keys, self._cache.find(keys), strict=True))
        missing = [key for key, vector in found.items() if vector is None]  # each once
        if missing:
            vectors = self._encoded([text for _, text in missing])
            new = dict(zip(missing, vectors, strict=True))
            self._cache.keep(new)
            found |= new
        return np.stack([vector for key in keys if (vector := found[key]) is not None])

    def _encoded(self, texts: Sequence[str]) -> FloatArray:
        n_tokens = sum(min(len(text) // CHARACTERS_PER_TOKEN + 2, self.info.max_tokens) for text in texts)
        return self._owner.ask(self, texts, n_inputs=len(texts), n_tokens=n_tokens)

    def run(self, asked: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Encode what several ask for; for the owner alone."""
        return _shared(self._encoder.encode(list(chain.from_iterable(asked))), [len(texts) for texts in asked])


class BatchingScorer(PairScorer):
    """A cross-encoder that its owner runs."""

    def __init__(self, scorer: PairScorer, owner: ModelOwner, cache: Cache[bytes], model: str) -> None:
        """Wrap a scorer.

        Args:
            scorer: Runs on the owner's thread alone.
            owner: Of this and of no other kind of model.
            cache: Logits by pair.
            model: Says which exported cross-encoder this is.
        """
        self.engine = scorer.engine
        self.tokenizer = scorer.tokenizer
        self._scorer = scorer
        self._owner = owner
        self._cache = cache
        self._keys = PairKeys(model)
        self._pace = Pace()

    @property
    def backlog(self) -> int:
        """See ``PairScorer.backlog``."""
        return self._owner.backlog()

    @property
    def busy_s(self) -> float:
        """See ``PairScorer.busy_s``."""
        return self._owner.busy_s

    def patience_s(self, n_tokens: int) -> float:
        """See ``PairScorer.patience_s``."""
        return self._pace.patience_s(n_tokens)

    def heads(self, pairs: Pairs) -> FloatArray:
        """See ``PairScorer.heads``.

        Raises:
            DeadlineExceeded: If the present search has no time to wait for its turn.
        """
        return self.heads_by(pairs, math.inf)

    def heads_by(self, pairs: Pairs, deadline: float) -> FloatArray:
        """See ``PairScorer.heads_by``."""
        n_tokens = pairs.n_tokens
        logits = self._owner.ask(self, pairs, n_inputs=len(pairs.passages), n_tokens=n_tokens, until=deadline)
        if self._cache.is_on and np.isfinite(logits).all():  # what a broken model says is not worth keeping
            self._cache.keep(dict(zip(self._keys.of(pairs), logits, strict=True)))
        return logits

    def recall(self, pairs: Pairs, logits: FloatArray) -> list[int]:
        """See ``PairScorer.recall``."""
        if not self._cache.is_on:
            return super().recall(pairs, logits)
        unknown = []
        for position, kept in enumerate(self._cache.find(self._keys.of(pairs))):
            if kept is None:
                unknown.append(position)
            else:
                logits[position] = kept
        return unknown

    def run(self, asked: Sequence[Pairs]) -> list[FloatArray]:
        """Score what several ask for; for the owner alone."""
        together = Pairs(
            prefixes=list(chain.from_iterable(pairs.prefixes for pairs in asked)),
            passages=list(chain.from_iterable(pairs.passages for pairs in asked)),
        )
        began = time.monotonic()
        logits = self._scorer.heads(together)
        if np.isfinite(logits).all():  # nonsense takes no time
            self._pace.note(together.n_tokens, time.monotonic() - began)
        return _shared(logits, [len(pairs.passages) for pairs in asked])

    def ranking_values(self, logits: FloatArray) -> FloatArray:
        """See ``PairScorer.ranking_values``."""
        return self._scorer.ranking_values(logits)

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """See ``PairScorer.probabilities``."""
        return self._scorer.probabilities(logits)

    def batch(self, pairs: Pairs, positions: Sequence[int]) -> TokenBatch:
        """See ``PairScorer.batch``."""
        return self._scorer.batch(pairs, positions)


def _shared(numbers: FloatArray, sizes: Sequence[int]) -> list[FloatArray]:
    """Cut what was computed together into the shares of those who asked."""
    bounds = accumulate(sizes, initial=0)
    return [numbers[begin:end] for begin, end in pairwise(bounds)]
