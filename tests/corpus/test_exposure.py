"""Exposure, with hand-worked numbers of clicks over expected clicks."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from corpus import shoppers
from corpus.event_log import CODES
from corpus.events import EventType
from corpus.exposure import DISPLAY_SCHEMA, count_displays, write_exposure
from corpus.prepared import EXPOSURE_SCHEMA
from corpus.splitting import Boundaries

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOW = timedelta(minutes=30)
BOUNDARIES = Boundaries(valid_from=START + timedelta(minutes=200), test_from=START + timedelta(minutes=300))
SCHEMA = {
    "file": pl.UInt16,
    "line": pl.UInt64,
    "timestamp": pl.Datetime("us", "UTC"),
    "session_id": pl.String,
    "type": pl.UInt8,
    "query": pl.String,
    "row": pl.UInt32,
    "position": pl.UInt32,
    "search_id": pl.String,
    "shopper": pl.String,
}


def event(minute, kind, row, position=None, *, query=None, session="s", search_id=None, shopper="u1"):
    return {
        "file": 0,
        "timestamp": START + timedelta(minutes=minute),
        "session_id": session,
        "type": CODES[EventType(kind)],
        "query": query,
        "row": row,
        "position": position,
        "search_id": search_id,
        "shopper": shopper,
    }


def counted(*events, boundaries=BOUNDARIES):
    """Return (split, row, position, impressions, clicks) of each cell."""
    frame = pl.DataFrame([{**e, "line": n} for n, e in enumerate(events)], schema=SCHEMA)
    return count_displays(frame, WINDOW, boundaries).rows()


def shown(minute, row, position, **more):
    return event(minute, "impression", row, position, **more)


def click(minute, row, **more):
    return event(minute, "click", row, **more)


# --- which click counts for which display ---------------------------------------------------------------------------


def test_a_search_id_joins_a_click_to_its_display_however_far_apart_and_in_any_order():
    assert counted(
        shown(0, 1, 3, search_id="a"),
        shown(0, 2, 4, search_id="a"),
        click(100, 1, search_id="a", session="t"),
        shown(120, 1, 1, search_id="b"),
        click(119, 1, search_id="b"),
        shown(150, 1, 2, search_id="c"),
        click(150, 1, search_id="elsewhere"),
        click(150, 1, search_id="c", shopper="u2"),
    ) == [
        ("train", 1, 1, 1, 1),
        ("train", 1, 2, 1, 0),
        ("train", 1, 3, 1, 1),
        ("train", 2, 4, 1, 0),
    ]


def test_without_search_ids_the_last_display_in_session_and_window_is_clicked():
    assert counted(
        shown(0, 1, 5),
        shown(1, 1, 2),
        shown(1, 1, 3, session="other"),
        shown(1, 2, 9),
        click(31, 1),  # the window's last instant
        click(31.1, 2),
        click(0.5, 3),
        shown(0.6, 3, 1),  # shown only afterwards
    ) == [
        ("train", 1, 2, 1, 1),
        ("train", 1, 3, 1, 0),
        ("train", 1, 5, 1, 0),
        ("train", 2, 9, 1, 0),
        ("train", 3, 1, 1, 0),
    ]


def test_a_click_with_a_query_looks_at_displays_for_that_query():
    assert counted(
        shown(0, 1, 1, query="red"),
        shown(1, 1, 2, query="blue"),
        click(2, 1, query="red"),
        click(3, 1, query="green"),
    ) == [("train", 1, 1, 1, 1), ("train", 1, 2, 1, 0)]


def test_a_click_without_a_session_looks_at_all_displays_to_its_shopper():
    events = (shown(0, 1, 1, session="a"), shown(1, 1, 2, session="b"), shown(2, 1, 3, shopper="u2"))
    assert counted(*events, click(3, 1, session=None)) == [
        ("train", 1, 1, 1, 0),
        ("train", 1, 2, 1, 1),
        ("train", 1, 3, 1, 0),
    ]


def test_what_one_search_shows_again_and_repeated_clicks_count_once():
    assert counted(
        shown(0, 1, 7, search_id="a"),
        shown(5, 1, 2, search_id="a"),
        click(6, 1, search_id="a"),
        click(7, 1, search_id="a"),
        shown(8, 2, 1),
        click(9, 2),
        click(10, 2),
    ) == [("train", 1, 7, 1, 1), ("train", 2, 1, 1, 1)]


def test_impressions_without_a_position_and_other_events_are_left_out():
    cart = event(1, "add_to_cart", 1)
    assert counted(shown(0, 2, None), click(1, 2), shown(0, 1, 1), cart) == [("train", 1, 1, 1, 0)]
    assert counted(shown(0, 2, None), click(1, 2)) == counted(click(1, 2)) == []


def test_each_event_counts_in_the_split_of_its_own_instant():
    assert counted(
        shown(199, 1, 1),
        click(200, 1),
        shown(200, 2, 1),
        click(201, 2),
        shown(301, 3, 1, search_id="late"),
        click(299, 3, search_id="late"),  # a click cannot be known before its display is
    ) == [
        ("test", 3, 1, 1, 1),
        ("train", 1, 1, 1, 0),
        ("valid", 1, 1, 0, 1),
        ("valid", 2, 1, 1, 1),
    ]


# --- clicks over expected clicks ------------------------------------------------------------------------------------


@pytest.fixture
def expose(tmp_path):
    def run(*parts, n_items=6):
        """Write parts of (split, row, position, impressions, clicks); return the table's rows."""
        files = []
        for number, cells in enumerate(parts):
            files.append(tmp_path / f"part-{number}.arrow")
            pl.DataFrame(cells, schema=DISPLAY_SCHEMA, orient="row").write_ipc(files[-1])
        n_rows = write_exposure(files, n_items, tmp_path / "exposure.parquet")
        table = pl.read_parquet(tmp_path / "exposure.parquet")
        assert dict(table.schema) == EXPOSURE_SCHEMA
        assert len(table) == n_rows
        return table.rows()

    return run


