"""The threads of searching: those on which whole searches run side by side, and the owners of both models."""

from collections.abc import Iterator
from dataclasses import replace

from indexer.bundle import Bundle
from rerank.scorer import BATCH_TOKENS
from retrieval.encoder import CPU_TOKEN_BUDGET
from server.batching import BatchingEncoder, BatchingScorer
from server.config import ServerConfig
from server.model_owner import ModelOwner
from server.search_threads import SearchThreads


class Searching:
    """The threads of one server. They outlive bundles: each owner runs one kind of model, whichever bundle it is of."""

    def __init__(self, config: ServerConfig) -> None:
        """Start the threads.

        Args:
            config: How many searches run side by side.
        """
        self.threads = SearchThreads(config.search_threads)
        self.encoder = self._owner("encoder", CPU_TOKEN_BUDGET)
        self.reranker = self._owner("reranker", BATCH_TOKENS)

    def __iter__(self) -> Iterator[ModelOwner]:
        """Go over the owners."""
        return iter((self.encoder, self.reranker))

    @property
    def busy_s(self) -> float:
        """For how long the longest of the present searches, and of the models' runs, has been going on."""
        return max(self.threads.busy_s, *(owner.busy_s for owner in self))

    def take(self, bundle: Bundle) -> Bundle:
        """Return a bundle whose models their owners run."""
        reranker = bundle.reranker
        return replace(
            bundle,
            retriever=bundle.retriever.with_encoder(BatchingEncoder(bundle.retriever.encoder, self.encoder)),
            reranker=reranker and reranker.with_scorer(BatchingScorer(reranker.scorer, self.reranker)),
        )

    def close(self) -> None:
        """End the threads, once no call waits for them any more."""
        for owner in self:
            owner.close()
        self.threads.shutdown(cancel_futures=True)

    def _owner(self, name: str, token_budget: int) -> ModelOwner:
        return ModelOwner(name, token_budget=token_budget, n_searching=lambda: self.threads.n_running)
