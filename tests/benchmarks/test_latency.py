import json

import numpy as np
import pytest

from benchmarks import latency as benchmark
from benchmarks import latency_cases
from benchmarks.latency import Plan
from benchmarks.latency_cases import Shape, by_turns, make_case, ratios
from benchmarks.latency_catalogue import serving_store
from benchmarks.latency_floor import Peaks, floors, flops
from benchmarks.latency_models import open_models
from benchmarks.latency_quality import measure_determinism
from benchmarks.latency_report import latency_markdown
from benchmarks.latency_served import Asks, throughput
from benchmarks.peers.plain_stack import PlainStack
from corpus.errors import ConfigError
from corpus.workspace import Workspace
from indexer.bundle import open_bundle
from rerank.scorer import PairScorer
from retrieval.arrays import FloatArray

TINY = Plan(
    rounds=2,
    candidates=(3, 6),
    tokens=(20,),
    histories=(0, 4),
    callers=(1, 2),
    searches=2,
    loop_s=0.2,
    starts=1,
    judged=4,
    judged_depth=10,
    repeated=2,
    depths=(5,),
    events=3,
)


@pytest.fixture(scope="module")
def bundle(store):
    return open_bundle(store.bundles / "v1", n_threads=1)


@pytest.fixture(scope="module")
def models(store, bundle, tmp_path_factory):
    return open_models(store, bundle, tmp_path_factory.mktemp("exported"))


def test_operations_are_those_of_the_formula():
    # 2 layers · (24 · 4² + 4 · L · 4) per token: 3 tokens · 864 + 5 tokens · 928
    assert flops(np.array([3, 5]), Shape(n_layers=2, width=4)) == 3 * 864 + 5 * 928


def test_a_floor_is_the_operations_over_the_peak_and_the_weights_over_the_bandwidth():
    peaks = Peaks(fp32=1e6, int8=4e6, bytes_per_s=1e6)
    found = floors(np.array([3, 5]), Shape(n_layers=2, width=4), peaks, n_calls=2)
    assert found == {"fp32_ms": 3.616, "int8_ms": 0.904, "read_ms": 0.384}  # 7,232 operations in 2 calls; 384 bytes
    unknown = floors(np.array([3]), Shape(n_layers=1, width=4), Peaks(fp32=1e6, int8=None, bytes_per_s=1e6), n_calls=1)
    assert "int8_ms" not in unknown


def test_everybody_has_a_turn_in_every_round_after_one_that_does_not_count(monkeypatch):
    calls, rests = [], []
    monkeypatch.setattr(latency_cases.time, "sleep", lambda seconds: rests.append((seconds, len(calls))))
    seconds = by_turns({name: lambda n, name=name: calls.append((name, n)) for name in "ab"}, rounds=2)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 2, "b": 2}
    assert rests == [(latency_cases.REST_S, n) for n in (2, 3, 4, 5)]  # before every turn that counts
    assert ratios([4.0, 9.0], [2.0, 3.0]).median == 2.5


def test_made_up_pairs_have_the_length_asked_for_and_the_texts_give_the_same_tokens(bundle, models):
    reranker = bundle.reranker
    case = make_case(reranker, "red shoe", n=40, tokens=30, rng=np.random.default_rng(0))
    assert case.lengths.mean() == pytest.approx(30, abs=2)
    assert len(set(case.lengths.tolist())) > 1
    batch = reranker.scorer.batch(case.pairs, range(40))
    told = models.plain.model.tokenizer([[case.first, text] for text in case.texts])["input_ids"]
    for line, ids in enumerate(told):
        assert batch.input_ids[line, : case.lengths[line]].tolist() == ids


def test_all_systems_give_the_same_pairs_the_same_scores(bundle, models):
    case = make_case(bundle.reranker, "blue acme sandal", n=12, tokens=24, rng=np.random.default_rng(1))
    want = models.fp32.score(case.pairs)
    np.testing.assert_allclose(models.plain.score(case.first, case.texts), want, atol=1e-4)
    np.testing.assert_allclose(models.onnx.score(case.pairs), want, atol=0.1 * np.ptp(want) + 1e-3)  # int8
    queries = ["blue acme sandal", "rake"]
    vectors = models.encoder.encode(queries)
    np.testing.assert_allclose(models.plain_encoder.encode(queries), vectors, atol=1e-4)
    assert (models.onnx_encoder.encode(queries) * vectors).sum(axis=1).min() > 0.95


def test_the_plain_stack_finds_exactly_and_reads_query_history_and_item(store, bundle, models, tiny_prepared):
    stack = PlainStack(store, store.bundles / "v1")
    example = next(e for e in tiny_prepared.examples("test") if len(e.history) > 2)
    rows, scores = stack.search(example.query, example.history, 8)
    vector = bundle.retriever.encode(example.query)
    nearest = np.argsort(-(bundle.retriever.vectors_of(np.arange(60)) @ vector), kind="stable")[:8]
    assert set(rows.tolist()) == set(nearest.tolist())
    assert (np.diff(scores) <= 0).all()
    reranker = bundle.reranker
    prefix = reranker.tokenizer.prefix(example.query, example.history, reranker.name_of, reranker.config)
    np.testing.assert_allclose(models.fp32.score(reranker.pairs(prefix, rows)), scores, atol=1e-4)


class Shaky:
    """Answers by the item alone, or by how many pairs share the batch as well."""

    def __init__(self, shake: float) -> None:
        self._shake = shake

    def run(self, input_ids, attention_mask, token_type_ids) -> FloatArray:
        value = (input_ids * token_type_ids).sum(axis=1) % 97 / 97
        value = value + self._shake * len(input_ids) * (np.arange(len(value)) % 2)
        return np.repeat(value[:, None], 3, axis=1).astype(np.float32)


