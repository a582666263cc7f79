import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.stages.diversity import Limit, fill, vary


def test_maximal_marginal_relevance_by_hand():
    # cosines: 0·1 = .8, 0·2 = 0, 1·2 = .6; relevance 1, .9, 0
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    scores = np.array([3.0, 2.8, 1.0], dtype=np.float32)
    # after 0: .5 · .9 - .5 · .8 = .05 for 1, and 0 for 2
    assert vary(scores, vectors, 0.5).tolist() == [0, 1, 2]
    # after 0: .4 · .9 - .6 · .8 = -.12 for 1, and 0 for 2
    assert vary(scores, vectors, 0.6).tolist() == [0, 2, 1]


def test_an_item_is_compared_with_all_that_were_chosen():
    # 3 is like the first, 2 like nothing, 1 like 2: after 0 and 2, of 1 and 3 the nearest of either decides
    vectors = np.array([[1, 0, 0], [0, 0.8, 0.6], [0, 1, 0], [0.7, 0, 0.714]], dtype=np.float32)
    assert vary(np.array([4, 1, 1.5, 1], dtype=np.float32), vectors, 1.0).tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_most_relevant_comes_first_and_equals_keep_their_order(strength):
    vectors = np.ones((3, 1), dtype=np.float32)
    assert vary(np.array([2, 2, 2], dtype=np.float32), vectors, strength).tolist() == [0, 1, 2]
    assert vary(np.array([1, 3, 2], dtype=np.float32), vectors, strength)[0] == 1


def test_nothing_can_be_varied():
    assert vary(np.empty(0, dtype=np.float32), np.empty((0, 2), dtype=np.float32), 0.5).tolist() == []


def test_a_page_that_would_be_short_is_filled():
    limit = Limit(codes=[7, 7, 7, -1, -1], most=1)
    assert fill(5, {}, [limit], page_size=3).tolist() == [0, 3, 4, 1, 2]
    assert fill(3, {}, [limit], page_size=2).tolist() == [0, 1, 2]


def test_the_first_page_may_be_shorter():
    limit = Limit(codes=[7, 7, 8, 7, 8], most=1)
    assert fill(5, {}, [limit], page_size=2, first_page=1).tolist() == [0, 1, 2, 3, 4]
    assert fill(5, {}, [limit], page_size=2).tolist() == [0, 2, 1, 4, 3]


def test_pins_behind_the_end_take_the_last_places():
    assert fill(4, {900: 0, 901: 1, 4: 2}).tolist() == [3, 2, 0, 1]
    assert fill(3, {1: 2, 2: 1, 9: 0}).tolist() == [2, 1, 0]


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=30),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(0, 8),
    st.dictionaries(st.integers(1, 40), st.integers(0, 29), max_size=5),
)
def test_everything_comes_once_and_a_page_breaks_a_limit_only_if_nothing_else_is_left(
    codes, most, page_size, first_page, pins
):
    n = len(codes)
    pins = {rank: place for rank, place in pins.items() if place < n}
    pins = {rank: place for place, rank in {place: rank for rank, place in pins.items()}.items()}
    order = fill(n, pins, [Limit(codes=codes, most=most)], page_size=page_size, first_page=first_page).tolist()
    assert sorted(order) == list(range(n))
    for rank, place in pins.items():
        if rank <= n - len(pins):
            assert order[rank - 1] == place
    begin = 0
    while begin < n:
        end = begin + ((first_page or page_size) if begin == 0 else page_size)
        page = [codes[place] for place in order[begin:end]]
        later = [place for place in order[end:] if place not in pins.values()]
        free = {codes[place] for place in later}
        chosen = [place for place in order[begin:end] if place not in pins.values()]
        broken = {code for code in (codes[place] for place in chosen) if code >= 0 and page.count(code) > most}
        if broken:  # then no item of another value would have fitted
            assert all(code >= 0 and page.count(code) >= most for code in free)
        begin = end
