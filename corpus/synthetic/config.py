"""Settings of the synthetic store: its size, and the constants of its choice model."""

from datetime import UTC, datetime
from typing import Self

from pydantic import AwareDatetime, Field, model_validator

from corpus.config import Section


class ChoiceConfig(Section):
    """Constants of the choice model, in units of the Gumbel noise (whose scale is 1); see ``docs/synthetic-store.md``.

    A shopper's utility of an item is relevance + taste + affinity + popularity. Relevance is 0 at best and falls by
    the penalties below; taste and affinity are what a reader of the history can learn.
    """

    off_target: float = Field(default=9.0, ge=0)  # penalty: the item is of a product type that was not asked for
    same_aisle: float = Field(default=4.5, ge=0)  # penalty instead: not asked for, but from the same aisle
    missed_brand: float = Field(default=3.0, ge=0)  # penalty: a stated brand is not the item's
    missed_style: float = Field(default=2.0, ge=0)
    missed_level: float = Field(default=1.2, ge=0)  # per step between the stated and the item's price level
    missed_attribute: float = Field(default=2.2, ge=0)  # each stated colour, material or option

    brand: float = Field(default=2.8, ge=0)  # taste: a favourite brand
    style: float = Field(default=2.6, ge=0)  # taste: the favourite style
    level: float = Field(default=1.0, ge=0)  # taste: penalty per step from the preferred price level
    bought_brand: float = Field(default=1.0, ge=0)  # affinity: the brand was bought before
    bought_style: float = Field(default=0.8, ge=0)  # affinity: the style was bought before
    complement: float = Field(default=1.2, ge=0)  # affinity: goes with a recent purchase
    bought_item: float = Field(default=2.0, ge=0)  # penalty: this very item was bought before

    popularity: float = Field(default=0.6, ge=0)  # per standard deviation of an item's appeal to everybody
    outside: float = 5.2  # utility of buying nothing
    cart_slack: float = Field(default=0.6, ge=0)  # the best item enters the cart this far below the outside option
    click_slack: float = Field(default=1.6, ge=0)  # an item is clicked this far below the outside option …
    click_gap: float = Field(default=0.9, ge=0)  # … if it is also this close to the best item seen
    position_bias: float = Field(default=0.4, ge=0)  # position p is noticed with probability p ** -position_bias

    @model_validator(mode="after")
    def _a_cart_implies_a_click(self) -> Self:
        if self.cart_slack > self.click_slack:
            raise ValueError(f"expected cart_slack <= click_slack, got {self.cart_slack} and {self.click_slack}")
        return self


class SyntheticConfig(Section):
    """What ``generate`` makes. The defaults suit a demonstration on two slow cores."""

    seed: int = Field(default=13, ge=0)
    n_items: int = Field(default=3_000, ge=200)
    n_shoppers: int = Field(default=2_500, ge=10)
    n_searches: int = Field(default=12_000, ge=10)
    days: int = Field(default=60, ge=2)
    start: AwareDatetime = datetime(2026, 3, 1, tzinfo=UTC)
    results_per_search: int = Field(default=20, ge=5, le=100)
    typo_share: float = Field(default=0.08, ge=0, le=1)  # of the queries
    oracle_share: float = Field(default=0.25, gt=0, le=1)  # of the time span, at its end: searches with an oracle
    oracle_depth: int = Field(default=100, ge=10, le=200)
    choice: ChoiceConfig = ChoiceConfig()

    @model_validator(mode="after")
    def _searches_fit(self) -> Self:
        # more would make the sessions of very active shoppers run into each other
        if self.n_searches > 2 * self.n_shoppers * self.days:
            raise ValueError(
                f"expected n_searches <= 2 · n_shoppers · days = {2 * self.n_shoppers * self.days:,}, "
                f"got {self.n_searches:,}; add shoppers or days"
            )
        return self
