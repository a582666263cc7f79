import pytest

from corpus.errors import Overloaded
from server.admission import Admission


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
