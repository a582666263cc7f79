import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from corpus.errors import ConfigError, InputError, ModelIndexMismatch, VersionNotFound
from corpus.items import ItemTable
from corpus.prepared import EXAMPLE_SCHEMA, Prepared
from corpus.synthetic import Oracle
from indexer import systems
from indexer.bundle import open_bundle
from indexer.evaluate import EvaluationConfig, evaluate, evaluate_bundle
from indexer.report import EvaluationReport
from indexer.systems import SecondStage, Untuned
from rerank.features import FEATURES
from rerank.reranker import Reranked
from retrieval.event_log.behaviour import Behaviour
from retrieval.fusion import FusionWeights
from retrieval.metrics import MEASURES
from tests.conftest import exposure
from tests.indexer.small_models import RETRIEVER

ALL = ["random", "popularity", "popularity in query", "BM25", "untuned encoder", "tuned dense", "hybrid"]


@pytest.fixture(scope="module")
def bundle(built_workspace):
    workspace, _ = built_workspace
    return open_bundle(workspace.bundles / "v1")


@pytest.fixture(scope="module")
def report(tiny_prepared, bundle, tiny_encoder_folder, tmp_path_factory) -> EvaluationReport:
    config = RETRIEVER.model_copy(update={"base_model": str(tiny_encoder_folder)})
    untuned = Untuned(config=config, cache=tmp_path_factory.mktemp("cache"))
    return evaluate(tiny_prepared, bundle, EvaluationConfig(), untuned=untuned)


def value(report: EvaluationReport, name: str, measure: str = "MRR@10") -> float:
    return next(row.metrics[measure].value for row in report.rows if row.name == name)


def test_systems_stand_in_order_with_their_gains_over_the_row_above(report):
    assert [row.name for row in report.rows] == [*ALL, "two stages", "two stages + history"]
    assert report.rows[0].gain is None
    for above, row in zip(report.rows, report.rows[1:], strict=False):
        for measure, gain in row.gain.items():
            assert gain.value == pytest.approx(row.metrics[measure].value - above.metrics[measure].value, abs=1e-6)
            assert gain.low <= gain.value <= gain.high


def test_words_and_the_training_queries_beat_chance(report):
    assert report.n_queries == 48
    assert value(report, "BM25") > 0.8 > 0.3 > value(report, "random")
    assert value(report, "popularity in query") > 0.8
    assert value(report, "tuned dense") == pytest.approx(value(report, "untuned encoder"))  # the same tiny model


def test_the_second_stage_reorders_but_neither_adds_nor_loses_items(report):
    for measure in ("hit@100", "recall@100"):
        assert value(report, "two stages", measure) == value(report, "hybrid", measure)
    assert value(report, "two stages") != value(report, "hybrid")
    assert value(report, "two stages") != value(report, "two stages + history")


def test_systems_above_the_floors_are_compared_with_the_best_of_them_by_each_measure(report):
    floors = report.rows[:5]
    assert [row.floor_gain for row in floors] == [None] * 5
    for measure, name in report.best_floor.items():
        best = max(row.metrics[measure].value for row in floors)
        assert value(report, name, measure) == best
        for row in report.rows[5:]:
            assert row.floor_gain[measure].value == pytest.approx(row.metrics[measure].value - best, abs=1e-6)
            assert row.floor_gain[measure].low <= row.floor_gain[measure].value <= row.floor_gain[measure].high
    assert set(report.best_floor) == set(MEASURES)


def test_slices_split_the_queries_by_training_and_by_history(report, tiny_prepared):
    slices = {part.name: part for part in report.slices}
    examples = tiny_prepared.examples("test")
    seen = {example.query for example in tiny_prepared.examples("train")}
    assert sum(slices[name].n_queries for name in ("head", "torso", "tail") if name in slices) == sum(
        example.query in seen for example in examples
    )
    assert slices["no history"].n_queries == sum(not example.history for example in examples)
    assert "1-3 events" not in slices  # empty slices are left out
    anonymous = {row.name: row.metrics for row in slices["no history"].rows}
    assert anonymous["two stages"] == anonymous["two stages + history"]
    assert all(set(row.metrics) == {"MRR@10", "nDCG@10"} for part in report.slices for row in part.rows)
    n_queries, total = 0, 0.0
    for part in (slices["no history"], slices["4+ events"]):
        two = next(row for row in part.rows if row.name == "two stages")
        n_queries, total = n_queries + part.n_queries, total + part.n_queries * two.metrics["MRR@10"].value
    assert total / n_queries == pytest.approx(value(report, "two stages"))


