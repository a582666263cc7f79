import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from corpus.errors import GateRefused, VersionNotFound
from corpus.items import ItemTable
from corpus.prepared import Prepared
from indexer import gate
from indexer.build import build_bundle
from indexer.bundle import open_bundle
from indexer.config import GateConfig
from indexer.gate import Measured, checks_against, checks_alone, judge
from indexer.publish import current_version, publish, rollback
from indexer.slices import TrainingTraffic
from indexer.systems import retrieve
from rerank.reranker import Reranked
from tests.indexer.small_models import BUILD, RERANKER, RETRIEVER, copy_of

CONFIG = GateConfig(least_queries=1)


@pytest.fixture(scope="module")
def two_bundles(built_workspace, tmp_path_factory):
    """A store with v1 and v2: the same, and both with a second stage that never learned anything. Read only."""
    workspace = copy_of(built_workspace[0], tmp_path_factory.mktemp("gate") / "store")
    build_bundle(workspace, RETRIEVER, RERANKER, BUILD)
    return workspace


@pytest.fixture
def store(two_bundles, tmp_path):
    return copy_of(two_bundles, tmp_path / "store")


class Knowing:
    """A second stage that puts the right item on top: always, or for shoppers with or without a history only."""

    blend = None

    def __init__(self, prepared: Prepared, *, known: bool = True, anonymous: bool = True) -> None:
        self.answers: dict[str, set[int]] = {}
        for example in prepared.examples("valid"):
            self.answers.setdefault(example.query, set()).update(label.row for label in example.labels)
        self.known, self.anonymous = known, anonymous

    def rerank(self, query, history, candidates, *, depth=None, deadline=None):
        knows = self.known if history else self.anonymous
        right = np.isin(candidates.rows, list(self.answers[query]))
        order = np.argsort(~right if knows else right, kind="stable")
        n = len(candidates)
        return Reranked(
            order=order,
            scores=candidates.scores,
            rerank_scores=candidates.scores,
            probabilities=np.full((n, 3), np.nan, dtype=np.float32),
            n_scored=n,
            degraded=None,
        )


@pytest.fixture
def serve_with(store, monkeypatch):
    """Let bundles answer with other second stages: ``serve_with(v1=…, v2=…)``."""

    def replace_rerankers(**rerankers) -> None:
        def opened(folder):
            bundle = open_bundle(folder)
            return replace(bundle, reranker=rerankers.get(folder.name, bundle.reranker))

        monkeypatch.setattr(gate, "open_bundle", opened)

    return replace_rerankers


def failed(outcome) -> list[str]:
    return [check.question for check in outcome.checks if not check.passed]


def published_lines(store) -> list[dict]:
    path = store.bundles / "publications.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_second_stage_that_loses_to_the_first_is_refused(store):
    outcome = judge(store, "v1", CONFIG)
    assert (outcome.version, outcome.served, outcome.verdict) == ("v1", None, "refused")
    assert "two stages against one" in failed(outcome)
    assert outcome.checks[0].n_queries == len(Prepared(store.data).examples("valid", part="judging")) > 5
    assert "nothing is in service to compare with" in outcome.notes
    with pytest.raises(GateRefused, match=r"two stages against one: -\.\d+ .*--force --reason"):
        publish(store.bundles, "v1", gate=outcome)
    assert current_version(store.bundles) is None
    assert published_lines(store) == []


def test_a_handful_of_searches_tells_nothing(store):
    n_searches = len(Prepared(store.data).examples("valid", part="judging"))
    outcome = judge(store, "v1", GateConfig(least_queries=n_searches + 1))
    assert (outcome.verdict, outcome.checks) == ("skipped", ())
    assert outcome.notes == (
        f"{n_searches} validation searches have an answer; gate.least_queries is {n_searches + 1}",
    )


def test_a_first_bundle_passes_by_its_own_merits_and_the_line_keeps_what_the_gate_found(store, serve_with):
    serve_with(v1=Knowing(Prepared(store.data)))
    outcome = judge(store, "v1", CONFIG)
    assert (outcome.verdict, [check.question for check in outcome.checks]) == (
        "passed",
        ["two stages against one", "reading the history against not"],
    )
    publish(store.bundles, "v1", gate=outcome)
    assert current_version(store.bundles) == "v1"
    (line,) = published_lines(store)
    assert (line["action"], line["version"], line["parent"], line["reason"]) == ("publish", "v1", None, None)
    assert line["gate"]["verdict"] == "passed"
    assert line["gate"]["checks"][0]["difference"]["high"] > 0


