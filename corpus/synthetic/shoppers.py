"""Shoppers: what they like, and when they come."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.synthetic.catalogue import BoolArray, Catalogue, FloatArray, IntArray
from corpus.synthetic.config import ChoiceConfig, SyntheticConfig
from corpus.synthetic.vocabulary import Vocabulary

_DAY_S = 86_400
_SLOTS = ((6.0, 12.0), (15.0, 22.0))  # hours of a day in which a session may begin; at most one session each
_MIN_GAP_S = 180  # between searches of a session: everything a search leads to happens within it


@dataclass(frozen=True, slots=True, kw_only=True)
class Shoppers:
    """Tastes by shopper, in utility."""

    brand: FloatArray  # (n_shoppers, n_brands)
    style: FloatArray  # (n_shoppers, n_styles)
    level: FloatArray  # (n_shoppers, 4), 0 at the preferred price level
    department: FloatArray  # (n_shoppers, n_departments), for what they search, not for what they choose

    def __len__(self) -> int:
        return len(self.brand)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """Searches in order of time; all arrays have length n_searches."""

    shopper: IntArray
    session: IntArray  # numbered by the time of their first search
    turn: IntArray  # number of the search among its shopper's, from 0
    opens_session: BoolArray
    at_us: IntArray  # microseconds since the store's first instant


def draw_shoppers(
    vocabulary: Vocabulary, catalogue: Catalogue, choice: ChoiceConfig, n_shoppers: int, rng: np.random.Generator
) -> Shoppers:
    """Draw tastes: a price level, four favourite and two disliked brands, two favourite styles, three departments."""
    brand_level = np.array(list(vocabulary.brands.values()))
    rows = np.arange(n_shoppers)
    preferred = rng.choice(4, n_shoppers, p=[0.25, 0.35, 0.25, 0.15])

    n_departments = len(catalogue.departments)
    department = np.zeros((n_shoppers, n_departments), dtype=np.float32)
    for favourite in rng.permuted(np.tile(np.arange(n_departments), (n_shoppers, 1)), axis=1)[:, :3].T:
        department[rows, favourite] = 1.5

    # favourites are brands of about the preferred level that the favourite departments carry
    leaning = 0.4 * (department @ catalogue.sells) - 0.9 * np.abs(brand_level - preferred[:, None])
    order = np.argsort(-(leaning + rng.gumbel(size=leaning.shape)), axis=1)
    brand = 0.25 * rng.standard_normal((n_shoppers, len(brand_level)))
    for place, strength in enumerate((1.0, 1.0, 0.6, 0.6)):
        brand[rows, order[:, place]] += strength * choice.brand
    for place in (-1, -2):
        brand[rows, order[:, place]] -= 0.6 * choice.brand

    n_styles = len(vocabulary.styles.values)
    styles = rng.permuted(np.tile(np.arange(n_styles), (n_shoppers, 1)), axis=1)
    style = 0.25 * rng.standard_normal((n_shoppers, n_styles))
    for place, strength in enumerate((1.0, 0.5)):
        style[rows, styles[:, place]] += strength * choice.style

    level = -choice.level * np.abs(np.arange(4) - preferred[:, None])
    return Shoppers(
        brand=brand.astype(np.float32),
        style=style.astype(np.float32),
        level=level.astype(np.float32),
        department=department,
    )


def draw_timetable(config: SyntheticConfig, rng: np.random.Generator) -> Timetable:
    """Draw who searches when: a few shoppers come often, most seldom; sessions have 1.6 searches on average.

    Sessions of a shopper never overlap: each has a slot of its own, a morning or an evening.
    """
    n_slots = config.days * len(_SLOTS)
    activity = rng.gamma(0.55, size=config.n_shoppers) + 0.02
    n_searches = rng.multinomial(config.n_searches, activity / activity.sum())
    n_sessions = np.minimum(np.maximum(1, np.round(n_searches / 1.6)).astype(np.int64), n_slots)

    slots = np.argsort(rng.random((config.n_shoppers, n_slots)), axis=1)
    shopper = np.repeat(np.arange(config.n_shoppers), n_searches)
    turn = _count_within(n_searches)
    # every session gets its first search, the rest fall where they may
    place = np.where(turn < n_sessions[shopper], turn, (rng.random(len(turn)) * n_sessions[shopper]).astype(np.int64))
    slot = slots[shopper, place]
    order = np.lexsort((slot, shopper))
    shopper, slot = shopper[order], slot[order]

    opens = np.ones(len(shopper), dtype=bool)
    opens[1:] = (shopper[1:] != shopper[:-1]) | (slot[1:] != slot[:-1])
    begin = _session_starts(slot, rng)
    gap = np.where(opens, 0.0, _MIN_GAP_S + rng.exponential(60.0, len(slot)))
    elapsed = np.cumsum(gap)
    first = np.maximum.accumulate(np.where(opens, np.arange(len(slot)), 0))
    at_us = ((begin[first] + elapsed - elapsed[first]) * 1e3).astype(np.int64) * 1000

    by_time = np.lexsort((shopper, at_us))
    shopper = shopper[by_time]
    turn = np.empty(len(shopper), dtype=np.int64)
    turn[np.argsort(shopper, kind="stable")] = _count_within(n_searches)
    return Timetable(
        shopper=shopper,
        session=_number_by_first_use((np.cumsum(opens) - 1)[by_time]),
        turn=turn,
        opens_session=opens[by_time],
        at_us=at_us[by_time],
    )


def _count_within(counts: IntArray) -> IntArray:
    """Return 0, 1, … within each of the runs whose lengths are given."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def _session_starts(slot: IntArray, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return seconds since the first instant at which a session in this slot would begin."""
    hours = np.array(_SLOTS)[slot % len(_SLOTS)]  # (n, 2)
    # the sum of two uniforms peaks in the middle of the slot
    hour = hours[:, 0] + (hours[:, 1] - hours[:, 0]) * rng.random((2, len(slot))).mean(axis=0)
    return np.asarray(slot // len(_SLOTS) * _DAY_S + hour * 3600)


def _number_by_first_use(labels: IntArray) -> IntArray:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
