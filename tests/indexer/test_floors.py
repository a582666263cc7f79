import numpy as np
import pytest

from corpus.prepared import Pairs
from indexer.floors import Floors


def choices(*pairs: tuple[str, int, float]) -> Pairs:
    queries = list(dict.fromkeys(query for query, _, _ in pairs))
    return Pairs(
        queries=queries,
        query=np.array([queries.index(query) for query, _, _ in pairs], dtype=np.int64),
        row=np.array([row for _, row, _ in pairs], dtype=np.int64),
        weight=np.array([weight for _, _, weight in pairs], dtype=np.float32),
        shopper=np.full(len(pairs), -1, dtype=np.int64),
        timestamp=np.full(len(pairs), "NaT", dtype="datetime64[us]"),
    )


@pytest.fixture
def floors() -> Floors:
    known = choices(("shoe", 3, 1.0), ("shoe", 5, 0.2), ("shoe", 5, 1.0), ("pan", 7, 1.0), ("pan", 3, 1.0))
    return Floors(known, n_items=20)


def test_popularity_sums_the_weights_of_all_queries_and_breaks_ties_by_row(floors):
    assert list(floors.popular(10)) == [3, 5, 7]  # 2.0, 1.2, 1.0
    assert list(floors.popular(2)) == [3, 5]


def test_popularity_within_a_query_knows_only_that_query(floors):
    assert list(floors.popular_within("shoe", 10)) == [5, 3]
    assert list(floors.popular_within("pan", 10)) == [3, 7]  # a tie: row order
    assert list(floors.popular_within("shoe", 1)) == [5]


def test_popularity_within_an_unseen_query_finds_nothing(floors):
    assert list(floors.popular_within("hose", 10)) == []


def test_before_the_first_choice_nothing_is_popular():
    floors = Floors(choices(), n_items=20)
    assert list(floors.popular(10)) == []
    assert list(floors.popular_within("shoe", 10)) == []


def test_random_rankings_repeat_with_their_seed_and_differ_between_queries(floors):
    first = list(floors.random("q-1", 10, seed=1))
    assert first == list(floors.random("q-1", 10, seed=1))
    assert first != list(floors.random("q-2", 10, seed=1))
    assert first != list(floors.random("q-1", 10, seed=2))
    assert len(set(first)) == 10
    assert all(0 <= row < 20 for row in first)


def test_random_rankings_end_with_the_catalogue(floors):
    assert sorted(floors.random("q", 100, seed=1)) == list(range(20))
