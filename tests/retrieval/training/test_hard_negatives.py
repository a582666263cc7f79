from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ArtefactError
from retrieval.training.hard_negatives import HardNegatives

ROWS = np.array([[5, 3, 1, 4], [2, 0, -1, -1], [-1, -1, -1, -1]], dtype=np.int32)
QUERY = np.array([0, 0, 1, 2])  # of each pair


def negatives() -> HardNegatives:
    return HardNegatives(rows=ROWS, first=np.array([0, 2, 1, 0], dtype=np.int32))


def test_a_pair_draws_from_the_end_of_its_query_without_repeats():
    rng = np.random.default_rng(1)
    drawn = [negatives().draw(1, 0, 2, rng).tolist() for _ in range(20)]
    assert {tuple(sorted(rows)) for rows in drawn} == {(1, 4)}
    assert len({tuple(rows) for rows in drawn}) == 2
    assert negatives().draw(2, 1, 3, rng).tolist() == [0]
    assert negatives().draw(3, 2, 3, rng).tolist() == []


def test_log_q_is_the_share_of_the_draws_over_all_pairs():
    """What a million draws show: pairs in proportion to their weights, each drawing up to two of its pool."""
    weights = np.array([1.0, 2.0, 4.0, 8.0], dtype=np.float32)
    got = np.exp(negatives().log_q(QUERY, weights, 2, n_items=7))
    # pair 0 draws 2 of 4, pair 1 both of 2, pair 2 its only one, pair 3 has none
    expected = np.array([4.0, 0.5 + 2, 0, 0.5, 0.5 + 2, 0.5, 0])
    np.testing.assert_allclose(got, expected / expected.sum(), rtol=1e-6)
    rng = np.random.default_rng(2)
    counts = np.zeros(7)
    for pair in rng.choice(4, size=20_000, p=weights / weights.sum()):
        counts[negatives().draw(pair, QUERY[pair], 2, rng)] += 1
    np.testing.assert_allclose(counts / counts.sum(), got, atol=0.01)


def test_no_negatives_at_all_have_no_probability():
    empty = HardNegatives(rows=ROWS[2:], first=np.array([0], dtype=np.int32))
    assert (empty.log_q(np.array([0]), np.ones(1, dtype=np.float32), 2, n_items=3) == -np.inf).all()


def test_a_file_gives_back_what_was_saved(tmp_path: Path):
    negatives().save(tmp_path / "mined.safetensors")
    again = HardNegatives.load(tmp_path / "mined.safetensors")
    np.testing.assert_array_equal(again.rows, ROWS)
    np.testing.assert_array_equal(again.first, [0, 2, 1, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["mined.safetensors"]


def test_a_broken_file_is_an_artefact_error(tmp_path: Path):
    path = tmp_path / "mined.safetensors"
    negatives().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtefactError, match="train with --fresh"):
        HardNegatives.load(path)
