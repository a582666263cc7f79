"""What the models said before: by itself, and in front of the models of a real bundle."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from corpus.events import EventType, HistoryEvent
from indexer.bundle import Bundle
from indexer.live_bundle import LiveBundle
from rerank.scorer import Pairs
from server.inference.caches import ENTRY_BYTES, Cache, PairKeys
from server.inference.model_runtime import ModelRuntime
from server.pipeline import Pipeline
from server.stages.ranking import RankedWindow, Run, SearchTask, as_present
from tests.server.callers import Nobody
from tests.server.conftest import CONFIG
from tests.server.gates import QUERY

DEPTH = 20
SIZE = ENTRY_BYTES + 1 + 12  # of a key of one character and three float32


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def test_the_one_that_was_asked_for_longest_ago_goes_first():
    cache: Cache[str] = Cache("some", 3 * SIZE)
    cache.keep({"a": array(1, 1, 1), "b": array(2, 2, 2), "c": array(3, 3, 3)})
    assert cache.size_bytes == 3 * SIZE
    assert cache.find(["a"])[0] is not None
    cache.keep({"d": array(4, 4, 4)})
    found = dict(zip("abcd", cache.find("abcd"), strict=True))
    assert [key for key, kept in found.items() if kept is None] == ["b"]
    assert found["d"].tolist() == [4, 4, 4]
    assert (cache.n_hits, cache.n_misses, cache.size_bytes) == (4, 1, 3 * SIZE)


def test_what_is_kept_again_counts_once():
    cache: Cache[str] = Cache("some", 3 * SIZE)
    for number in (1, 2):
        cache.keep({"a": array(number, number, number)})
    assert cache.find(["a"])[0].tolist() == [2, 2, 2]
    assert cache.size_bytes == SIZE


def test_what_is_kept_is_a_copy_that_nobody_changes():
    cache: Cache[str] = Cache("some", 3 * SIZE)
    mine = array(1, 2, 3)
    cache.keep({"a": mine})
    mine[0] = 9
    kept = cache.find(["a"])[0]
    assert kept.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 9


@pytest.mark.parametrize("max_bytes", [0, SIZE - 1])
def test_without_room_nothing_is_kept(max_bytes):
    cache: Cache[str] = Cache("some", max_bytes)
    cache.keep({"a": array(1, 2, 3)})
    assert cache.find(["a"]) == [None]
    assert cache.size_bytes == 0
    assert cache.is_on == (max_bytes > 0)


def test_a_pairs_key_is_its_tokens_where_they_belong_and_its_model():
    def key(model: str, prefix: list[int], passage: list[int]) -> bytes:
        tokens = [np.array(ids, dtype=np.int32) for ids in (prefix, passage)]
        return PairKeys(model).of(Pairs(prefixes=[tokens[0]], passages=[tokens[1]]))[0]

    keys = [
        key("m", [1, 2], [3]),
        key("m", [1], [2, 3]),
        key("m", [1, 2], [4]),
        key("n", [1, 2], [3]),
        key("m", [], []),
    ]
    assert len(set(keys)) == 5
    assert key("m", [1, 2], [3]) == keys[0]
    prefix, other = np.array([1, 2], dtype=np.int32), np.array([1], dtype=np.int32)
    passages = [np.array(ids, dtype=np.int32) for ids in ([3], [2, 3], [4])]
    assert PairKeys("m").of(Pairs(prefixes=[prefix, other, prefix], passages=passages)) == keys[:3]


def search(bundle: Bundle, *history: HistoryEvent, query: str = QUERY) -> RankedWindow:
    run = Run(deadline=time.monotonic() + 60)
    task = SearchTask(query=query, retrieval_depth=40, rerank_depth=DEPTH, events=history)
    with as_present(run):
        window = Pipeline(bundle, Nobody()).search(task, run)  # type: ignore[arg-type]
    assert run.degraded == []
    return window


def n_read(runtime: ModelRuntime) -> tuple[int, int]:
    """Return how many queries and how many pairs went through the models."""
    encoded, read = (sum(size * n for size, n in owner.sizes.items()) for owner in runtime)
    return encoded, read


def test_a_repeated_search_asks_no_model_and_is_answered_alike(runtime, served, bundle):
    first, second = search(served), search(served)
    assert n_read(runtime) == (1, DEPTH)
    np.testing.assert_array_equal(first.ranking.rows, second.ranking.rows)
    np.testing.assert_array_equal(first.ranking.scores, second.ranking.scores)
    plain = search(bundle)
    np.testing.assert_array_equal(first.ranking.rows, plain.ranking.rows)
    np.testing.assert_allclose(first.ranking.scores, plain.ranking.scores, atol=1e-5)
    embeddings, scores = runtime.caches
    assert (embeddings.n_hits, embeddings.n_misses) == (1, 1)
    assert (scores.n_hits, scores.n_misses) == (DEPTH, DEPTH)


def test_queries_of_a_batch_are_embedded_once_each_and_put_where_they_belong(runtime, served, bundle):
    served.retriever.encode("hose")
    texts = ["steel pan", "hose", "steel pan", "rake"]
    np.testing.assert_allclose(
        served.retriever.encoder.encode(texts), bundle.retriever.encoder.encode(texts), atol=1e-5
    )
    assert n_read(runtime)[0] == 3


def test_another_history_is_read_anew(runtime, served, bundle):
    event = HistoryEvent(
        timestamp=datetime(2026, 3, 1, tzinfo=UTC), type=EventType.PURCHASE, item_id="i-03", query=None
    )
    strangers, theirs = search(served), search(served, event)
    assert n_read(runtime) == (1, 2 * DEPTH)
    expected = search(bundle, event)
    np.testing.assert_allclose(theirs.ranking.scores, expected.ranking.scores, atol=1e-5)
    assert not np.allclose(theirs.ranking.scores, strangers.ranking.scores, atol=1e-5)


def test_an_item_whose_text_changed_is_read_anew_and_no_other_one(runtime, served):
    before = search(served)
    live = LiveBundle.of(served)
    row = int(before.ranking.rows[0])
    item = replace(served.items.item(row), title=f"green {served.items.item(row).title}")
    vector = served.retriever.vectors_of(np.array([row]))[0]
    live = live.with_changes({item.item_id: item}, (), {item.item_id: vector})
    after = search(live.bundle)
    asked = n_read(runtime)
    assert asked[0] == 1
    assert 1 <= asked[1] - DEPTH <= 3  # and what came into the first so many in its stead
    place = after.ranking.rows.tolist().index(row)
    assert after.ranking.rerank[place] != before.ranking.rerank[0]
    reranker = live.bundle.reranker
    assert reranker is not None
    assert reranker.score(QUERY, (), np.array([row]))[0] == pytest.approx(after.ranking.rerank[place], abs=1e-5)
    priced = live.with_changes({item.item_id: replace(item, price=3.0)}, (), {})  # of which the model reads nothing
    already = n_read(runtime)
    search(priced.bundle)
    assert n_read(runtime) == already


def test_a_bundle_with_another_model_is_read_anew_and_one_with_the_same_is_not(runtime, served, bundle):
    search(served)
    manifest = bundle.manifest
    search(runtime.take(replace(bundle, manifest=manifest.model_copy(update={"version": "v2"}))))
    assert n_read(runtime) == (1, DEPTH)
    name = "reranker/openvino_model.bin"
    entry = manifest.files[name].model_copy(update={"sha256": "0" * 64})
    files = {**manifest.files, name: entry}
    search(runtime.take(replace(bundle, manifest=manifest.model_copy(update={"files": files}))))
    assert n_read(runtime) == (1, 2 * DEPTH)
    encoder = bundle.retriever.encoder
    info = encoder.info.model_copy(update={"fingerprint": "another"})
    other = replace(bundle, retriever=bundle.retriever.with_encoder(encoder.reading(info, token_budget=256)))
    search(runtime.take(other))
    assert n_read(runtime) == (2, 2 * DEPTH)


def test_what_a_broken_model_says_is_not_kept(runtime, served, bundle, monkeypatch):
    run = bundle.reranker.scorer.engine.run
    monkeypatch.setattr(bundle.reranker.scorer.engine, "run", lambda *arrays: run(*arrays) * np.nan)
    reranker, candidates = served.reranker, served.retriever.retrieve(QUERY, 40)
    assert reranker.rerank(QUERY, (), candidates, depth=DEPTH).degraded is not None
    monkeypatch.undo()
    assert reranker.rerank(QUERY, (), candidates, depth=DEPTH).degraded is None
    assert n_read(runtime)[1] == 2 * DEPTH


def test_caches_that_are_off_ask_the_models_every_time(bundle):
    runtime = ModelRuntime(CONFIG.model_copy(update={"query_cache_mib": 0, "score_cache_mib": 0}))
    try:
        served = runtime.take(bundle)
        search(served)
        search(served)
        assert n_read(runtime) == (2, 2 * DEPTH)
        assert [(cache.n_hits, cache.n_misses) for cache in runtime.caches] == [(0, 0), (0, 0)]
    finally:
        runtime.close()
