import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import ArtefactError
from retrieval.ragged import Ragged


def build(*entries: tuple[int, int, float], n_keys: int, most: int = 10) -> Ragged:
    return Ragged.build(
        np.array([key for key, _, _ in entries], dtype=np.int64),
        np.array([row for _, row, _ in entries], dtype=np.int64),
        np.array([value for _, _, value in entries], dtype=np.float32),
        n_keys=n_keys,
        most=most,
    )


def listed(ragged: Ragged) -> list[list[tuple[int, float]]]:
    return [
        list(zip(rows.tolist(), values.tolist(), strict=True)) for rows, values in map(ragged.of, range(len(ragged)))
    ]


def test_equal_pairs_are_summed_and_the_greatest_comes_first():
    ragged = build((2, 5, 1.0), (0, 3, 0.5), (2, 1, 1.5), (2, 5, 1.0), (0, 3, 0.25), n_keys=4)
    assert listed(ragged) == [[(3, 0.75)], [], [(5, 2.0), (1, 1.5)], []]
    assert (ragged.offsets.dtype, ragged.rows.dtype, ragged.values.dtype) == (np.int64, np.int32, np.float32)


def test_only_the_greatest_are_kept_and_of_equals_the_lower_rows():
    ragged = build((0, 9, 1.0), (0, 2, 1.0), (0, 4, 3.0), (0, 7, 1.0), (1, 8, 0.1), n_keys=2, most=2)
    assert listed(ragged) == [[(4, 3.0), (2, 1.0)], [(8, pytest.approx(0.1))]]


def test_nothing_makes_empty_rows():
    assert listed(build(n_keys=3)) == [[], [], []]
    assert listed(build(n_keys=0)) == []


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(1, 5)), max_size=40),
    st.integers(1, 8),
)
def test_building_agrees_with_counting_by_hand(entries: list[tuple[int, int, int]], most: int):
    want: list[dict[int, float]] = [{} for _ in range(5)]
    for key, row, value in entries:
        want[key][row] = want[key].get(row, 0.0) + value
    got = listed(build(*((key, row, float(value)) for key, row, value in entries), n_keys=5, most=most))
    assert got == [sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most] for counts in want]


def part(*entries: tuple[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([row for row, _ in entries], dtype=np.int32),
        np.array([value for _, value in entries], dtype=np.float32),
    )


def test_parts_are_joined_key_by_key():
    ragged = Ragged.join([part((4, 0.5), (1, 0.25)), part(), part((0, 2.0))])
    assert listed(ragged) == [[(4, 0.5), (1, 0.25)], [], [(0, 2.0)]]
    assert (ragged.rows.dtype, ragged.values.dtype) == (np.int32, np.float32)
    assert listed(Ragged.join([])) == []


@pytest.fixture
def saved(tmp_path):
    build((0, 3, 1.0), (2, 1, 2.0), (2, 4, 1.0), n_keys=3).save(tmp_path, "some")
    return tmp_path


def test_rows_survive_the_disk(saved):
    loaded = Ragged.load(saved, "some", n_items=5)
    assert listed(loaded) == [[(3, 1.0)], [], [(1, 2.0), (4, 1.0)]]


def test_no_entries_survive_the_disk(tmp_path):
    build(n_keys=2).save(tmp_path, "none")
    assert listed(Ragged.load(tmp_path, "none", n_items=0)) == [[], []]


def test_rows_of_a_larger_catalogue_are_refused(saved):
    with pytest.raises(ArtefactError, match="catalogue of 4 items"):
        Ragged.load(saved, "some", n_items=4)


@pytest.mark.parametrize("name", ["offsets", "rows", "values"])
@pytest.mark.parametrize("content", [b"", b"not numpy at all", None])
def test_a_missing_or_broken_file_is_refused(saved, name, content):
    path = saved / f"some_{name}.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtefactError, match="build the bundle again"):
        Ragged.load(saved, "some", n_items=5)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("offsets", np.array([0, 1, 1, 4])),  # past the rows
        ("offsets", np.array([1, 1, 1, 3])),
        ("offsets", np.array([0, 2, 1, 3])),  # falling
        ("offsets", np.array([], dtype=np.int64)),
        ("offsets", np.array([0, 1, 1, 3], dtype=np.int32)),
        ("rows", np.array([3, 1, 4])),  # int64
        ("rows", np.array([3, -1, 4], dtype=np.int32)),
        ("rows", np.array([3, 1], dtype=np.int32)),
        ("rows", np.array([[3], [1], [4]], dtype=np.int32)),
        ("values", np.array([1.0, 2.0, 1.0])),  # float64
        ("values", np.array([1.0, 2.0], dtype=np.float32)),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused(saved, name, array):
    np.save(saved / f"some_{name}.npy", array)
    with pytest.raises(ArtefactError, match="build the bundle again"):
        Ragged.load(saved, "some", n_items=5)


def test_pickled_objects_are_refused(saved):
    np.save(saved / "some_rows.npy", np.array([{"a": 1}, 2, 3], dtype=object), allow_pickle=True)
    with pytest.raises(ArtefactError, match="some"):
        Ragged.load(saved, "some", n_items=5)


def test_entries_of_several_keys_come_in_their_order_repetitions_and_empty_rows_included():
    ragged = Ragged.join(
        [
            (np.array(rows, dtype=np.int32), np.array(values, dtype=np.float32))
            for rows, values in (([4, 1], [2.0, 1.0]), ([], []), ([7], [3.0]))
        ]
    )
    positions, rows, values = ragged.entries(np.array([2, 1, 0, 2]))
    assert positions.tolist() == [0, 2, 2, 3]
    assert rows.tolist() == [7, 4, 1, 7]
    assert values.tolist() == [3.0, 2.0, 1.0, 3.0]
