import numpy as np
import pytest

from corpus.prepared import Example, Label
from indexer import systems
from indexer.bundle import open_bundle
from indexer.floors import Floors
from indexer.judged import dense_score, floor_scores, judged_candidates, judged_runs, lexical_score, order
from indexer.systems import Contest, Untuned
from retrieval.fusion import FusionWeights
from retrieval.retriever import Retriever
from tests.indexer.small_models import RETRIEVER
from tests.indexer.test_floors import choices


def judged(query: str, *rows: int, query_id: str = "q") -> Example:
    labels = tuple(Label(row=row, weight=0.0, grade=1.0) for row in rows)
    return Example(query_id=query_id, query=query, user_id=None, timestamp=None, labels=labels, history=())


@pytest.fixture(scope="module")
def bundle(built_workspace):
    workspace, _ = built_workspace
    return open_bundle(workspace.bundles / "v1")


def test_items_are_ordered_by_score_and_equal_ones_at_random():
    example = judged("x", *range(20))
    run = order([example], lambda query, rows: np.where(rows == 7, 1.0, 0.0), seed=1)
    assert run["q"][0] == 7
    assert sorted(run["q"]) == list(range(20))
    rest = [row for row in range(20) if row != 7]
    assert run["q"][1:] != rest  # the order of the file may know the grades
    assert run == order([example], lambda query, rows: np.where(rows == 7, 1.0, 0.0), seed=1)
    assert run != order([example], lambda query, rows: np.where(rows == 7, 1.0, 0.0), seed=2)


def test_popular_items_come_first_and_unknown_ones_last():
    scores = dict(floor_scores(Floors(choices(("shoe", 4, 1.0), ("shoe", 2, 3.0)), 10)))
    examples = [judged("shoe", 9, 4, 2), judged("pan", 4, 9, 2, query_id="p")]
    assert order(examples, scores["popularity"], seed=0)["q"] == [2, 4, 9]
    assert order(examples, scores["popularity"], seed=0)["p"] == [2, 4, 9]
    assert order(examples, scores["popularity in query"], seed=0)["q"] == [2, 4, 9]
    chance = order(examples, scores["random"], seed=0)
    assert order(examples, scores["popularity in query"], seed=0)["p"] == chance["p"]  # never searched


def test_both_channels_score_judged_items_as_they_score_found_ones(bundle):
    query = "red acme running shoe"
    retriever = bundle.retriever
    rows, scores = retriever.lexical_index.search(query, 60)
    score = lexical_score(retriever.lexical_index)
    np.testing.assert_array_equal(score(query, rows[::-1]), scores[::-1])
    unmatched = np.array(sorted(set(range(60)) - set(rows.tolist()))[:3])
    assert score(query, unmatched).tolist() == [0.0] * 3
    hits, cosines = retriever.vector_index.search_one(retriever.encoder.encode([query])[0], 10, exact=True)
    np.testing.assert_allclose(dense_score(retriever.encoder, retriever.vector_index)(query, hits), cosines, atol=1e-6)


@pytest.mark.parametrize("behaviour", [0.0, 0.3])
@pytest.mark.parametrize("dense", [0.0, 0.4, 1.0])
def test_the_first_stage_orders_judged_items_as_it_orders_the_catalogue(bundle, dense, behaviour):
    retriever: Retriever = bundle.retriever.with_weights(FusionWeights(dense=dense, behaviour=behaviour))
    query = "blue nordly coffee mug"
    found = retriever.retrieve(query, 60, exact=True)
    some = sorted(found.rows.tolist())[::3]
    got = judged_candidates([judged(query, *some)], retriever)[query]
    assert got.rows.tolist() == [row for row in found.rows.tolist() if row in set(some)]
    place = [found.rows.tolist().index(row) for row in got.rows.tolist()]
    np.testing.assert_allclose(got.scores, found.scores[place], atol=1e-6)
    np.testing.assert_allclose(got.lexical, found.lexical[place], atol=1e-6)
    np.testing.assert_allclose(got.behaviour, found.behaviour[place], atol=1e-6)
    assert got.behaviour.any() == (behaviour > 0)


def test_every_system_orders_exactly_the_judged_items_of_each_query(
    bundle, tiny_prepared, tiny_encoder_folder, tmp_path
):
    config = RETRIEVER.model_copy(update={"base_model": str(tiny_encoder_folder)})
    floors = Floors(tiny_prepared.pairs("train"), 60)
    untuned = Untuned(config=config, cache=tmp_path)
    contest = Contest(bundle=bundle, floors=floors, untuned=untuned, oracle=None)
    # the same words twice, judged for different items
    examples = [
        judged("red shoe", 1, 5, 9, query_id="a"),
        judged("red shoe", 2, 30, query_id="b"),
        judged("pan", 40, 7),
    ]
    runs = dict(judged_runs(contest, examples, seed=0))
    names = [name for name, _ in systems.runs(contest, examples, rerank_depth=5, seed=0, notes=[])]
    assert list(runs) == names
    for run in runs.values():
        assert {query_id: sorted(rows) for query_id, rows in run.items()} == {
            "a": [1, 5, 9],
            "b": [2, 30],
            "q": [7, 40],
        }


def test_the_second_stage_reads_exactly_the_judged_items(bundle):
    example = judged("red running shoe", *range(0, 60, 4))
    contest = Contest(bundle=bundle, floors=Floors(choices(), 60), untuned=None, oracle=None)
    runs = dict(judged_runs(contest, [example], seed=0))
    candidates = judged_candidates([example], bundle.retriever)[example.query]
    reranked = bundle.reranker.rerank(example.query, (), candidates)
    assert runs["two stages"]["q"] == candidates.rows[reranked.order].tolist()
    assert runs["two stages"]["q"] != runs["hybrid"]["q"]
    assert reranked.n_scored == 15
