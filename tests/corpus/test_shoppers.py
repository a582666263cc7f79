from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from corpus.event_log import EventParts
from corpus.rejects import RejectLog
from corpus.shoppers import bucket_by_shopper, read_bucket

START = datetime(2024, 1, 1, tzinfo=UTC)
SCHEMA = {
    "line": pl.UInt64,
    "timestamp": pl.Datetime("us", "UTC"),
    "user_id": pl.String,
    "session_id": pl.String,
    "type": pl.UInt8,
    "query": pl.String,
    "row": pl.UInt32,
    "search_id": pl.String,
    "file": pl.UInt16,
}


@pytest.fixture
def bucketed(tmp_path):
    def run(owners, *, bucket_events=1000, block=3, minutes=None):
        """Bucket one event per (user, session), some events a block; return the rows of each bucket."""
        rows = [
            (n, START + timedelta(minutes=minutes[n] if minutes else n), user, session, 0, "q", None, None, 0)
            for n, (user, session) in enumerate(owners)
        ]
        log = EventParts(files=["e.csv"], n_events=len(rows))
        for start in range(0, len(rows), block):
            log.parts.append(tmp_path / f"part-{start}.arrow")
            pl.DataFrame(rows[start : start + block], schema=SCHEMA, orient="row").write_ipc(log.parts[-1])
        with RejectLog(tmp_path / "rejects.jsonl") as rejects:
            buckets = bucket_by_shopper(log, tmp_path, bucket_events=bucket_events)
            return [read_bucket(paths, log, rejects) for paths in buckets if paths], rejects.counts

    return run


def shoppers(bucket):
    return bucket.sort("line")["shopper"].to_list()


def test_the_user_is_the_shopper_and_else_the_session(bucketed):
    (bucket,), _ = bucketed([("7", None), (None, "7"), ("7", "x")])
    assert shoppers(bucket) == ["u7", "s7", "u7"]


def test_what_came_before_signing_in_is_the_users(bucketed):
    (bucket,), _ = bucketed([(None, "s"), ("ann", "s"), (None, "s2"), (None, "s")])
    assert shoppers(bucket) == ["uann", "uann", "ss2", "uann"]


def test_a_session_that_two_users_share_stays_its_own(bucketed):
    (bucket,), _ = bucketed([(None, "kiosk"), ("ann", "kiosk"), ("bob", "kiosk")])
    assert shoppers(bucket) == ["skiosk", "uann", "ubob"]


def test_every_event_lands_in_one_bucket_and_no_shopper_in_two(bucketed):
    owners = [(f"u{n % 37}", f"s{n}") for n in range(400)]
    buckets, _ = bucketed(owners, bucket_events=50, block=70)
    assert len(buckets) > 4
    assert sorted(line for bucket in buckets for line in bucket["line"]) == list(range(400))
    owners_of = [set(bucket["shopper"]) for bucket in buckets]
    assert sum(map(len, owners_of)) == len(set.union(*owners_of)) == 37


def test_events_delivered_twice_count_once_and_are_listed(bucketed):
    owners = [("ann", "s"), ("bob", "s"), ("ann", "s"), ("ann", "t"), ("ann", "s"), ("ann", "s")]
    (bucket,), counts = bucketed(owners, minutes=[0, 0, 0, 0, 0, 1])
    assert bucket["line"].to_list() == [0, 1, 3, 5]
    assert counts == {"events: duplicate": 2}
