from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from rerank.blend import Blend
from rerank.explanation import GROUPS, explain_sum, explain_trees
from rerank.features import FEATURES, RERANK_FEATURES
from rerank.parts import add_parts, added, reordered, take_parts
from tests.rerank.scripted import candidates
from tests.rerank.test_reranker_with_blend import Trees

EVERY = np.arange(20)


def total(parts: dict[str, np.ndarray]) -> np.ndarray:
    return np.sum(list(parts.values()), axis=0)


def test_every_feature_belongs_to_one_group():
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(FEATURES + RERANK_FEATURES)


@pytest.fixture
def features(tiny_blend: Blend, word_retriever) -> np.ndarray:
    return tiny_blend.features("running shoe", (), word_retriever.retrieve("running shoe", 20))


def test_the_parts_of_a_blend_sum_to_its_scores(tiny_blend, features):
    first = tiny_blend.first(features)
    np.testing.assert_allclose(total(tiny_blend.explain(features, None)(EVERY)), first, atol=1e-5)
    rerank = np.where(np.arange(20) < 8, np.linspace(-1, 1, 20), np.nan).astype(np.float32)
    final = tiny_blend.final(first, features, rerank)
    parts = tiny_blend.explain(features, rerank)(EVERY)
    np.testing.assert_allclose(total(parts), final, atol=1e-5)
    assert set(parts) == {*GROUPS, "base"}
    assert np.ptp(parts["base"]) == 0
    assert not np.allclose(final, first)
    some = tiny_blend.explain(features, rerank)(np.array([9, 3]))  # gaps and ranks are those among all
    np.testing.assert_allclose(total(some), final[[9, 3]], atol=1e-5)


def test_each_part_is_the_sum_of_its_features_contributions(tiny_blend, features):
    each = tiny_blend._first.predict(features, pred_contrib=True, num_threads=1)
    parts = tiny_blend.explain(features, None)(EVERY)
    places = [FEATURES.index(name) for name in ("dense", "dense_gap")]
    np.testing.assert_allclose(parts["meaning"], each[:, places].sum(axis=1), atol=1e-6)
    words = [place for place, name in enumerate(FEATURES) if name == "lexical" or name.startswith("words_")]
    np.testing.assert_allclose(parts["words"], each[:, words].sum(axis=1), atol=1e-6)
    assert "rerank" not in parts
    assert any(np.abs(values).max() > 0 for name, values in parts.items() if name != "base")


def test_searches_side_by_side_may_score_and_explain_with_the_same_trees(tiny_blend, features):
    first, parts = tiny_blend.first(features), tiny_blend.explain(features, None)(EVERY)

    def work(number: int) -> bool:
        if number % 2:
            return np.array_equal(tiny_blend.first(features), first)
        again = tiny_blend.explain(features, None)(EVERY)
        return all(np.array_equal(again[name], values) for name, values in parts.items())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(400)))


def test_no_candidates_have_no_parts():
    trees = Trees(FEATURES, lambda _: pytest.fail("asked"))
    assert all(len(values) == 0 for values in explain_trees(trees, np.empty((0, len(FEATURES)))).values())


def test_the_parts_of_a_weighted_sum_by_hand():
    found = candidates(3)
    rerank = np.array([4.0, 2.0, np.nan], dtype=np.float32)
    retrieval = found.scores
    final = np.array([4 + 0.5 * retrieval[0], 2 + 0.5 * retrieval[1], -7], dtype=np.float32)
    parts = explain_sum(found, rerank, final, {"rerank": 1.0, "retrieval": 0.5}, 2)
    np.testing.assert_allclose(parts["rerank"], [4, 2, 0])
    np.testing.assert_allclose(parts["retrieval"], [0.5 * retrieval[0], 0.5 * retrieval[1], retrieval[2]])
    np.testing.assert_allclose(parts["unread"], [0, 0, -7 - retrieval[2]])
    assert set(explain_sum(found, rerank, retrieval, {"rerank": 1.0, "retrieval": 0.5}, 0)) == {"retrieval"}


def test_parts_add_up_and_follow_their_candidates():
    one, two = np.array([1.0, 2.0], dtype=np.float32), np.array([10.0, 20.0], dtype=np.float32)
    summed = add_parts({"a": one, "b": one}, {"b": two, "c": two})
    assert {name: values.tolist() for name, values in summed.items()} == {"a": [1, 2], "b": [11, 22], "c": [10, 20]}
    assert take_parts(summed, np.array([1]))["b"].tolist() == [22]


def test_parts_are_told_in_another_order_and_with_one_more():
    values = {"a": np.array([1.0, 2.0, 3.0], dtype=np.float32)}
    told = added(reordered(partial(take_parts, values), np.array([2, 0])), "b", np.array([10, 20]))
    assert {name: part.tolist() for name, part in told(np.array([1, 0])).items()} == {"a": [1, 3], "b": [20, 10]}


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_reranker_explains_its_scores(build, weight):
    answer = build(float, weight=weight)[0].rerank("red shoe", (), candidates(40), depth=10, explain=True)
    assert answer.parts_of is not None
    parts = answer.parts_of(np.arange(40))
    np.testing.assert_allclose(total(parts), answer.scores, rtol=1e-5, atol=1e-5)
    assert parts["unread"][-1] != 0
    assert parts["rerank"][0] == answer.rerank_scores[0] == 9
    np.testing.assert_array_equal(answer.parts_of(np.array([3, 1]))["rerank"], parts["rerank"][[3, 1]])


def test_a_reranker_under_a_blend_explains_the_blends_scores(build, tiny_blend, word_retriever):
    found = word_retriever.retrieve("running shoe", 30)
    reranker = build(float, blend=tiny_blend)[0]
    for depth in (8, 0):
        answer = reranker.rerank("running shoe", (), found, depth=depth, explain=True)
        assert answer.parts_of is not None
        parts = answer.parts_of(np.arange(30))
        np.testing.assert_allclose(total(parts), answer.scores, rtol=1e-5, atol=1e-5)
        assert ("rerank" in parts) == (depth > 0)
    assert reranker.rerank("running shoe", (), found, depth=8).parts_of is None