@pytest.fixture(scope="module")
def blended(blended_workspace):
    workspace, _ = blended_workspace
    return open_bundle(workspace.bundles / "v1")


@pytest.fixture(scope="module")
def blended_report(tiny_prepared, blended) -> EvaluationReport:
    return evaluate(tiny_prepared, blended, EvaluationConfig())


def test_a_blend_adds_its_rows_below_those_of_the_same_models_without_it(blended_report, report):
    names = [row.name for row in blended_report.rows]
    assert names[-4:] == ["two stages", "two stages + history", "full chain, no history", "full chain"]
    for name in names[:-2]:
        assert value(blended_report, name) == pytest.approx(value(report, name))
    assert value(blended_report, "full chain") != value(blended_report, "two stages + history")
    assert value(blended_report, "full chain", "hit@100") == value(blended_report, "hybrid", "hit@100")
    slices = {part.name: part for part in blended_report.slices}
    anonymous = {row.name: row.metrics for row in slices["no history"].rows}
    assert anonymous["full chain"] == anonymous["full chain, no history"]


@pytest.fixture(scope="module")
def unforeseen(tiny_prepared, tmp_path_factory) -> Prepared:
    """The same store, but in the test split shoppers choose what no word and no earlier choice speaks for."""
    folder = tmp_path_factory.mktemp("unforeseen") / "data"
    shutil.copytree(tiny_prepared.folder, folder)
    rows = pl.read_parquet(folder / "examples.parquet").to_dicts()
    for row in rows:
        if row["split"] == "test":
            row["labels"] = [{**label, "row": (label["row"] + 30) % 60} for label in row["labels"]]
    pl.DataFrame(rows, schema=EXAMPLE_SCHEMA).write_parquet(folder / "examples.parquet")
    return Prepared(folder)


def test_answers_in_the_bundles_own_tables_do_not_help_it(unforeseen, blended):
    trusting = blended.retriever.with_weights(FusionWeights(dense=0.6, behaviour=0.9))
    honest = replace(blended, retriever=trusting)
    answers = unforeseen.pairs("test")
    many = replace(answers, weight=(answers.weight * 1000).astype(np.float32))
    tables = Behaviour.build(many, exposure(), trusting.encoder, blended.stage.behaviour, items=blended.items)
    cheating = honest.with_behaviour(tables)
    # the answers stand at the top of what it would serve
    first = [
        cheating.retriever.retrieve(example.query, 1).rows[0] in {label.row for label in example.labels}
        for example in unforeseen.examples("test")
    ]
    assert np.mean(first) > 0.4  # by an encoder of random weights, to which many queries look alike
    judged = evaluate(unforeseen, cheating, EvaluationConfig())
    for name in ("popularity", "popularity in query", "hybrid", "two stages", "full chain, no history", "full chain"):
        assert value(judged, name) < 0.2
    assert judged.rows == evaluate(unforeseen, honest, EvaluationConfig()).rows


@pytest.mark.parametrize(("split", "known"), [("train", ()), ("valid", ("train",)), ("test", ("train", "valid"))])
def test_the_evaluated_tables_hold_the_splits_before_alone(tiny_prepared, blended, monkeypatch, split, known):
    seen = []

    def watch(contest, examples, **_settings):
        seen.append(contest)
        yield "watched", {example.query_id: [0] for example in examples}

    monkeypatch.setattr("indexer.evaluate.runs", watch)
    evaluate(tiny_prepared, blended, EvaluationConfig(split=split))
    (contest,) = seen
    want = np.zeros(60)
    for earlier in known:
        for example in tiny_prepared.examples(earlier):
            for label in example.labels:
                want[label.row] += label.weight
    tables = contest.bundle.behaviour
    np.testing.assert_allclose(tables.popularity, want, rtol=1e-5)
    assert contest.bundle.retriever.query_log is tables.queries
    assert sorted(contest.floors.popular(60)) == np.flatnonzero(want).tolist()
    # the features of the blend read the same tables
    found = blended.retriever.retrieve("red acme running shoe", 60)
    popularity = contest.bundle.reranker.blend.features("red acme running shoe", (), found)[
        :, FEATURES.index("popularity")
    ]
    np.testing.assert_allclose(popularity, np.log1p(want)[found.rows], rtol=1e-5)


def test_a_report_survives_json_and_its_table_fits_a_terminal(report):
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    lines = report.table().splitlines()
    assert max(map(len, lines)) <= 80
    for name in ALL:
        assert any(line.startswith(name) for line in lines)
        assert f"| {name} |" in report.markdown()
    for text in (report.table(), report.markdown()):
        assert "linear" in text
        assert "MRR@10 by what training saw" in text
        assert "MRR@10 by length of history" in text
    assert "judged" not in report.table()


