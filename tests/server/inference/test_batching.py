"""Both models under their owners, with the models and indexes of a real bundle."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import grpc
import numpy as np
import pytest

from corpus.errors import ArtefactError, DeadlineExceeded
from indexer.bundle import Bundle
from rerank.reranker import DEADLINE
from rerank.scorer import Pairs
from server.config import ServerConfig
from server.histories.contract import Histories
from server.inference.model_owner import ModelOwner
from server.inference.model_runtime import ModelRuntime
from server.inference.pace import LEAST_S, N_RECENT
from server.pb.tandem.search.v1 import search_pb2 as pb
from server.pb.tandem.search.v1 import search_pb2_grpc
from server.pipeline import Pipeline
from server.stages.ranking import Run, SearchTask, as_present
from tests.server.callers import Nobody
from tests.server.conftest import CONFIG
from tests.server.gates import QUERY, eventually
from tests.server.scraping import scrape, value

QUERIES = ["red acme shoe", "steel pan", "blue hose", "turntable", "rose pot", "kiri mug", "green rake", "acme boot"]


@pytest.fixture
def runtime_config() -> ServerConfig:
    """Without caches, so that every search asks the models."""
    return CONFIG.model_copy(update={"query_cache_mib": 0, "score_cache_mib": 0})


class Hold:
    """Keeps an owner from its next run until it is let go."""

    def __init__(self, owner: ModelOwner) -> None:
        self._owner = owner
        self._go = threading.Event()
        self._entered = threading.Event()
        self._thread = threading.Thread(target=lambda: owner.ask(self, None, n_inputs=1, n_tokens=1))
        self._thread.start()
        assert self._entered.wait(60)

    def run(self, asked: list[None]) -> list[None]:
        self._entered.set()
        assert self._go.wait(60)
        return asked

    def let_go_when(self, n_waiting: int) -> None:
        eventually(lambda: self._owner.n_waiting == n_waiting)
        self._go.set()
        self._thread.join()


def at_once(runtime: ModelRuntime, works: list[Callable[[], object]]) -> list[Future]:
    """Let several searches do something, each on a thread of its own."""

    def begin(work: Callable[[], object]) -> object:
        with as_present(Run(deadline=time.monotonic() + 60)):
            return work()

    return [runtime.threads.submit(begin, work) for work in works]


def pairs_of(bundle: Bundle, query: str, rows: list[int]) -> Pairs:
    reranker = bundle.reranker
    assert reranker is not None
    return reranker.pairs(reranker._prefix(query, ()), np.array(rows, dtype=np.int64))


def test_queries_of_several_searches_are_embedded_together_as_they_would_be_alone(runtime, served, bundle):
    alone = [bundle.retriever.encode(query) for query in QUERIES]
    hold = Hold(runtime.encoder)
    found = at_once(runtime, [lambda query=query: served.retriever.encode(query) for query in QUERIES])
    hold.let_go_when(len(QUERIES))
    for future, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(future.result(60), expected, atol=1e-5)
    assert runtime.encoder.sizes == {1: 1, len(QUERIES): 1}


def test_pairs_of_several_searches_are_read_together_as_they_would_be_alone(runtime, served, bundle):
    sets = [pairs_of(bundle, query, list(range(n, 3 * n + 2))) for n, query in enumerate(QUERIES)]
    alone = [bundle.reranker.scorer.heads(pairs) for pairs in sets]
    hold = Hold(runtime.reranker)
    found = at_once(runtime, [lambda pairs=pairs: served.reranker.scorer.heads(pairs) for pairs in sets])
    hold.let_go_when(len(sets))
    for future, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(future.result(60), expected, atol=1e-5)
    assert runtime.reranker.sizes == {1: 1, sum(len(pairs.passages) for pairs in sets): 1}


def test_what_is_not_the_models_business_is_the_wrapped_ones(served, bundle):
    scorer, wrapped = served.reranker.scorer, bundle.reranker.scorer
    logits = np.array([[0.5, -1.0, 2.0], [0.0, 1.0, -2.0]], dtype=np.float32)
    np.testing.assert_array_equal(scorer.ranking_values(logits), wrapped.ranking_values(logits))
    np.testing.assert_array_equal(scorer.probabilities(logits), wrapped.probabilities(logits))
    pairs = pairs_of(bundle, QUERY, [3, 4, 5])
    np.testing.assert_array_equal(scorer.batch(pairs, [2, 0]).input_ids, wrapped.batch(pairs, [2, 0]).input_ids)
    encoder, plain = served.retriever.encoder, bundle.retriever.encoder
    assert (encoder.dim, encoder.fingerprint) == (plain.dim, plain.fingerprint)
    assert encoder.encode([]).shape == (0, plain.dim)
    other = encoder.reading(plain.info.model_copy(update={"max_tokens": 5}), token_budget=64)
    np.testing.assert_allclose(other.encode([QUERY]), plain.encode([QUERY]), atol=1e-5)


def test_a_model_that_fails_on_one_batch_fails_its_searches_alone(runtime, served, bundle, monkeypatch):
    run = bundle.retriever.encoder._engine.run
    shapes: list[int] = []

    def failing(input_ids, attention_mask, token_type_ids):
        shapes.append(len(input_ids))
        if len(shapes) == 1:
            raise ArtefactError("the exported model failed")
        return run(input_ids, attention_mask, token_type_ids)

    monkeypatch.setattr(bundle.retriever.encoder._engine, "run", failing)
    hold = Hold(runtime.encoder)
    found = at_once(runtime, [lambda query=query: served.retriever.encode(query) for query in QUERIES[:3]])
    hold.let_go_when(3)
    for future in found:
        with pytest.raises(ArtefactError, match="the exported model failed"):
            future.result(60)
    assert np.isfinite(served.retriever.encode("steel pan")).all()


def test_reading_that_is_not_done_by_its_deadline_is_not_waited_for(runtime, served):
    hold = Hold(runtime.reranker)
    candidates = served.retriever.retrieve(QUERY, 60)
    began = time.monotonic()
    with as_present(Run(deadline=began + 60)):
        answer = served.reranker.rerank(QUERY, (), candidates, depth=30, deadline=began + 0.2)
    assert time.monotonic() - began < 30
    hold.let_go_when(1)
    assert (answer.degraded, answer.n_scored) == (DEADLINE, 0)


@pytest.mark.pace
def test_slowness_of_a_model_is_measured_by_runs_that_made_sense(served, bundle, monkeypatch):
    scorer = served.reranker.scorer
    heads = bundle.reranker.scorer.heads
    pairs = pairs_of(bundle, QUERY, list(range(10)))

    def run(answer: Callable[[Pairs], np.ndarray]) -> float:
        monkeypatch.setattr(bundle.reranker.scorer, "heads", answer)
        for _ in range(N_RECENT):
            scorer.heads(pairs)
        return scorer.patience_s(pairs.n_tokens)

    def slowly(asked: Pairs) -> np.ndarray:
        time.sleep(0.3)
        return heads(asked)

    assert run(lambda asked: np.full((len(asked.passages), 3), np.nan, dtype=np.float32)) == math.inf  # at once
    assert run(heads) == math.inf
    assert LEAST_S <= run(slowly) < 0.3
    assert run(heads) == math.inf


def task(query: str) -> SearchTask:
    return SearchTask(query=query, retrieval_depth=40, rerank_depth=30)


def test_whole_searches_side_by_side_answer_as_alone(runtime, served, bundle):
    """Also what has no owner is safe for several threads: tantivy, FAISS, the trees, the sets of rows."""
    histories: Histories = Nobody()  # type: ignore[assignment]
    alone = {query: Pipeline(bundle, histories).search(task(query), Run(deadline=1e12)) for query in QUERIES}
    pipeline = Pipeline(served, histories)
    wrong: list[object] = []

    def work(number: int) -> None:
        for step in range(12):
            query = QUERIES[(number + step) % len(QUERIES)]
            with as_present(run := Run(deadline=time.monotonic() + 60)):
                window = pipeline.search(task(query), run)
            expected = alone[query]
            same = window.ranking.rows.tolist() == expected.ranking.rows.tolist()
            if not same or not np.allclose(window.ranking.scores, expected.ranking.scores, atol=1e-5) or run.degraded:
                wrong.append((query, run.degraded))

    for future in [runtime.threads.submit(work, number) for number in range(8)]:
        future.result(60)
    assert wrong == []
    assert sum(size * n for size, n in runtime.reranker.sizes.items()) == 8 * 12 * 30
    assert sum(size * n for size, n in runtime.encoder.sizes.items()) == 8 * 12


def test_a_search_whose_time_is_up_in_the_line_keeps_what_was_read_and_says_so(runtime, served):
    reranker = served.reranker
    candidates = served.retriever.retrieve(QUERY, 60)
    hold = Hold(runtime.reranker)
    with as_present(Run(deadline=time.monotonic() + 0.2)):
        answer = reranker.rerank(QUERY, (), candidates, depth=30, deadline=time.monotonic() + 60)
    hold.let_go_when(1)
    assert (answer.degraded, answer.n_scored) == (DEADLINE, 0)
    eventually(lambda: runtime.reranker.n_expired == 1)
    assert runtime.reranker.sizes == {1: 1}  # the hold's own


def test_a_search_without_time_for_its_embedding_is_not_answered(runtime, served):
    hold = Hold(runtime.encoder)
    run = Run(deadline=time.monotonic() + 0.2)
    with as_present(run), pytest.raises(DeadlineExceeded):
        Pipeline(served, Nobody()).search(task(QUERY), run)  # type: ignore[arg-type]
    hold.let_go_when(1)
    eventually(lambda: runtime.encoder.n_expired == 1)


def test_a_caller_who_hangs_up_frees_the_thread_that_waits_for_a_model(store, serving, tmp_path):
    with (
        serving(store, search_threads=1, reserve_ms=1500.0, history_path=str(tmp_path / "h")) as (server, client),
        grpc.insecure_channel(server.address) as channel,
    ):
        owner = server._runtime.reranker
        runs_before = dict(owner.sizes)
        hold = Hold(owner)
        stub = search_pb2_grpc.SearchServiceStub(channel)
        call = stub.Search.future(pb.SearchRequest(query=QUERY), timeout=60)
        eventually(lambda: owner.n_waiting == 1)
        call.cancel()
        eventually(lambda: server._runtime.threads.n_running == 0)  # though the model is still held
        answer = stub.Search(pb.SearchRequest(query="hose"), timeout=2.5)
        assert [each.reason for each in answer.degraded] == [pb.DEGRADATION_REASON_DEADLINE]
        hold.let_go_when(2)
        eventually(lambda: owner.n_waiting == 0)
        assert (owner.n_cancelled, owner.n_expired) == (1, 1)
        assert sum(owner.sizes.values()) == sum(runs_before.values()) + 1
        assert len(client.search("rake").results) == 10


def test_a_batch_of_searches_is_embedded_in_one_run_and_answered_as_alone(store, serving, tmp_path):
    texts = [*QUERIES, *(f"{colour} {kind}" for colour in ("red", "blue") for kind in ("sandal", "mug", "hose"))]
    with serving(store, history_path=str(tmp_path / "alone")) as (_, client):
        alone = [[hit.item.item_id for hit in client.search(text).results] for text in texts]
    with serving(store, history_path=str(tmp_path / "batch")) as (server, client):
        batch = client.batch_search([*((text, {}) for text in texts), (QUERY, {}), ("", {})])
        assert [[hit.item.item_id for hit in found.results] for found in batch[: len(texts)]] == alone
        assert server._runtime.encoder.sizes == {len(set(texts)): 1}


def test_a_batch_that_cannot_be_embedded_ahead_fails_each_search_by_itself(store, serving, tmp_path, monkeypatch):
    with serving(store, history_path=str(tmp_path / "h")) as (server, client):
        client.search(QUERY)  # whose embedding is known
        engine = server._built.bundle.retriever.encoder._encoder._engine
        monkeypatch.setattr(engine, "run", lambda *_: 1 / 0)
        known, unknown = client.batch_search([(QUERY, {}), ("steel pan", {})])
        assert len(known.results) == 10
        assert unknown.code == grpc.StatusCode.INTERNAL.value[0]


def test_embedding_a_batch_ahead_says_nothing_about_the_pace_of_searches(store, serving, tmp_path, monkeypatch):
    with serving(store, history_path=str(tmp_path / "h")) as (server, client):
        searches = server._service.queues["search"]
        with monkeypatch.context() as patch:
            patch.setattr(server._service.pipeline, "search", lambda *_: 1 / 0)  # what fails tells no pace
            client.batch_search([("steel pan", {}), ("blue hose", {})])
        assert server._runtime.encoder.sizes == {2: 1}
        assert searches._pace_s is None
        client.batch_search([(QUERY, {})])
        assert searches._pace_s is not None


def test_a_wedged_model_is_seen_though_no_search_waits_for_it(own_store, serving):
    with serving(own_store, search_threads=1) as (server, _):
        hold = Hold(server._runtime.encoder)
        eventually(lambda: value(scrape(server), "tandem_model_busy_seconds") > 0)
        assert server._runtime.threads.busy_s == 0
        hold.let_go_when(0)
        eventually(lambda: server._runtime.busy_s == 0)