def test_expected_clicks_are_the_training_rates_of_the_positions(expose):
    # position 1 is clicked 50 of 100 times in training, position 4 is 5 of 50 times
    first = [("train", 0, 1, 60, 30), ("train", 1, 1, 40, 20), ("train", 2, 4, 30, 5), ("valid", 2, 1, 10, 9)]
    second = [("train", 0, 4, 20, 0), ("test", 2, 4, 10, 10), ("test", 2, 1, 4, 0), ("valid", 5, 4, 0, 1)]
    assert expose(first, second) == [
        ("train", 0, 80, 30, pytest.approx(60 * 0.5 + 20 * 0.1)),
        ("train", 1, 40, 20, pytest.approx(20.0)),
        ("train", 2, 30, 5, pytest.approx(3.0)),
        ("valid", 2, 10, 9, pytest.approx(5.0)),
        ("valid", 5, 0, 1, 0.0),
        ("test", 2, 14, 10, pytest.approx(1.0 + 2.0)),
    ]


def test_a_position_unknown_to_training_does_as_the_next_one_above_it(expose):
    training = [("train", 0, 2, 10, 5), ("train", 0, 6, 10, 1)]
    later = [("valid", row, position, 10, 0) for row, position in enumerate((1, 2, 5, 6, 60))]
    expected = [row[4] for row in expose(training, later) if row[0] == "valid"]
    assert expected == pytest.approx([5.0, 5.0, 5.0, 1.0, 1.0])


def test_without_displays_in_training_the_table_is_empty(expose):
    assert expose() == []
    assert expose(n_items=0) == []
    assert expose([("valid", 0, 1, 10, 5), ("test", 0, 1, 10, 5)]) == []
    # a click alone, on what came through no display of the training split, makes no rate either
    assert expose([("train", 0, 1, 0, 5), ("valid", 0, 1, 10, 5)]) == []


# --- the whole of prepare -------------------------------------------------------------------------------------------


def row(minute, kind, user, **more):
    return {"timestamp": (START + timedelta(minutes=minute)).isoformat(), "type": kind, "user_id": user, **more}


