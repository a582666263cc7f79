import pytest

from corpus.errors import Overloaded
from server.calls.admission import Admission


def test_one_more_than_the_limit_is_refused():
    admission = Admission(2)
    with admission.admit(), admission.admit():
        assert admission.n_inside == 2
        with pytest.raises(Overloaded, match="all 2 places are taken"), admission.admit():
            pass
    assert admission.n_inside == 0


def test_a_call_that_fails_gives_its_place_back():
    admission = Admission(1)
    with pytest.raises(ValueError), admission.admit():
        raise ValueError
    with admission.admit():
        pass


@pytest.fixture
def now(monkeypatch):
    """The clock, to be set."""
    now = [100.0]
    monkeypatch.setattr("server.calls.admission.time.monotonic", lambda: now[0])
    return now


def answer(admission: Admission, now: list[float], seconds: float) -> None:
    with admission.admit(now[0] + 60):
        now[0] += seconds


def test_a_call_whose_turn_would_come_too_late_is_refused(now):
    admission = Admission(10)
    answer(admission, now, 0.1)
    with admission.admit(now[0] + 1), admission.admit(now[0] + 1), admission.admit(now[0] + 1):
        # with the three inside, four tenths of a second: nine tenths of .45 s are just enough
        with pytest.raises(Overloaded, match="too little time"), admission.admit(now[0] + 0.44):
            pass
        with admission.admit():  # a further page costs nothing
            assert (admission.n_inside, admission.n_refused) == (4, 1)
        with admission.admit(now[0] + 0.45):
            assert (admission.n_inside, admission.n_refused) == (4, 1)


def test_in_a_standing_queue_more_of_the_time_is_kept_for_reranking(now):
    admission = Admission(10)
    answer(admission, now, 0.1)
    first = admission.admit(now[0] + 60)
    first.__enter__()
    with admission.admit(now[0] + 60), admission.admit(now[0] + 60):
        now[0] += 1.0
        with admission.admit(now[0] + 0.45):
            pass
        first.__exit__(None, None, None)
        with admission.admit(now[0] + 60):  # the house has not been empty
            now[0] += 0.1
            pace = admission._pace_s  # of whatever was answered until now
            with pytest.raises(Overloaded), admission.admit(now[0] + 4 * pace / 0.6 - 0.01):
                pass
            with admission.admit(now[0] + 4 * pace / 0.6 + 0.01):
                pass
    with admission.admit(now[0] + 60), admission.admit(now[0] + 60), admission.admit(now[0] + 60):  # it was, by now
        pace = admission._pace_s
        with admission.admit(now[0] + 4 * pace / 0.9 + 0.01):
            pass


def test_a_house_that_is_nearly_empty_lets_everybody_in_and_so_learns_of_better_times(now):
    admission = Admission(10)
    answer(admission, now, 50.0)
    with admission.admit(now[0] + 1), admission.admit(now[0] + 1), admission.admit(now[0] + 1):
        now[0] += 0.01
        with pytest.raises(Overloaded), admission.admit(now[0] + 1):
            pass
    for _ in range(60):  # nine tenths of what is known, each time
        with admission.admit(now[0] + 1):
            now[0] += 0.01
    inside = [admission.admit(now[0] + 1) for _ in range(4)]
    with inside[0], inside[1], inside[2], inside[3]:
        pass


def test_the_pace_is_that_of_answers_side_by_side_not_of_each(now):
    admission = Admission(10)
    with admission.admit(now[0] + 9):  # two in one second: one every half
        with admission.admit(now[0] + 9):
            now[0] += 0.5
        now[0] += 0.5
    with admission.admit(now[0] + 9), admission.admit(now[0] + 9), admission.admit(now[0] + 9):
        with pytest.raises(Overloaded), admission.admit(now[0] + 1.99 / 0.9):
            pass
        with admission.admit(now[0] + 2.01 / 0.9):
            assert admission.n_inside == 4


def test_an_answer_that_lacks_something_for_want_of_time_tells_no_pace_but_among_several_that_they_are_too_many(now):
    admission = Admission(10)
    with admission.admit(now[0] + 60):
        with admission.admit(now[0] + 60, is_whole=lambda: False):  # its own budget is at fault
            now[0] += 0.1
        now[0] += 0.9
    assert admission._pace_s == pytest.approx(1.0)  # the time of both
    with admission.admit(now[0] + 60), admission.admit(now[0] + 60), admission.admit(now[0] + 60):
        with admission.admit(now[0] + 60, is_whole=lambda: False):
            now[0] += 0.1
        assert admission._pace_s == pytest.approx(1.1)


def test_a_crowd_that_nobody_could_be_answered_in_tells_a_pace_as_well(now):
    admission = Admission(10)
    inside = [admission.admit(now[0] + 60, is_whole=lambda: False) for _ in range(4)]
    for place in inside:
        place.__enter__()
    now[0] += 0.5
    inside[0].__exit__(None, None, None)
    with pytest.raises(Overloaded), admission.admit(now[0] + 1):
        pass


def test_what_fails_does_not_tell_the_pace(now):
    admission = Admission(10)
    answer(admission, now, 1.0)
    for _ in range(50):
        with pytest.raises(ValueError), admission.admit(now[0] + 60):
            raise ValueError
    with admission.admit(now[0] + 9), admission.admit(now[0] + 9), admission.admit(now[0] + 9):
        assert admission.obstacle(now[0] + 1) is not None
