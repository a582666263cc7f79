from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from corpus.prepared import Example, Label, Prepared
from rerank.blend_lists import BlendList, collect_blend_lists, folds
from rerank.config import BlendConfig
from rerank.features import FeatureExtractor

CONFIG = BlendConfig(depth=20, history_dropout=0.0)


@pytest.fixture
def collect(word_retriever, extractor: FeatureExtractor):
    def collect(examples: list[Example], **settings: object) -> list[BlendList]:
        return collect_blend_lists(examples, word_retriever, extractor, CONFIG.model_copy(update=settings))

    return collect


@pytest.fixture(scope="module")
def examples(tasteful: Prepared) -> list[Example]:
    return tasteful.examples("valid")


def label(row: int, grade: float) -> Label:
    return Label(row=row, weight=grade / 3, grade=grade)


def test_a_list_holds_a_searchs_candidates_with_features_and_grades(collect, examples, word_retriever, extractor):
    lists = collect(examples)
    assert len(lists) == len(examples)  # every item of the kind is among the first
    for example, entry in zip(examples, lists, strict=True):
        want = word_retriever.retrieve(example.query, 20)
        assert (entry.query, entry.history) == (example.query, example.history)
        np.testing.assert_array_equal(entry.candidates.rows, want.rows)
        np.testing.assert_array_equal(entry.features, extractor.features(example.query, example.history, want))
        assert entry.grades.dtype == np.float32
        assert {row: grade for row, grade in zip(want.rows.tolist(), entry.grades.tolist(), strict=True) if grade} == {
            example.labels[0].row: 3.0
        }


def test_searches_whose_candidates_hold_no_choice_are_left_out(collect, examples):
    found = collect(examples[:1])[0].candidates.rows.tolist()
    missed = next(row for row in range(60) if row not in found)
    lost = replace(examples[0], labels=(label(missed, 3.0),))
    assert collect([lost, replace(examples[1], labels=())]) == []
    judged_irrelevant = replace(examples[0], labels=(label(found[0], 0.0),))
    assert collect([judged_irrelevant]) == []


def test_each_distinct_query_is_asked_once(examples, word_retriever, extractor):
    class Counting:
        def __init__(self) -> None:
            self.asked: list[tuple[str, int]] = []

        def retrieve_batch(self, queries, k):
            self.asked += [(query, k) for query in queries]
            return word_retriever.retrieve_batch(queries, k)

    counting = Counting()
    collect_blend_lists(examples, counting, extractor, CONFIG)
    assert counting.asked == [(query, 20) for query in dict.fromkeys(example.query for example in examples)]


def test_a_share_of_the_known_shoppers_comes_a_second_time_without_a_history(collect, examples, extractor):
    known = [example for example in examples if example.history]
    everyone = collect(examples, history_dropout=1.0)
    assert len(everyone) == len(examples) + len(known) > len(examples)
    for entry, copy in pairwise(everyone):
        if entry.history and not copy.history and entry.query == copy.query:
            np.testing.assert_array_equal(copy.features, extractor.features(entry.query, (), entry.candidates))
            np.testing.assert_array_equal(copy.grades, entry.grades)
    assert sum(not entry.history for entry in everyone) == len(examples)
    some = collect(examples, history_dropout=0.5)
    assert len(examples) + 0.3 * len(known) < len(some) < len(examples) + 0.7 * len(known)
    assert [entry.history for entry in some] == [entry.history for entry in collect(examples, history_dropout=0.5)]


@pytest.fixture
def judged(examples, word_retriever) -> Example:
    rows = word_retriever.retrieve(examples[0].query, 20).rows.tolist()
    labels = (label(rows[7], 2.0), label(rows[2], 0.0), label(rows[12], 3.0))
    return replace(examples[0], timestamp=None, user_id=None, history=(), labels=labels)


def test_in_a_judged_search_what_nobody_judged_counts_as_irrelevant(collect, judged, word_retriever):
    (entry,) = collect([judged])
    found = word_retriever.retrieve(judged.query, 20)
    np.testing.assert_array_equal(entry.candidates.rows, found.rows)
    want = np.zeros(20)
    want[[7, 12]] = 2.0, 3.0
    np.testing.assert_array_equal(entry.grades, want)


def test_an_item_judged_irrelevant_is_no_better_than_one_that_nobody_judged(collect, judged, word_retriever):
    rows = word_retriever.retrieve(judged.query, 20).rows.tolist()
    poor = Label(row=rows[2], weight=0.0, grade=1.0)  # the lowest grade of a scale from 1
    (entry,) = collect([replace(judged, labels=(*judged.labels[:1], poor))])
    assert (entry.grades[2], entry.grades[7]) == (0.0, 2.0)


def test_a_judged_candidate_has_the_features_that_it_is_served_with(collect, judged, word_retriever, extractor):
    (entry,) = collect([judged])
    served = extractor.features(judged.query, (), word_retriever.retrieve(judged.query, 20))
    np.testing.assert_array_equal(entry.features, served)


def test_all_lists_of_one_query_are_in_one_fold_and_folds_are_even(collect, examples):
    lists = collect(examples, history_dropout=0.5)
    fold = folds(lists, 3, seed=4)
    fold_of = {entry.query: number for entry, number in zip(lists, fold.tolist(), strict=True)}
    assert [fold_of[entry.query] for entry in lists] == fold.tolist()
    sizes = np.bincount(list(fold_of.values()))
    assert len(sizes) == 3
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold, folds(lists, 3, seed=4))
    assert fold.tolist() != folds(lists, 3, seed=5).tolist()
