import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from corpus.errors import ConfigError, InputError, ModelIndexMismatch, VersionNotFound
from corpus.items import ItemTable
from corpus.prepared import Prepared
from corpus.synthetic import Oracle
from indexer import systems
from indexer.bundle import open_bundle
from indexer.evaluate import EvaluationConfig, evaluate, evaluate_bundle
from indexer.report import EvaluationReport
from indexer.systems import SecondStage, Untuned
from rerank.reranker import Reranked
from retrieval.metrics import MEASURES
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
    assert report.notes == ("42 queries that the oracle does not know were left out",)
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
        def rerank(self, query, history, candidates, *, deadline=None):
            calls.append((query, tuple(history), len(candidates)))
            return bundle.reranker.rerank(query, history, candidates)

    examples = tiny_prepared.examples("test")
    candidates = systems.retrieve(examples, bundle)
    second = SecondStage(Counting(), candidates, depth=7)
    second.run(examples, with_history=False, description="")
    assert sorted(query for query, _, _ in calls) == sorted({e.query for e in examples})
    second.run(examples, with_history=True, description="")
    assert len(calls) == len({e.query for e in examples} | {(e.query, e.history) for e in examples if e.history})
    assert {n for _, _, n in calls} == {7}


def test_what_lies_below_the_rerank_depth_keeps_its_order_behind_the_reranked(tiny_prepared, bundle):
    class Reversing:
        def rerank(self, query, history, candidates, *, deadline=None):
            order = candidates.rows.argsort() * 0 + range(len(candidates))[::-1]
            return Reranked(
                order=order,
                scores=candidates.scores,
                rerank_scores=candidates.scores,
                probabilities=np.full((len(order), 3), np.nan, dtype=np.float32),
                n_scored=3,
                degraded=None,
            )

    examples = tiny_prepared.examples("test", limit=1)
    candidates = systems.retrieve(examples, bundle)
    before = candidates[examples[0].query].rows.tolist()
    run = SecondStage(Reversing(), candidates, depth=3).run(examples, with_history=True, description="")
    assert list(run[examples[0].query_id]) == [*before[:3][::-1], *before[3:]]


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