@pytest.mark.parametrize("shake", [0.0, 1.0])
def test_answers_that_depend_on_the_batch_are_counted(bundle, tiny_prepared, shake):
    from benchmarks.latency_quality import judged_queries

    judged = judged_queries(bundle, tiny_prepared, n=4, seed=0)
    assert len(judged) == 4
    weights = {"click": 1.0, "cart": 0.0, "purchase": 0.0}
    scorer = PairScorer(Shaky(shake), bundle.reranker.tokenizer, weights, batch_tokens=64)
    found = measure_determinism(scorer, bundle.reranker, judged, depth=40)
    assert found["n_queries"] == 4
    assert (found["order_changed"] >= 0.5) == (found["members_changed"] >= 0.5) == (shake > 0)
    assert (found["order_changed"] == 0) == (shake == 0)
    assert (found["largest_difference"] > 0) == (shake > 0)


def test_a_larger_catalogue_serves_the_same_models_and_is_made_once(store, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval.vectors.index_choice.MOST_SCANNED", 100)
    larger = serving_store(store, "v1", tmp_path / "larger", 150, ["red shoe"], seed=0)
    opened = open_bundle(larger.bundles / "v1", n_threads=1)
    assert len(opened.items) == opened.manifest.n_items == 150
    assert opened.stage.index.kind == "hnsw"  # what a build would take, not the kind of the smaller store
    assert opened.items.ids[:60] == bundle.items.ids
    assert opened.items.ids[61] == f"{bundle.items.ids[1]}~1"
    for row in (59, 60, 149):
        np.testing.assert_array_equal(
            opened.reranker.passage_tokens.of(row), bundle.reranker.passage_tokens.of(row % 60)
        )
    assert len(opened.retriever.retrieve("red acme running shoe", 150)) == 150
    made = (larger.bundles / "v1" / "manifest.json").stat().st_mtime_ns
    assert serving_store(store, "v1", tmp_path / "larger", 150, ["red shoe"], seed=0) == larger
    assert (larger.bundles / "v1" / "manifest.json").stat().st_mtime_ns == made


def test_searches_are_new_ones_and_without_events_begin_as_titles_do(tiny_items):
    asks = Asks(["red shoe"], tiny_items, seed=0)
    drawn = asks.draw(5, n_events=3, depth=7)
    assert len({ask.events for ask in drawn}) == 5
    assert all(len(ask.events) == 3 and ask.depth == 7 for ask in drawn)
    titles = {" ".join(title.split()[:4]) for title in tiny_items.column("title")}
    assert all(ask.query in titles and not ask.events for ask in asks.draw(5, n_events=0, depth=None))


def test_throughput_counts_while_answers_are_quick():
    levels = [
        {"qps": {"median": qps}, "p99_ms": {"median": p99}} for qps, p99 in ((10.0, 90.0), (17.0, 250.0), (20.0, 251.0))
    ]
    assert throughput(levels) == 17.0
    assert throughput(levels[2:]) is None


def test_a_store_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="published bundle"):
        benchmark.measure(tmp_path, TINY, [], tmp_path / "cache")


@pytest.mark.slow
def test_a_run_measures_everything_and_writes_its_results(store: Workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmark, "QUICK", TINY)
    monkeypatch.setattr("benchmarks.index_timing.READ_BYTES", 2**20)
    benchmark.latency(store=store.root, sizes="", rounds=5, quick=True, cache=tmp_path / "cache")
    stem = tmp_path / "results" / "latency-quick"
    document = json.loads(stem.with_suffix(".json").read_text())
    assert [(row["candidates"], row["system"]) for row in document["rerank"]] == [
        (n, name) for n in (3, 6) for name in ("plain fp32", "ONNX Runtime int8", "Tandem")
    ]
    assert all(row["ms"]["median"] > row["floor"]["int8_ms"] > 0 for row in document["rerank"])
    assert document["determinism"]["fp32"]["members_changed"] == 0
    plain, *others = document["quality"]
    assert (plain["lost"], plain["overlap"], plain["same_members"]) == (0, 1, 1)
    assert [row["system"] for row in others] == ["Tandem, all read", "Tandem", "ONNX Runtime int8"]
    assert [row["system"] for row in document["cascade"]] == ["plain fp32", "Tandem, all read", "Tandem"]
    read = [row["read"] for row in document["cascade"]]
    assert read[0] == read[1] == TINY.judged_depth >= read[2] > 0
    assert document["cascade"][0]["times_faster"] == {"low": 1, "median": 1, "high": 1}
    served = document["served"]["60"]
    assert served["starts"]["ready_s"]["median"] > 0
    assert served["starts"]["torch"] is False
    assert served["plain_rss_mb"] > served["starts"]["rss_mb"]["median"]
    assert served["search"][0]["Tandem"]["n"] == TINY.rounds * TINY.searches
    assert served["stages"]["rerank"] > 0
    assert {"wait", "retrieve", "present", "transport and messages"} <= served["stages"].keys()
    assert list(served["histories"]["of"]) == ["0", "4"]
    assert list(served["depths"]["times_longer"]) == ["3 to 6"]
    assert all(level["qps"]["median"] > 0 for level in served["load"]["levels"]["Tandem"])
    assert document["machine"]["load_average_before"]
    assert stem.with_suffix(".md").read_text() == latency_markdown(document)
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
