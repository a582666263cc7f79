"""Both models as searches see them: with the interface of what they wrap, run by their owners' threads.

What several searches ask for at once goes through the model together, cut into batches of like length by the wrapped
encoder or scorer itself, and comes back to each of them. In fp32 the numbers do not depend on the company.
"""

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

from rerank.scorer import Pairs, PairScorer
from retrieval.arrays import FloatArray
from retrieval.encoder import EncoderInfo, TextEncoder
from retrieval.engine import TokenBatch
from server.model_owner import ModelOwner

CHARACTERS_PER_TOKEN = 4  # of an English query, roughly: the tokenizer runs with the model, on its owner's thread


class BatchingEncoder(TextEncoder):
    """A query encoder that its owner runs."""

    def __init__(self, encoder: TextEncoder, owner: ModelOwner) -> None:
        """Wrap an encoder.

        Args:
            encoder: Runs on the owner's thread alone.
            owner: Of this and of no other kind of model.
        """
        self.info = encoder.info
        self.tokenizer = encoder.tokenizer
        self._encoder = encoder
        self._owner = owner

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
        n_tokens = sum(min(len(text) // CHARACTERS_PER_TOKEN + 2, self.info.max_tokens) for text in texts)
        return self._owner.ask(self, texts, n_inputs=len(texts), n_tokens=n_tokens)

    def run(self, asked: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Encode what several ask for; for the owner alone."""
        return _shared(self._encoder.encode(list(chain.from_iterable(asked))), [len(texts) for texts in asked])


class BatchingScorer(PairScorer):
    """A cross-encoder that its owner runs."""

    def __init__(self, scorer: PairScorer, owner: ModelOwner) -> None:
        """Wrap a scorer.

        Args:
            scorer: Runs on the owner's thread alone.
            owner: Of this and of no other kind of model.
        """
        self.engine = scorer.engine
        self.tokenizer = scorer.tokenizer
        self._scorer = scorer
        self._owner = owner

    @property
    def backlog(self) -> int:
        """See ``PairScorer.backlog``."""
        return self._owner.backlog()

    def heads(self, pairs: Pairs) -> FloatArray:
        """See ``PairScorer.heads``.

        Raises:
            DeadlineExceeded: If the present search has no time to wait for its turn.
        """
        return self._owner.ask(self, pairs, n_inputs=len(pairs.passages), n_tokens=pairs.n_tokens)

    def run(self, asked: Sequence[Pairs]) -> list[FloatArray]:
        """Score what several ask for; for the owner alone."""
        together = Pairs(
            prefixes=list(chain.from_iterable(pairs.prefixes for pairs in asked)),
            passages=list(chain.from_iterable(pairs.passages for pairs in asked)),
        )
        return _shared(self._scorer.heads(together), [len(pairs.passages) for pairs in asked])

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
