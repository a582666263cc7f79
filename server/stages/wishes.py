"""What one search may ask of the order of its results, as values."""

from dataclasses import dataclass
from enum import StrEnum

from retrieval.filtering.filters import Filter


class Order(StrEnum):
    """What results are ordered by, in the API's words; equals, and items without the value, by relevance."""

    RELEVANCE = "relevance"
    PRICE = "price"
    PRICE_DESC = "price desc"
    NEWEST = "newest"


class Spelling(StrEnum):
    """What becomes of a misspelt query."""

    WORDS = "words"  # words are looked up as they should be spelt, meaning as it was typed
    OFF = "off"  # what was typed
    SUGGEST = "suggest"  # the same, and the correction is told
    AUTO = "auto"  # the correction


@dataclass(frozen=True, slots=True, kw_only=True)
class Boost:
    """A condition, and what meeting it is worth."""

    condition: Filter
    boost: float  # from -1, behind all others, to 1, before all others: see ``server.stages.arrangement``


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """An item that is to stand at a rank, whatever its score."""

    item_id: str
    rank: int  # from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How much results are to differ: see ``server.stages.diversity``."""

    strength: float = 0.0  # from 0, relevance alone, to 1, as different as can be
    max_per_brand: int | None = None  # results of one brand on a page
    max_per_category: int | None = None
    page_size: int  # of the pages that are counted: those of the request that begins the ranking
    first_page: int  # results of the first one, less where the request begins inside a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What becomes of a ranking after the second stage; without any wish it stays as it is."""

    order: Order = Order.RELEVANCE
    boosts: tuple[Boost, ...] = ()
    pins: tuple[Pin, ...] = ()
    diversity: Diversity | None = None
    least_probability: float = 0.0  # of being bought; 0 leaves nothing out
