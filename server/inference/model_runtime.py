"""What all searches of a server share: the threads that they run on, the models' owners, and what the models said."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from indexer.bundle import RERANKER_FOLDER, Bundle
from rerank.scorer import BATCH_TOKENS
from retrieval.engines.encoder import CPU_TOKEN_BUDGET
from server.config import ServerConfig
from server.inference.batching import BatchingEncoder, BatchingScorer
from server.inference.caches import Cache
from server.inference.model_owner import ModelOwner
from server.inference.priority import give_way
from server.inference.search_threads import SearchThreads

P = ParamSpec("P")
T = TypeVar("T")


class ModelRuntime:
    """The threads and caches of one server. They outlive bundles: an owner runs one kind of model, of any bundle."""

    def __init__(self, config: ServerConfig) -> None:
        """Start the threads.

        Args:
            config: How many searches run side by side, and how large caches are.
        """
        self.threads = SearchThreads(config.search_threads)
        self._opening = ThreadPoolExecutor(1, thread_name_prefix="opening", initializer=give_way)
        self.encoder = self._owner("encoder", CPU_TOKEN_BUDGET)
        self.reranker = self._owner("reranker", BATCH_TOKENS)
        self._embeddings: Cache[tuple[str, str]] = Cache("embedding", config.query_cache_mib << 20)
        self._scores: Cache[bytes] = Cache("score", config.score_cache_mib << 20)
        self.caches = (self._embeddings, self._scores)

    def __iter__(self) -> Iterator[ModelOwner]:
        """Go over the owners."""
        return iter((self.encoder, self.reranker))

    @property
    def busy_s(self) -> float:
        """For how long the longest of the present searches, and of the models' runs, has been going on."""
        return max(self.threads.busy_s, *(owner.busy_s for owner in self))

    async def prepare(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Open or warm a bundle, on a thread that gives way, as do those on which models compute, which start there."""
        return await asyncio.get_running_loop().run_in_executor(self._opening, partial(work, *args, **kwargs))

    def take(self, bundle: Bundle) -> Bundle:
        """Return a bundle whose models their owners run."""
        retriever, reranker = bundle.retriever, bundle.reranker
        if reranker is not None:
            scorer = BatchingScorer(reranker.scorer, self.reranker, self._scores, _exported_reranker(bundle))
            reranker = reranker.with_scorer(scorer)
        encoder = BatchingEncoder(retriever.encoder, self.encoder, self._embeddings)
        return replace(bundle, retriever=retriever.with_encoder(encoder), reranker=reranker)

    def close(self) -> None:
        """End the threads, once no call waits for them any more."""
        for owner in self:
            owner.close()
        self.threads.shutdown(cancel_futures=True)
        self._opening.shutdown(wait=False, cancel_futures=True)

    def _owner(self, name: str, token_budget: int) -> ModelOwner:
        return ModelOwner(name, token_budget=token_budget, n_searching=lambda: self.threads.n_running)


def _exported_reranker(bundle: Bundle) -> str:
    """Say which exported cross-encoder a bundle has: one trained version may be exported with other numbers."""
    files = {
        path: entry.sha256 for path, entry in bundle.manifest.files.items() if path.startswith(f"{RERANKER_FOLDER}/")
    }
    return json.dumps(files, sort_keys=True)
