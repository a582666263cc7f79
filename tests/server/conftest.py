"""A store with a real bundle, and real servers in front of it."""

import asyncio
import itertools
import math
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from corpus.items import ItemTable
from corpus.workspace import Workspace
from indexer.build import build_bundle
from indexer.bundle import Bundle, open_bundle
from indexer.config import BuildConfig
from indexer.manifest import MANIFEST_FILE, read_manifest
from indexer.publish import current_version, publish
from rerank.config import RerankerConfig, RerankerTrainConfig
from retrieval.config import RetrieverConfig, RetrieverTrainConfig, VectorIndexConfig
from server.client import TandemClient
from server.config import ServerConfig
from server.inference.model_runtime import ModelRuntime
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.serve import TandemServer
from tests.conftest import write_prepared

T = TypeVar("T")
numbers = itertools.count()
# tests share two cores, so that only tests about deadlines should meet one
CONFIG = ServerConfig(
    address="127.0.0.1:0",
    admin_address="127.0.0.1:0",
    metrics_address="127.0.0.1:0",
    default_timeout_ms=60_000,
    n_threads=1,
    follow_s=3600,  # only tests about following should see a server go over by itself
)


@pytest.fixture(autouse=True)
def any_pace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no model for slow: on a busy machine each is, and only tests about slowness should meet it."""
    if request.node.get_closest_marker("pace") is None:
        monkeypatch.setattr("server.inference.pace.SLOW", math.inf)


@pytest.fixture(scope="session")
def store(tiny_items: ItemTable, tiny_encoder_folder: Path, tiny_bert_folder: Path, tmp_path_factory) -> Workspace:
    """A store whose bundle v1 was trained (barely), built and published. Read only: see ``own_store``."""
    from rerank.train import train_reranker
    from retrieval.retriever import build_retriever
    from retrieval.training.train import train_retriever

    workspace = Workspace(tmp_path_factory.mktemp("server") / "store")
    prepared = write_prepared(workspace.data, tiny_items)
    retriever = RetrieverConfig(
        base_model=str(tiny_encoder_folder),
        train=RetrieverTrainConfig(max_steps=2, batch_size=8, n_uniform_negatives=4, valid_examples=10, valid_items=60),
        index=VectorIndexConfig(kind="flat"),
    )
    reranker = RerankerConfig(
        base_model=str(tiny_bert_folder),
        max_history_tokens=40,
        train=RerankerTrainConfig(max_steps=6, lists_per_batch=2, list_size=4, max_examples=20, valid_depth=60),
    )
    first_stage = train_retriever(prepared, retriever, workspace.retrievers / "v1", cache=workspace.embeddings)
    found = build_retriever(prepared.items, workspace.retrievers / "v1", retriever, workspace.embeddings)
    train_reranker(prepared, found, reranker, workspace.rerankers / "v1", retriever_fingerprint=first_stage.fingerprint)
    build_bundle(
        workspace,
        retriever,
        reranker,
        BuildConfig(
            encoder_precision="fp32",
            reranker_precision="fp32",
            n_calibration=8,
            n_recall_queries=8,
            suggestion_shoppers=2,
        ),
    )
    publish(workspace.bundles)
    return workspace


@pytest.fixture(scope="session")
def bundle(store: Workspace) -> Bundle:
    """The store's bundle, opened. Read only: replace parts of a copy."""
    version = current_version(store.bundles)
    assert version is not None
    return open_bundle(store.bundles / version, n_threads=1)


@pytest.fixture
def own_store(store: Workspace, tmp_path: Path) -> Workspace:
    """A store for one test, with bundle v1 published."""
    copy = Workspace(tmp_path / "store")
    shutil.copytree(store.bundles, copy.bundles)
    return copy


def copy_bundle(workspace: Workspace, source: str, target: str) -> None:
    """Add a version that differs in its name only."""
    folder = workspace.bundles / target
    shutil.copytree(workspace.bundles / source, folder)
    manifest = read_manifest(folder).model_copy(update={"version": target, "parent": source})
    (folder / MANIFEST_FILE).write_bytes(manifest.render())


class Loop:
    """An event loop in a thread of its own, in which servers run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T], *, timeout_s: float = 60) -> T:
        return self.start(work).result(timeout_s)

    def start(self, work: Awaitable[T]):
        return asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


Serving = Callable[..., "contextmanager[tuple[TandemServer, TandemClient]]"]


@pytest.fixture(scope="session")
def serving(loop: Loop):
    """Run a server on a free port, with a client: ``with serving(workspace, rerank_depth=5) as (server, client)``."""

    @contextmanager
    def run(workspace: Workspace, **settings: object) -> Iterator[tuple[TandemServer, TandemClient]]:
        server = loop.run(TandemServer.start(CONFIG.model_copy(update=settings), workspace))
        try:
            with TandemClient(server.address, timeout_s=60) as client:
                yield server, client
        finally:
            loop.run(server.stop())

    return run


@pytest.fixture(scope="session")
def shared_server(store: Workspace, serving, tmp_path_factory) -> Iterator[tuple[TandemServer, TandemClient]]:
    """One server for all tests that leave it as it was; its history store takes events of ever new shoppers."""
    with serving(store, history_path=str(tmp_path_factory.mktemp("histories") / "history.sqlite3")) as running:
        yield running


@pytest.fixture
def client(shared_server) -> TandemClient:
    return shared_server[1]


@pytest.fixture
def address(shared_server) -> str:
    return shared_server[0].address


@pytest.fixture(scope="module")
def channel(shared_server):
    with grpc.insecure_channel(shared_server[0].address) as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return search_pb2_grpc.SearchServiceStub(channel)


@pytest.fixture
def shopper() -> str:
    """An id that no other test uses."""
    return f"shopper-{next(numbers)}"


@pytest.fixture
def runtime_config() -> ServerConfig:
    """What ``runtime`` runs the models by; for tests to override."""
    return CONFIG


@pytest.fixture
def runtime(runtime_config: ServerConfig) -> Iterator[ModelRuntime]:
    """Owners of the models, without a server."""
    runtime = ModelRuntime(runtime_config)
    yield runtime
    runtime.close()


@pytest.fixture
def served(runtime: ModelRuntime, bundle: Bundle) -> Bundle:
    """The bundle, run by these owners."""
    return runtime.take(bundle)
