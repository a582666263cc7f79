import numpy as np
import pytest

from corpus.errors import DimensionMismatch, InputError
from retrieval.arrays import as_embeddings, check_depth, cut


def test_embeddings_become_float32_and_contiguous():
    array = as_embeddings(np.ones((4, 6))[:, ::2], dim=3)
    assert array.dtype == np.float32
    assert array.shape == (4, 3)
    assert array.flags.c_contiguous


def test_embeddings_that_fit_are_not_copied():
    array = np.ones((2, 3), dtype=np.float32)
    assert as_embeddings(array) is array


def test_a_number_that_is_none_is_found_wherever_it_is(monkeypatch):
    monkeypatch.setattr("retrieval.arrays.CHECKED_ROWS", 2)
    for row in range(5):
        array = np.ones((5, 3), dtype=np.float32)
        array[row, 1] = np.nan
        with pytest.raises(InputError, match="finite"):
            as_embeddings(array)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 0), (1, 2, 3)])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(DimensionMismatch, match=r"expected \(n, 3\)"):
        as_embeddings(np.ones(shape), dim=3)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(InputError, match="finite"):
        as_embeddings([[0.0, number]])


def test_depth_below_one_is_refused():
    check_depth(1)
    with pytest.raises(InputError, match="got 0"):
        check_depth(0)


def test_cut_embeddings_have_length_1_again():
    vectors = np.array([[0.6, 0.0, 0.8], [0.0, 0.0, 1.0]], dtype=np.float32)
    assert cut(vectors, None) is vectors
    np.testing.assert_allclose(cut(vectors, 2), [[1, 0], [0, 0]])  # nothing is left of the second
