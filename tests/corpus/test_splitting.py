from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.errors import InputError
from corpus.settings import DataConfig
from corpus.splitting import Boundaries, split_of_query, time_boundaries

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def day(n):
    return EPOCH + timedelta(days=n)


def splits(boundaries, days):
    frame = pl.DataFrame({"t": [day(n) for n in days]}, schema={"t": pl.Datetime("us", "UTC")})
    return frame.select(boundaries.split(pl.col("t"))).to_series().to_list()


def test_the_first_instant_of_a_split_belongs_to_it():
    boundaries = Boundaries(valid_from=day(10), test_from=day(20))
    assert splits(boundaries, [0, 9.999, 10, 19.999, 20, 99]) == ["train", "train", "valid", "valid", "test", "test"]
    assert splits(Boundaries(valid_from=None, test_from=None), [5]) == ["train"]


def test_labels_observed_after_the_next_split_began_are_not_known_in_time():
    boundaries = Boundaries(valid_from=day(10), test_from=day(20))
    cases = [(9, 9.5, True), (9, 10, False), (9, 25, False), (15, 19, True), (15, 20, False), (25, 99, True)]
    frame = pl.DataFrame(
        {"searched": [day(s) for s, _, _ in cases], "observed": [day(o) for _, o, _ in cases]},
        schema={"searched": pl.Datetime("us", "UTC"), "observed": pl.Datetime("us", "UTC")},
    )
    known = frame.select(boundaries.known_in_time(pl.col("searched"), pl.col("observed"))).to_series()
    assert known.to_list() == [want for _, _, want in cases]


def test_shares_are_taken_from_the_end_of_time():
    instants = np.random.default_rng(0).permutation(100).astype(np.int64) * 1_000_000
    boundaries = time_boundaries(instants, DataConfig(valid_share=0.2, test_share=0.1))
    assert boundaries.valid_from == EPOCH + timedelta(seconds=70)
    assert boundaries.test_from == EPOCH + timedelta(seconds=90)


def test_configured_dates_win_and_are_utc():
    config = DataConfig(valid_from="2024-01-01", test_from="2024-02-01T01:00:00+01:00")
    boundaries = time_boundaries(np.arange(5, dtype=np.int64), config)
    assert boundaries.valid_from == datetime(2024, 1, 1, tzinfo=UTC)
    assert boundaries.test_from == datetime(2024, 2, 1, tzinfo=UTC)


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=60),
    st.floats(0, 0.5, exclude_max=True),
    st.floats(0, 0.5, exclude_max=True),
)
def test_shares_leave_something_to_train_on_and_respect_time(instants, valid_share, test_share):
    config = DataConfig(valid_share=valid_share, test_share=test_share)
    array = np.array(instants, dtype=np.int64)
    if valid_share + test_share > 0 and len(set(instants)) == 1:
        with pytest.raises(InputError, match="at one instant"):
            time_boundaries(array, config)
        return
    boundaries = time_boundaries(array, config)
    frame = pl.DataFrame({"t": np.sort(array)}).select(pl.col("t").cast(pl.Datetime("us", "UTC")))
    names = frame.select(boundaries.split(pl.col("t"))).to_series().to_list()
    rank = {"train": 0, "valid": 1, "test": 2}
    assert names == sorted(names, key=rank.__getitem__)
    assert names[0] == "train"
    if not test_share:
        assert "test" not in names


def test_the_split_of_a_query_is_fixed_and_has_the_right_share():
    queries = [f"query {n}" for n in range(4000)]
    drawn = [split_of_query(query, valid_share=0.1, test_share=0.2) for query in queries]
    assert drawn == [split_of_query(query, valid_share=0.1, test_share=0.2) for query in queries]
    assert 0.17 < drawn.count("test") / 4000 < 0.23
    assert 0.08 < drawn.count("valid") / 4000 < 0.12
    assert split_of_query("red shoe", valid_share=0.0, test_share=0.0) == "train"
    # a fixed draw: another machine or release must not move queries between splits
    assert [split_of_query(q, valid_share=0.3, test_share=0.3) for q in ("a", "b", "c", "d", "e")] == [
        "test",
        "valid",
        "test",
        "train",
        "test",
    ]
