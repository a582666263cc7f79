import pytest

from corpus.prepared import Example, Label
from indexer.floors import Floors


def example(query: str, *labels: tuple[int, float]) -> Example:
    return Example(
        query_id="q",
        query=query,
        user_id=None,
        timestamp=None,
        labels=tuple(Label(row=row, weight=weight, grade=1.0) for row, weight in labels),
        history=(),
    )


@pytest.fixture
def floors() -> Floors:
    training = [
        example("shoe", (3, 1.0), (5, 0.2)),
        example("shoe", (5, 1.0)),
        example("pan", (7, 1.0), (3, 1.0)),
        example("rake", (9, 0.0)),  # judged irrelevant
    ]
    return Floors(training, n_items=20)


def test_popularity_sums_the_weights_of_all_queries_and_breaks_ties_by_row(floors):
    assert list(floors.popular(10)) == [3, 5, 7]  # 2.0, 1.2, 1.0
    assert list(floors.popular(2)) == [3, 5]


def test_popularity_within_a_query_knows_only_that_query(floors):
    assert list(floors.popular_within("shoe", 10)) == [5, 3]
    assert list(floors.popular_within("pan", 10)) == [3, 7]  # a tie: row order
    assert list(floors.popular_within("shoe", 1)) == [5]


def test_popularity_within_an_unseen_query_finds_nothing(floors):
    assert list(floors.popular_within("hose", 10)) == []


def test_an_item_judged_irrelevant_is_not_popular(floors):
    assert list(floors.popular_within("rake", 10)) == []
    assert 9 not in floors.popular(10)


def test_random_rankings_repeat_with_their_seed_and_differ_between_queries(floors):
    first = list(floors.random("q-1", 10, seed=1))
    assert first == list(floors.random("q-1", 10, seed=1))
    assert first != list(floors.random("q-2", 10, seed=1))
    assert first != list(floors.random("q-1", 10, seed=2))
    assert len(set(first)) == 10
    assert all(0 <= row < 20 for row in first)


def test_random_rankings_end_with_the_catalogue(floors):
    assert sorted(floors.random("q", 100, seed=1)) == list(range(20))