def test_every_change_of_what_is_served_gets_a_line_and_nothing_else_does(store):
    publish(store.bundles, "v1", reason="the gate was down")
    publish(store.bundles, "v1", reason="again")  # changes nothing
    publish(store.bundles, "v2")
    rollback(store.bundles)
    lines = published_lines(store)
    assert [(line["action"], line["version"], line["parent"]) for line in lines] == [
        ("publish", "v1", None),
        ("publish", "v2", "v1"),
        ("rollback", "v1", "v2"),
    ]
    assert lines[0]["reason"] == "the gate was down"
    assert [line["gate"] for line in lines] == [None] * 3
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_a_candidate_that_answers_as_the_bundle_in_service_does_passes(store, serve_with):
    knowing = Knowing(Prepared(store.data))
    serve_with(v1=knowing, v2=knowing)
    publish(store.bundles, "v1")
    outcome = judge(store, None, CONFIG)
    assert (outcome.version, outcome.served, outcome.verdict) == ("v2", "v1", "passed")
    against = [check for check in outcome.checks if "in service" in check.question]
    assert {check.question.split(",")[0] for check in against} >= {"no history", "slice 'all'", "slice 'tail'"}
    assert all(check.difference.value == check.difference.low == check.difference.high == 0 for check in against)


def test_anonymous_shoppers_who_lose_are_enough_to_refuse(store, serve_with):
    prepared = Prepared(store.data)
    serve_with(v1=Knowing(prepared), v2=Knowing(prepared, anonymous=False))
    publish(store.bundles, "v1")
    outcome = judge(store, "v2", CONFIG)
    assert "no history, against the bundle in service" in failed(outcome)
    assert "slice 'no history', against the bundle in service" in failed(outcome)
    assert "slice '4+ events', against the bundle in service" not in failed(outcome)


def test_a_history_that_is_read_to_the_shoppers_loss_is_refused(store, serve_with):
    serve_with(v1=Knowing(Prepared(store.data), known=False))
    outcome = judge(store, "v1", CONFIG)
    assert "reading the history against not" in failed(outcome)


def test_the_sample_is_bounded_and_the_same_for_every_candidate(store, serve_with):
    knowing = Knowing(Prepared(store.data))
    serve_with(v1=knowing, v2=knowing)
    first, second = (judge(store, version, GateConfig(queries=5, least_queries=1)) for version in ("v1", "v2"))
    assert first.checks[0].n_queries == 5
    assert first.checks == second.checks


def test_nothing_that_a_blend_was_fitted_on_is_asked(store, monkeypatch):
    asked = []

    def watch(examples, bundle, **settings):
        asked.extend(examples)
        return retrieve(examples, bundle, **settings)

    monkeypatch.setattr(gate, "retrieve", watch)
    judge(store, "v1", CONFIG)
    fitted = {example.query_id for example in Prepared(store.data).examples("valid", part="fitting")}
    assert asked
    assert fitted
    assert not fitted & {example.query_id for example in asked}


def test_the_searches_own_answers_are_unknown_to_whom_they_judge(store, monkeypatch):
    """A bundle is built of all choices, those of the validation split included."""
    prepared, asked = Prepared(store.data), []

    def watch(examples, bundle, **settings):
        asked.append(bundle)
        return retrieve(examples, bundle, **settings)

    monkeypatch.setattr(gate, "retrieve", watch)
    publish(store.bundles, "v1")
    judge(store, "v2", CONFIG)
    known = prepared.pairs("train")
    want = np.bincount(known.row, known.weight, minlength=60)
    assert len(asked) == 2
    for bundle in asked:
        np.testing.assert_allclose(bundle.behaviour.popularity, want, rtol=1e-5)
        assert bundle.retriever.query_log is bundle.behaviour.queries


def test_a_bundle_without_a_reranker_is_compared_by_its_first_stage(store, serve_with):
    serve_with(v1=None)
    outcome = judge(store, "v1", CONFIG)
    assert (outcome.verdict, outcome.checks) == ("passed", ())
    assert any("no reranker" in note for note in outcome.notes)


def test_a_broken_bundle_in_service_does_not_stop_the_next_one(store, serve_with):
    serve_with(v2=Knowing(Prepared(store.data)))
    publish(store.bundles, "v1")
    (store.bundles / "v1" / "vectors.npy").write_bytes(b"")
    outcome = judge(store, "v2", CONFIG)
    assert (outcome.verdict, outcome.served) == ("passed", None)
    assert any("v1, which is in service, cannot be opened" in note for note in outcome.notes)


