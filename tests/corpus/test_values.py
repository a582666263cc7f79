from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.values import attributes, booleans, categories, identifiers, numbers, texts, timestamps, whole_numbers

NOON = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-02-29T12:00:00Z", NOON),
        ("2024-02-29 12:00:00", NOON),
        ("2024-02-29T14:00:00+02:00", NOON),
        ("2024-02-29T06:30:00-0530", NOON),
        ("2024-02-29 13:00:00 +01:00", NOON),
        ("2024-02-29T13:00:00+01", NOON),
        ("2024-02-29 12:00:00 UTC", NOON),
        ("2024-02-29T12:00", NOON),
        ("2024-02-29T12:00Z", NOON),
        ("2024-02-29", NOON - timedelta(hours=12)),
        ("20240229", NOON - timedelta(hours=12)),
        ("2024-02-29 12:00:00.25", NOON + timedelta(milliseconds=250)),
        ("2024-02-29T12:00:00,123456Z", NOON + timedelta(microseconds=123456)),
        (" 1709208000 ", NOON),
        ("1709208000.5", NOON + timedelta(milliseconds=500)),
        ("1709208000000", NOON),
        ("1709208000000000", NOON),
        ("1709208000000000000", NOON),
    ],
)
def test_instants_are_read_from_text(text, instant):
    assert timestamps(pl.Series([text])).to_list() == [instant]


@pytest.mark.parametrize("text", ["yesterday", "2024-02-30", "2024-13-01T00:00:00Z", "12:00", "", "2024", "29.02.2024"])
def test_what_is_no_instant_becomes_null(text):
    assert timestamps(pl.Series([text])).to_list() == [None]


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.integers(-23 * 60, 23 * 60))
def test_iso_text_with_any_offset_reads_back(naive, minutes):
    instant = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert timestamps(pl.Series([instant.isoformat()])).to_list() == [instant.astimezone(UTC)]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([NOON.replace(tzinfo=None)], dtype=pl.Datetime("ms")),
        pl.Series([NOON]).dt.convert_time_zone("America/New_York"),
        pl.Series([1709208000]),
        pl.Series([1709208000.0]),
        pl.Series([1709208000000], dtype=pl.UInt64),
    ],
)
def test_native_instants_become_utc_microseconds(column):
    read = timestamps(column)
    assert read.to_list() == [NOON]
    assert read.dtype == pl.Datetime("us", "UTC")


def test_a_native_date_is_its_midnight():
    assert timestamps(pl.Series([date(2024, 2, 29)])).to_list() == [NOON - timedelta(hours=12)]


def test_prices_are_read_over_signs_and_separators():
    given_texts = ["12.5", "$1,299.00", "1.299,00 €", "9,99", "EUR 5", "1,299", "-3", "nan", "inf", "free", "", None]
    want = [12.5, 1299.0, 1299.0, 9.99, 5.0, 1299.0, None, None, None, None, None, None]
    assert numbers(pl.Series(given_texts)).to_list() == want
    assert numbers(pl.Series([1, -1, None])).to_list() == [1.0, None, None]
    assert numbers(pl.Series([0.5, float("nan"), float("inf")])).to_list() == [0.5, None, None]


def test_whole_numbers_have_no_fraction():
    assert whole_numbers(pl.Series(["3", "3.0", "3.5", "x"])).to_list() == [3, 3, None, None]


def test_stock_is_read_from_words():
    assert booleans(pl.Series(["TRUE", " yes ", "0", "out of stock", "perhaps", None])).to_list() == [
        True, True, False, False, None, None,
    ]  # fmt: skip


def test_ids_keep_their_digits():
    assert texts(pl.Series([2**62, 7])).to_list() == [str(2**62), "7"]
    assert texts(pl.Series([12.0, 0.5, None])).to_list() == ["12", "0.5", None]
    assert texts(pl.Series([b"a", b"\xff"])).to_list() == ["a", "\ufffd"]
    assert identifiers(pl.Series([" a ", "NULL", "", "\\N"])).to_list() == ["a", None, None, None]


def test_category_paths_from_text_json_and_lists():
    assert categories(pl.Series(["Home > Kitchen &amp; Bar>", '["A", " B "]', "", None]), ">").to_list() == [
        ["Home", "Kitchen & Bar"], ["A", "B"], [], [],
    ]  # fmt: skip
    assert categories(pl.Series([["A", None, "B"]]), ">").to_list() == [["A", "B"]]
    assert categories(pl.Series(["[not json"]), "/").to_list() == [["[not json"]]


def test_attributes_from_json_and_structs():
    column = pl.Series(['{"colour": "red", "size": ["S", "M", "S"], "none": null, "n": 3}', "not json", None])
    red = {"name": "colour", "values": ["red"]}
    assert attributes(column).to_list() == [
        [red, {"name": "size", "values": ["S", "M"]}, {"name": "n", "values": ["3"]}], [], [],
    ]  # fmt: skip
    assert attributes(attributes(column)).to_list() == attributes(column).to_list()
