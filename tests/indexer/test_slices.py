from datetime import UTC, datetime

import pytest

from corpus.events import EventType, HistoryEvent
from corpus.prepared import Example, Label
from indexer.slices import TrainingTraffic, slices

TIME = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = HistoryEvent(timestamp=TIME, type=EventType.CLICK, item_id="i", query=None)


def example(query: str, *labels: tuple[int, float, float], n_events: int = 0) -> Example:
    return Example(
        query_id="q",
        query=query,
        user_id=None,
        timestamp=TIME,
        labels=tuple(Label(row=row, weight=weight, grade=grade) for row, weight, grade in labels),
        history=(EVENT,) * n_events,
    )


def traffic_of(**n_searches: int) -> TrainingTraffic:
    return TrainingTraffic([example(query) for query, n in n_searches.items() for _ in range(n)])


def test_head_torso_and_tail_are_thirds_of_the_training_searches():
    # 12 searches: begins at 0, 4, 7, 9, 11; borders at 4 and 8
    traffic = traffic_of(d=2, a=4, c=2, b=3, e=1)
    parts = [traffic.frequency(query) for query in "abcde"]
    assert parts == ["head", "torso", "torso", "tail", "tail"]
    assert traffic.frequency("z") == "unseen"


def test_a_query_that_a_border_runs_through_belongs_where_it_begins():
    traffic = traffic_of(a=6, b=2, c=1)  # a alone fills two thirds
    assert [traffic.frequency(query) for query in "abc"] == ["head", "tail", "tail"]


def test_equally_frequent_queries_are_ordered_by_their_words_whatever_came_first():
    for queries in ("abc", "cba"):
        traffic = TrainingTraffic([example(query) for query in queries])
        assert [traffic.frequency(query) for query in "abc"] == ["head", "torso", "tail"]


def test_an_item_is_new_until_it_was_chosen():
    traffic = TrainingTraffic([example("a", (3, 0.2, 1.0), (4, 0.0, 0.5))])
    assert not traffic.is_new(3)
    assert traffic.is_new(4)  # seen as irrelevant only
    assert traffic.is_new(5)


@pytest.fixture
def cut() -> dict[str, list[bool]]:
    traffic = TrainingTraffic([example("a", (3, 1.0, 3.0)), example("b", (4, 1.0, 3.0))])
    examples = [
        example("a", (3, 1.0, 3.0)),
        example("b", (9, 1.0, 3.0), (3, 1.0, 3.0), n_events=1),  # one of its items is known
        example("z", (9, 1.0, 3.0), (3, 0.2, 1.0), n_events=3),  # the known one is not relevant
        example("z", (9, 1.0, 3.0), n_events=4),
    ]
    return {name: mask.tolist() for name, _, mask in slices(examples, traffic, lambda label: label.grade >= 2)}


def test_slices_by_what_training_saw(cut):
    assert cut["head"] == [True, False, False, False]
    assert cut["torso"] == [False, True, False, False]
    assert cut["tail"] == [False] * 4
    assert cut["unseen"] == [False, False, True, True]
    assert cut["new items"] == [False, False, True, True]


def test_slices_by_length_of_history(cut):
    assert cut["no history"] == [True, False, False, False]
    assert cut["1-3 events"] == [False, True, True, False]
    assert cut["4+ events"] == [False, False, False, True]