def random_log(n_searches=150, *, seed=3):
    """Searches of ten shoppers over 400 minutes, each showing a to e in some order; upper positions get more clicks."""
    rng = np.random.default_rng(seed)
    events = []
    for number, minute in enumerate(np.sort(rng.integers(0, 400, n_searches)).tolist()):
        user, ids = f"u{rng.integers(10)}", {"search_id": f"q{number}"} if number % 2 else {}
        events.append(row(minute, "search", user, query="red", **ids))
        for position, item in enumerate(rng.permutation(list("abcde")).tolist(), start=1):
            events.append(row(minute, "impression", user, item_id=item, position=position, **ids))
            if rng.random() < 0.6 / position:
                events.append(row(minute + 1, "click", user, item_id=item, **ids))
    return events


@pytest.fixture
def exposed(store):
    store.items(*"abcde")

    def run(events):
        store.rows("events.jsonl", events)
        store.prepare(valid_from=BOUNDARIES.valid_from, test_from=BOUNDARIES.test_from)
        return pl.read_parquet(store.root / "data" / "exposure.parquet")

    return run


def test_coming_last_and_clicked_now_and_then_beats_coming_first_and_clicked_like_any_first(exposed, store):
    # a is shown first and clicked half the times, as firsts are; b is shown last and clicked a quarter, c never
    events = []
    for number in range(8):
        ids = {"search_id": f"q{number}"}
        events.append(row(number, "search", "ann", query="red", **ids))
        events.append(row(number, "impression", "ann", item_id="a", position=1, **ids))
        events.append(row(number, "impression", "ann", item_id="bc"[number % 2], position=9, **ids))
        if number < 4:
            events.append(row(number, "click", "ann", item_id="a", **ids))
    events.append(row(9, "click", "ann", item_id="b", search_id="q0"))
    exposed(events)
    exposure = store.prepared.exposure("train")
    assert exposure.row.tolist() == [0, 1, 2]
    assert exposure.impressions.tolist() == [8, 4, 4]
    assert exposure.clicks.tolist() == [4, 1, 0]
    assert exposure.expected_clicks.tolist() == [4.0, 0.5, 0.5]
    assert (exposure.clicks / exposure.expected_clicks).tolist() == [1.0, 2.0, 0.0]


def test_expected_clicks_add_up_to_the_clicks_of_the_training_split(exposed):
    train = exposed(random_log()).filter(pl.col("split") == "train")
    assert train["clicks"].sum() > 50
    assert train["expected_clicks"].sum() == pytest.approx(train["clicks"].sum())
    assert train["impressions"].n_unique() < train["expected_clicks"].n_unique() == 5


def test_many_buckets_give_what_one_gives(exposed, monkeypatch):
    whole = exposed(random_log())
    monkeypatch.setattr(shoppers, "BUCKET_EVENTS", 60)
    counts = []
    monkeypatch.setattr("corpus.examples.count_displays", lambda *a: counts.append(count_displays(*a)) or counts[-1])
    parts = exposed(random_log())
    assert len(counts) > 5
    assert parts.drop("expected_clicks").equals(whole.drop("expected_clicks"))
    np.testing.assert_allclose(parts["expected_clicks"], whole["expected_clicks"], rtol=1e-12)


def test_nothing_of_a_later_split_is_known_before_it(exposed, store):
    def before(events, split):
        exposed(events)
        found = store.prepared.exposure_before(split)
        return [getattr(found, name).tolist() for name in ("row", "impressions", "clicks", "expected_clicks")]

    events = random_log()
    later = [e for e in events if e["timestamp"] >= BOUNDARIES.valid_from.isoformat()]
    more = [{**e, "type": "click", "position": None} for e in later if e["type"] == "impression"]
    assert before(events + more, "valid") == before(events, "valid")
    assert before(events + more, "test") != before(events, "test")
    assert before(events, "train") == [[], [], [], []]


def test_a_log_without_impressions_or_positions_writes_an_empty_table(exposed, store, caplog):
    clicks = [row(minute, "click", "ann", item_id="a", query="red", position=1) for minute in (0, 210, 310)]
    assert dict(exposed(clicks).schema) == EXPOSURE_SCHEMA
    assert len(store.prepared.exposure("train", "valid", "test").row) == 0
    assert "no click rates" not in caplog.text
    impressions = [row(1, "impression", "ann", item_id="a", position=rank) for rank in (None, 0, "first")]
    assert exposed(clicks + impressions).is_empty()
    assert "no click rates" in caplog.text