def test_a_seeded_sample_is_the_same_every_time(tiny_prepared, bundle):
    config = EvaluationConfig(limit=10, seed=3)
    first, second = (evaluate(tiny_prepared, bundle, config) for _ in range(2))
    assert first.n_queries == 10
    assert first.rows == second.rows


def test_a_relevant_grade_leaves_out_queries_that_nothing_answers(tiny_prepared, bundle):
    bought = sum(any(label.grade >= 2.5 for label in e.labels) for e in tiny_prepared.examples("test"))
    report = evaluate(tiny_prepared, bundle, EvaluationConfig(relevant_grade=2.5))
    assert (report.n_queries, report.n_without_answer) == (bought, 48 - bought)
    assert "relevant from grade 2.5" in report.table()
    assert f"{48 - bought} queries without a relevant item were left out" in report.markdown()


def test_no_query_with_an_answer_is_an_error(tiny_prepared, bundle):
    with pytest.raises(InputError, match="test split, found none among 48"):
        evaluate(tiny_prepared, bundle, EvaluationConfig(relevant_grade=99))


def test_rows_that_cannot_be_had_are_noted(tiny_prepared, bundle, tmp_path):
    alone = replace(bundle, reranker=None)
    missing = Untuned(config=RETRIEVER.model_copy(update={"base_model": str(tmp_path / "no")}), cache=tmp_path)
    report = evaluate(tiny_prepared, alone, EvaluationConfig(limit=5), untuned=missing)
    assert [row.name for row in report.rows] == [name for name in ALL if name != "untuned encoder"]
    assert any("no row for the untuned encoder" in note for note in report.notes)
    assert any("no reranker" in note for note in report.notes)
    printed = " ".join(report.table().split())
    assert all(note in printed for note in report.notes)


def test_data_of_another_catalogue_is_refused(tiny_prepared, bundle, tmp_path):
    shutil.copytree(tiny_prepared.folder, tmp_path / "data")
    ItemTable(tiny_prepared.items.frame.reverse()).write(tmp_path / "data" / "items.parquet")
    with pytest.raises(ModelIndexMismatch, match="catalogue"):
        evaluate(Prepared(tmp_path / "data"), bundle, EvaluationConfig())


def test_the_oracle_is_the_last_row_and_the_measure_of_the_possible(tiny_prepared, bundle):
    examples = tiny_prepared.examples("test")[:6]
    rows = [
        {
            "search_id": example.query_id,
            "user_id": example.user_id,
            "timestamp": example.timestamp,
            "item_id": tiny_prepared.items.ids[row],
            "rank": rank,
            "probability": 0.5,
            "expected_gain": 3.0,
        }
        for example in examples
        for rank, row in enumerate([max(example.labels, key=lambda label: label.grade).row], start=1)
    ]
    report = evaluate(tiny_prepared, bundle, EvaluationConfig(), oracle=Oracle(pl.DataFrame(rows)))
    assert report.n_queries == 6
    assert report.notes == (
        "42 queries that the oracle does not know were left out",
        "the bundle holds no blend: no rows for the full chain",
    )
    assert report.rows[-1].name == "oracle"
    assert report.rows[-1].share_of_possible.value == 1.0
    assert value(report, "oracle") == 1.0
    shares = {row.name: row.share_of_possible.value for row in report.rows}
    assert 0 <= shares["random"] < shares["BM25"] <= 1
    assert "Share of the possible" in report.table()


class Fixed:
    """A peer that always answers with the same rows."""

    def runs(self, examples):
        yield "the others", {e.query_id: [e.labels[0].row] for e in examples}

    def judged_runs(self, examples):
        yield "the others", {e.query_id: [label.row for label in e.labels] for e in examples}


def test_a_peer_stands_between_the_floors_and_the_tuned_retriever(tiny_prepared, bundle):
    report = evaluate(tiny_prepared, bundle, EvaluationConfig(limit=8), peer=Fixed())
    names = [row.name for row in report.rows]
    assert names[names.index("the others") - 1 :][:3] == ["BM25", "the others", "tuned dense"]
    assert value(report, "the others") == 1.0
    assert report.rows[names.index("the others")].floor_gain is not None


