"""The event log: what the simulation did, in the columns of ``corpus.events.Event``."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from corpus.events import EventType
from corpus.synthetic.catalogue import Catalogue, IntArray
from corpus.synthetic.config import SyntheticConfig
from corpus.synthetic.item_texts import item_id
from corpus.synthetic.shoppers import Timetable
from corpus.synthetic.simulation import Life

EVENT_SCHEMA: dict[str, Any] = {
    "timestamp": pl.Datetime("us", "UTC"),
    "user_id": pl.String,
    "session_id": pl.String,
    "type": pl.String,
    "query": pl.String,
    "item_id": pl.String,
    "position": pl.Int64,
    "search_id": pl.String,
    "price": pl.Float64,
    "quantity": pl.Int64,
}
_IMPRESSION_DELAY_US = 250_000
_TYPES = (EventType.SEARCH, EventType.IMPRESSION, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE)


def search_id(search: int) -> str:
    """Return the id of a search by its number in the timetable."""
    return f"q{search + 1:06d}"


def event_frame(
    config: SyntheticConfig,
    catalogue: Catalogue,
    timetable: Timetable,
    life: Life,
    queries: list[str],
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Write the log, in order of time, in the columns of ``EVENT_SCHEMA``.

    All that a search leads to happens within three minutes of it, before its shopper's next search.
    """
    n, n_shown = life.shown.shape
    # clicks down the page, then the cart, then the till
    click_s = 2.0 + 2.5 * np.arange(n_shown) * (40 / n_shown) + rng.uniform(0.0, 2.4, (n, n_shown))
    cart_s = click_s + rng.uniform(5.0, 20.0, (n, n_shown))
    till_s = np.maximum(cart_s + 5.0, 130.0) + rng.uniform(0.0, 20.0, (n, n_shown))
    everything = np.ones((n, n_shown), dtype=bool)
    happenings = (
        (everything, np.full((n, n_shown), _IMPRESSION_DELAY_US)),
        (life.behaviour.clicked, _in_us(click_s)),
        (life.behaviour.carted, _in_us(cart_s)),
        (life.behaviour.bought, _in_us(till_s)),
    )
    parts = [_Events.of(0, np.arange(n), np.full(n, -1), timetable.at_us)]
    for kind, (happened, delay_us) in enumerate(happenings, start=1):
        search, position = np.nonzero(happened)
        parts.append(_Events.of(kind, search, position, timetable.at_us[search] + delay_us[search, position]))
    return _frame(config, catalogue, timetable, life, queries, _Events.join(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Events:
    """Events as numbers; all of one length."""

    kind: IntArray  # place in _TYPES
    search: IntArray  # number in the timetable
    position: IntArray  # from 0; -1 for a search
    at_us: IntArray  # microseconds since the store's first instant

    @classmethod
    def of(cls, kind: int, search: IntArray, position: IntArray, at_us: IntArray) -> "_Events":
        return cls(kind=np.full(len(search), kind), search=search, position=position, at_us=at_us)

    @classmethod
    def join(cls, parts: list["_Events"]) -> "_Events":
        """Return all events in order of time."""
        kind, search, position, at_us = (
            np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)
        )
        order = np.lexsort((position, kind, search, at_us))
        return cls(kind=kind[order], search=search[order], position=position[order], at_us=at_us[order])


def _in_us(seconds: npt.NDArray[np.float64]) -> IntArray:
    return (seconds * 1e3).astype(np.int64) * 1000


def _frame(
    config: SyntheticConfig,
    catalogue: Catalogue,
    timetable: Timetable,
    life: Life,
    queries: list[str],
    events: _Events,
) -> pl.DataFrame:
    search, position = events.search, events.position
    item = life.shown[search, np.maximum(position, 0)]
    start_us = int(config.start.timestamp()) * 1_000_000
    frame = pl.DataFrame(
        {
            "timestamp": pl.Series(start_us + events.at_us).cast(EVENT_SCHEMA["timestamp"]),
            "user_id": _names("u", timetable.shopper, width=5).gather(timetable.shopper[search]),
            "session_id": _names("s", timetable.session, width=6).gather(timetable.session[search]),
            "type": pl.Series([str(name) for name in _TYPES]).gather(events.kind),
            "query": pl.Series(queries).gather(search),
            "item_id": pl.Series([item_id(row) for row in range(len(catalogue))]).gather(item),
            "position": pl.Series(position + 1),
            "search_id": pl.Series([search_id(number) for number in range(len(queries))]).gather(search),
            "price": pl.Series(catalogue.price).gather(item),
            "quantity": pl.Series(np.ones(len(search), dtype=np.int64)),
        }
    )
    is_search, is_sale = pl.col("type") == EventType.SEARCH.value, pl.col("type") == EventType.PURCHASE.value
    return frame.with_columns(
        pl.when(is_search).then("query").alias("query"),
        pl.when(~is_search).then("item_id").alias("item_id"),
        pl.when(~is_search).then("position").alias("position"),
        pl.when(is_sale).then("price").alias("price"),
        pl.when(is_sale).then("quantity").alias("quantity"),
    ).select(pl.col(name).cast(kind) for name, kind in EVENT_SCHEMA.items())


def _names(prefix: str, numbers: IntArray, *, width: int) -> pl.Series:
    """Return the names of 0, 1, …, up to the largest of some numbers."""
    return pl.Series([f"{prefix}{number + 1:0{width}d}" for number in range(int(numbers.max(initial=0)) + 1)])
