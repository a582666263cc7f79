import numpy as np
import pytest

from retrieval.event_log import related_items
from retrieval.event_log.related_items import relate_items, relatedness
from retrieval.ragged import Ragged


def relate(*choices: tuple[int, int, int], n_items: int = 6, most: int = 10, shrinkage: float = 1.0) -> Ragged:
    """Choices as (shopper, item, time)."""
    shopper, row, timestamp = (np.array([choice[part] for choice in choices], dtype=np.int64) for part in range(3))
    return relate_items(shopper, row, timestamp, n_items=n_items, most=most, shrinkage=shrinkage)


def of(related: Ragged, item: int) -> dict[int, float]:
    rows, values = related.of(item)
    return dict(zip(rows.tolist(), values.tolist(), strict=True))


# item 0: shoppers 0, 1, 2; item 1: shoppers 0, 1; item 2: shopper 2; item 3: shopper 9 alone
STORE = ((0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 2), (2, 0, 1), (2, 2, 2), (9, 3, 1))


def test_relatedness_is_the_shrunk_cosine_of_shoppers():
    related = relate(*STORE)
    assert len(related) == 6
    assert of(related, 0) == {1: pytest.approx(2 / (6**0.5 + 1)), 2: pytest.approx(1 / (3**0.5 + 1))}
    assert of(related, 1) == {0: pytest.approx(2 / (6**0.5 + 1))}
    assert of(related, 2) == {0: pytest.approx(1 / (3**0.5 + 1))}
    assert of(related, 3) == of(related, 5) == {}


def test_without_shrinkage_it_is_the_cosine():
    assert of(relate(*STORE, shrinkage=0.0), 0) == {1: pytest.approx(2 / 6**0.5), 2: pytest.approx(1 / 3**0.5)}


def test_the_most_related_come_first_and_equals_in_row_order():
    rows, _ = relate(*STORE).of(0)
    assert rows.tolist() == [1, 2]
    # shopper 0 chose four items: all equally related
    rows, _ = relate((0, 4, 1), (0, 2, 1), (0, 5, 1), (0, 3, 1)).of(3)
    assert rows.tolist() == [2, 4, 5]
    rows, _ = relate((0, 4, 1), (0, 2, 1), (0, 5, 1), (0, 3, 1), most=2).of(3)
    assert rows.tolist() == [2, 4]


def test_choosing_an_item_twice_counts_once():
    assert of(relate(*STORE, (0, 0, 5), (0, 1, 6)), 0) == of(relate(*STORE), 0)


def test_choices_of_nobody_known_relate_nothing():
    unknown = relate((-1, 0, 1), (-1, 1, 2), (-1, 2, 3))
    assert [of(unknown, item) for item in range(6)] == [{}] * 6
    assert of(relate(*STORE, (-1, 3, 1), (-1, 0, 1)), 3) == {}


def test_no_choices_relate_nothing():
    assert [of(relate(), item) for item in range(6)] == [{}] * 6


def test_only_the_latest_choices_of_a_busy_shopper_count(monkeypatch):
    monkeypatch.setattr(related_items, "MAX_ITEMS_PER_SHOPPER", 2)
    related = relate((0, 0, 30), (0, 1, 10), (0, 2, 20), (1, 3, 5), (1, 4, 6))
    assert set(of(related, 0)) == {2}
    assert of(related, 1) == {}
    assert set(of(related, 3)) == {4}


def test_chunks_of_the_catalogue_change_nothing(monkeypatch):
    generator = np.random.default_rng(3)
    choices = np.stack([generator.integers(0, 8, 60), generator.integers(0, 12, 60), np.arange(60)], axis=1).tolist()
    whole = relate(*choices, n_items=12)
    monkeypatch.setattr(related_items, "_CHUNK", 5)
    cut = relate(*choices, n_items=12)
    for part in ("offsets", "rows", "values"):
        np.testing.assert_array_equal(getattr(cut, part), getattr(whole, part))
    assert len(whole.rows) > 12


@pytest.fixture
def related() -> Ragged:
    def part(entries: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(list(entries), dtype=np.int32), np.array(list(entries.values()), dtype=np.float32)

    return Ragged.join(
        [part(entries) for entries in ({1: 0.5, 2: 0.25}, {0: 0.5, 5: 0.75}, {0: 0.25}, {}, {}, {1: 0.75})]
    )


def test_a_history_relates_in_sum_at_most_and_by_its_newest(related):
    got = relatedness(related, np.array([2, 1]), np.array([5, 0, 3]))
    # item 0: .25 by item 2 (the newest) and .5 by item 1; item 5: .75 by item 1; item 3: nothing
    np.testing.assert_allclose(got.total, [0.75, 0.75, 0])
    np.testing.assert_allclose(got.strongest, [0.75, 0.5, 0])
    np.testing.assert_allclose(got.latest, [0, 0.25, 0])
    assert {array.dtype for array in (got.total, got.strongest, got.latest)} == {np.dtype(np.float32)}


def test_an_item_past_the_greatest_candidate_hits_no_other(related):
    got = relatedness(related, np.array([1]), np.array([3, 2]))  # relates to 0 and 5 alone
    assert got.total.tolist() == [0, 0]


def test_without_a_history_nothing_is_related(related):
    got = relatedness(related, np.empty(0, dtype=np.int64), np.array([5, 0]))
    assert got.total.tolist() == got.strongest.tolist() == got.latest.tolist() == [0, 0]


def test_without_candidates_there_is_nothing_to_relate(related):
    got = relatedness(related, np.array([1, 2]), np.empty(0, dtype=np.int64))
    assert len(got.total) == len(got.strongest) == len(got.latest) == 0