def test_judged_lists_are_measured_where_every_query_was_judged(tiny_prepared, bundle, tmp_path):
    judged = judged_copy(tiny_prepared, tmp_path / "data", pl.lit(True))
    report = evaluate(judged, bundle, EvaluationConfig(), peer=Fixed())
    assert all("judged nDCG@10" in row.metrics for row in report.rows)
    assert report.best_floor["judged nDCG@10"] in ALL
    for row in report.rows:  # the whole catalogue only adds items in front of the judged ones
        assert row.metrics["judged nDCG@10"].value >= row.metrics["nDCG@10"].value
    assert value(report, "random", "judged nDCG@10") > 0.8 > 0.2 > value(report, "random", "nDCG@10")
    assert "judged nDCG@10: each system orders" in report.table()
    assert "| judged nDCG@10 |" in report.markdown()


def test_judged_lists_are_left_out_where_some_queries_were_observed(tiny_prepared, bundle, tmp_path):
    mixed = judged_copy(tiny_prepared, tmp_path / "data", pl.col("query_id") < "q-0220")
    report = evaluate(mixed, bundle, EvaluationConfig())
    assert not any("judged nDCG@10" in row.metrics for row in report.rows)
    assert any("no judged nDCG@10" in note for note in report.notes)


def judged_copy(prepared: Prepared, folder, judged: pl.Expr) -> Prepared:
    """The same data, some of its searches without a time: as judgments come."""
    shutil.copytree(prepared.folder, folder)
    frame = pl.read_parquet(folder / "examples.parquet")
    frame.with_columns(pl.when(~judged).then("timestamp").alias("timestamp")).write_parquet(folder / "examples.parquet")
    return Prepared(folder)


def test_each_distinct_search_is_reranked_once(tiny_prepared, bundle):
    calls = []

    class Counting:
        def rerank(self, query, history, candidates, *, depth):
            calls.append((query, tuple(history), depth))
            return bundle.reranker.rerank(query, history, candidates, depth=depth)

    examples = tiny_prepared.examples("test")
    candidates = systems.retrieve(examples, bundle)
    second = SecondStage(Counting(), candidates, depth=7)
    second.run(examples, with_history=False, description="")
    assert sorted(query for query, _, _ in calls) == sorted({e.query for e in examples})
    second.run(examples, with_history=True, description="")
    assert len(calls) == len({e.query for e in examples} | {(e.query, e.history) for e in examples if e.history})
    assert {n for _, _, n in calls} == {7}


def test_the_second_stage_is_given_all_candidates_and_its_order_is_taken(tiny_prepared, bundle):
    class Reversing:
        def rerank(self, query, history, candidates, *, depth):
            order = np.arange(len(candidates))[::-1]
            scores = candidates.scores[order]
            return Reranked(
                order=order,
                scores=scores,
                rerank_scores=scores,
                probabilities=np.full((len(order), 3), np.nan, dtype=np.float32),
                n_scored=depth,
                degraded=None,
            )

    examples = tiny_prepared.examples("test", limit=1)
    candidates = systems.retrieve(examples, bundle)
    before = candidates[examples[0].query].rows.tolist()
    run = SecondStage(Reversing(), candidates, depth=3).run(examples, with_history=True, description="")
    assert list(run[examples[0].query_id]) == before[::-1]


def test_what_lies_below_the_rerank_depth_keeps_its_order_without_a_blend(tiny_prepared, bundle):
    examples = tiny_prepared.examples("test", limit=1)
    candidates = systems.retrieve(examples, bundle)
    before = candidates[examples[0].query].rows.tolist()
    run = SecondStage(bundle.reranker, candidates, depth=3).run(examples, with_history=True, description="")
    after = list(run[examples[0].query_id])
    assert sorted(after[:3]) == sorted(before[:3])
    assert after[3:] == before[3:]


def test_a_workspace_is_evaluated_at_the_version_asked_for(built_workspace, tiny_encoder_folder):
    workspace, _ = built_workspace
    config = RETRIEVER.model_copy(update={"base_model": str(tiny_encoder_folder)})
    report = evaluate_bundle(workspace, config, version="v1", split="valid", limit=3)
    assert (report.bundle, report.split, report.n_queries) == ("v1", "valid", 3)
    with pytest.raises(VersionNotFound, match="v9"):
        evaluate_bundle(workspace, config, version="v9")


@pytest.mark.parametrize("settings", [{"split": "tset"}, {"limit": 0}, {"depth": 3}, {"rerank_depth": 0}])
def test_impossible_settings_are_a_configuration_error(built_workspace, settings):
    workspace, _ = built_workspace
    with pytest.raises(ConfigError, match=next(iter(settings))):
        evaluate_bundle(workspace, RETRIEVER, **settings)
