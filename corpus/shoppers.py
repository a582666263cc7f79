"""Shoppers: whose event is whose, and the log laid out so that each shopper's events lie together.

A shopper is a user id or, where nobody is signed in, a session. A session in which exactly one user signs in is that
user's from its beginning: people search first and sign in to pay.
"""

from pathlib import Path

import polars as pl

from corpus.event_log import EventParts
from corpus.progress import track
from corpus.rejects import DUPLICATE, RejectLog

BUCKET_EVENTS = 200_000  # with histories of 50 events about 0.5 GB while a bucket is worked on

_IDENTITY = ["shopper", "session_id", "timestamp", "type", "row", "query", "search_id"]


def bucket_by_shopper(log: EventParts, folder: Path, *, bucket_events: int | None = None) -> list[list[Path]]:
    """Lay the log out in buckets that each hold whole shoppers.

    Args:
        log: The cleaned log.
        folder: Takes the buckets' files.
        bucket_events: Events that a bucket should hold on average; default ``BUCKET_EVENTS``.
    Returns:
        The files of each bucket, in reading order; their rows have the log's columns and ``shopper``: the user id
        after a ``u``, or the session id after an ``s``.
    """
    if not log.n_events:
        return []
    n_buckets = -(-log.n_events // (bucket_events or BUCKET_EVENTS))
    owners = _owners(log)
    buckets: list[list[Path]] = [[] for _ in range(n_buckets)]
    for number, part in enumerate(track(log.parts, description="sorting events by shopper, blocks")):
        frame = _with_shopper(pl.read_ipc(part), owners)
        keyed = frame.with_columns(bucket=pl.col("shopper").hash(seed=0) % n_buckets)
        for (bucket,), rows in keyed.partition_by("bucket", as_dict=True, include_key=False).items():
            path = folder / f"bucket-{bucket:04d}-{number:05d}.arrow"
            rows.write_ipc(path, compression="lz4")
            buckets[int(bucket)].append(path)
        part.unlink()
    return buckets


def read_bucket(paths: list[Path], log: EventParts, rejects: RejectLog) -> pl.DataFrame:
    """Read a bucket and drop the events that were delivered twice.

    Args:
        paths: Files of the bucket.
        log: Where the events came from.
        rejects: Takes the duplicates.
    """
    events = pl.concat([pl.read_ipc(path) for path in paths])
    once = events.unique(_IDENTITY, keep="first", maintain_order=True)
    if once.height < events.height:
        again = events.join(once, on=["file", "line"], how="anti", maintain_order="left")
        for (file,), rows in again.group_by("file", maintain_order=True):
            listed = ((line, DUPLICATE) for line in rows["line"])
            rejects.add("events", log.files[int(str(file))], listed, is_fault=False)
    return once


def _owners(log: EventParts) -> pl.DataFrame:
    """Return the sessions that begin anonymously and have exactly one user: session_id, owner."""
    ids = pl.scan_ipc(log.parts).select("session_id", "user_id").filter(pl.col("session_id").is_not_null())
    anonymous = ids.filter(pl.col("user_id").is_null()).select("session_id").unique()
    return (
        ids.filter(pl.col("user_id").is_not_null())
        .join(anonymous, on="session_id", how="semi")
        .group_by("session_id")
        .agg(owner=pl.col("user_id").first(), n=pl.col("user_id").n_unique())
        .filter(pl.col("n") == 1)
        .select("session_id", "owner")
        .collect(engine="streaming")
    )


def _with_shopper(frame: pl.DataFrame, owners: pl.DataFrame) -> pl.DataFrame:
    if len(owners):
        frame = frame.join(owners, on="session_id", how="left", maintain_order="left")
        frame = frame.with_columns(user_id=pl.coalesce("user_id", "owner")).drop("owner")
    user = pl.concat_str(pl.lit("u"), pl.col("user_id"))
    return frame.with_columns(shopper=pl.coalesce(user, pl.concat_str(pl.lit("s"), pl.col("session_id")))).drop(
        "user_id"
    )
