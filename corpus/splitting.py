"""Splitting: behaviour by time, judgments by query.

What a model is trained on was known before the first validation search, and what it is validated on before the first
test search: searches are split by their instant, and a label that was observed only after the next split began is
dropped.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.errors import InputError
from corpus.prepared import Split
from corpus.settings import DataConfig

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundaries:
    """First instants of validation and test; None: that split is empty."""

    valid_from: datetime | None
    test_from: datetime | None

    def split(self, instant: pl.Expr) -> pl.Expr:
        """Return the name of the split that an instant falls into."""
        name = pl.lit("train")
        if self.valid_from is not None:
            name = pl.when(instant >= self.valid_from).then(pl.lit("valid")).otherwise(name)
        if self.test_from is not None:
            name = pl.when(instant >= self.test_from).then(pl.lit("test")).otherwise(name)
        return name

    def known_in_time(self, searched_at: pl.Expr, observed_at: pl.Expr) -> pl.Expr:
        """Tell whether a label was observed before the split after its search's began."""
        known = pl.lit(True)
        for start in (self.valid_from, self.test_from):
            if start is not None:
                known = known & ((searched_at >= start) | (observed_at < start))
        return known


def time_boundaries(instants: npt.NDArray[np.int64], config: DataConfig) -> Boundaries:
    """Return the configured boundaries, or those that leave the configured shares at the end of time.

    Args:
        instants: int64 (n_searches,), microseconds since 1970 in UTC, of the searches that have labels.
        config: Dates or shares.
    Raises:
        InputError: If the shares are to decide and all searches fall into one instant.
    """
    if config.valid_from is not None or config.test_from is not None or not len(instants):
        return Boundaries(valid_from=config.valid_from, test_from=config.test_from)
    ordered = np.sort(instants)
    if config.valid_share + config.test_share > 0 and ordered[0] == ordered[-1]:
        raise InputError(
            f"expected searches over some time to split by, got {len(ordered):,} at one instant; "
            "check the timestamps, or set data.valid_from and data.test_from",
            field="timestamp",
        )
    n_test = round(len(ordered) * config.test_share)
    n_valid = round(len(ordered) * config.valid_share)
    test_from = _boundary(ordered, len(ordered) - n_test) if n_test else None
    valid_from = _boundary(ordered, len(ordered) - n_test - n_valid) if n_valid else test_from
    return Boundaries(valid_from=_instant(valid_from), test_from=_instant(test_from))


def split_of_query(query: str, *, valid_share: float, test_share: float) -> Split:
    """Draw the split of a judged query from a hash of its text: the same on every machine, whatever else is judged."""
    digest = hashlib.blake2b(query.encode(), digest_size=8).digest()
    draw = int.from_bytes(digest, "big") / 2**64
    if draw < test_share:
        return "test"
    return "valid" if draw < test_share + valid_share else "train"


def _boundary(ordered: npt.NDArray[np.int64], position: int) -> int:
    """Return the instant at a position, or the first later one if nothing would come before it."""
    instant = ordered[position]
    return int(instant if instant > ordered[0] else ordered[ordered > ordered[0]][0])


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)