def test_what_is_in_service_already_is_not_measured(store):
    publish(store.bundles, "v1")
    outcome = judge(store, "v1", CONFIG)
    assert (outcome.verdict, outcome.notes) == ("skipped", ("it is in service already",))


def test_a_host_without_prepared_data_publishes_with_a_note(store):
    shutil.rmtree(store.data)
    outcome = judge(store, "v1", CONFIG)
    assert outcome.verdict == "skipped"
    assert "no prepared data" in outcome.notes[0]
    assert publish(store.bundles, "v1", gate=outcome) == "v1"
    assert published_lines(store)[0]["gate"]["verdict"] == "skipped"


def test_a_store_without_validation_searches_publishes_with_a_note(store):
    path = store.data / "examples.parquet"
    pl.read_parquet(path).filter(pl.col("split") != "valid").write_parquet(path)
    outcome = judge(store, "v1", CONFIG)
    assert (outcome.verdict, outcome.notes) == ("skipped", ("no validation search has an answer",))


def test_data_that_the_candidate_was_not_built_from_are_refused(store):
    path = store.data / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "fingerprint": "f" * 64}))
    with pytest.raises(GateRefused, match="prepared data"):
        judge(store, "v1", CONFIG)


def test_an_unknown_version_is_not_judged(store):
    with pytest.raises(VersionNotFound, match="v9"):
        judge(store, "v9", CONFIG)


def test_rows_of_another_catalogue_are_compared_by_item_id(store):
    prepared = Prepared(store.data)
    bundle = open_bundle(store.bundles / "v1")
    frame = prepared.items.frame
    other = replace(bundle, items=ItemTable(pl.concat([frame[5:8], frame[:1].with_columns(item_id=pl.lit("gone"))])))
    run = gate._in_rows_of(prepared, other, {"q": [3, 2, 0]})
    assert run["q"][1:] == [7, 5]
    assert run["q"][0] < 0  # keeps its place, answers nothing


def measured(with_history, anonymous=None, one_stage=None) -> Measured:
    values = [np.asarray(v if v is not None else with_history, dtype=np.float32) for v in (one_stage, anonymous)]
    return Measured(
        one_stage=values[0],
        anonymous=values[1],
        with_history=np.asarray(with_history, dtype=np.float32),
        has_reranker=True,
    )


@pytest.mark.parametrize(
    ("gains", "passed"),
    [
        ([0.1] * 48, True),
        ([0.5, -0.3] * 24, True),  # a gain within noise is a gain
        ([0.3, -0.5] * 24, False),  # a loss within noise is none
        ([0.0] * 48, False),  # nothing changed: the time was for nothing
        ([-0.1] * 48, False),
    ],
)
def test_two_stages_must_beat_one(tiny_prepared, gains, passed):
    examples = tiny_prepared.examples("valid")
    first = np.full(48, 0.5)
    check = next(checks_alone(measured(first + gains, one_stage=first), examples, []))
    assert check.passed is passed
    assert check.difference.value == pytest.approx(np.mean(gains), abs=1e-6)


@pytest.mark.parametrize(("loss", "passed"), [(0.019, True), (0.021, False)])
def test_a_slice_may_lose_no_more_than_the_margin(tiny_prepared, loss, passed):
    examples = tiny_prepared.examples("valid")
    traffic = TrainingTraffic(tiny_prepared.examples("train"))
    tail = np.array([traffic.frequency(example.query) == "tail" for example in examples])
    before = np.full(48, 0.5)
    after = before - loss * tail
    checks = list(checks_against(measured(after, before), measured(before), examples, traffic, CONFIG))
    by_question = {check.question: check for check in checks}
    assert by_question["slice 'tail', against the bundle in service"].passed is passed
    assert by_question["slice 'tail', against the bundle in service"].n_queries == tail.sum()
    assert by_question["slice 'head', against the bundle in service"].passed
    assert by_question["no history, against the bundle in service"].passed


def test_a_slice_that_loses_within_noise_passes(tiny_prepared):
    examples = tiny_prepared.examples("valid")
    before = np.full(48, 0.5)
    after = before + np.tile([0.4, -0.5], 24)
    checks = list(checks_against(measured(after, before), measured(before), examples, TrainingTraffic([]), CONFIG))
    everything = next(check for check in checks if "'all'" in check.question)
    assert everything.difference.value == pytest.approx(-0.05, abs=1e-6)
    assert everything.passed
