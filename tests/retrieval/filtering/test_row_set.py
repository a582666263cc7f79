import numpy as np
import pytest

from corpus.errors import InputError
from retrieval.filtering.row_set import RowSet


def test_a_set_of_rows_is_the_same_in_every_form() -> None:
    chosen = RowSet.of(np.array([9, 2, 2, 0]), n_items=11)

    assert chosen.rows.tolist() == [0, 2, 9]
    assert len(chosen) == 3
    assert chosen.n_items == 11
    assert chosen.bitmap.tolist() == [0b00000101, 0b00000010]
    assert np.flatnonzero(chosen.mask).tolist() == [0, 2, 9]


def test_counting_lists_no_rows() -> None:
    chosen = RowSet.of(np.array([9, 2, 0]), n_items=11)

    assert len(chosen) == 3
    assert "rows" not in vars(chosen)


def test_what_two_sets_share() -> None:
    assert (RowSet.of(np.array([0, 1, 2]), 4) & RowSet.of(np.array([2, 3]), 4)).rows.tolist() == [2]


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_outside_the_catalogue_is_refused(row: int) -> None:
    with pytest.raises(InputError, match=r"rows in \[0, 4\)"):
        RowSet.of(np.array([row]), 4)


def test_a_mask_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match="bool"):
        RowSet(np.zeros(3, dtype=np.int64))  # type: ignore[arg-type]
