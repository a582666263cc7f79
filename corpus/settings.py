"""The ``[data]`` section: which files a store has, and how they become examples."""

from datetime import UTC, datetime
from typing import Self

from pydantic import Field, field_validator, model_validator

from corpus.config import Section
from corpus.events import EventType


class DataConfig(Section):
    """``[data]``: which files, how their columns are called, and how they become examples."""

    items: str = "source/items.parquet"  # path or glob, relative to the workspace; CSV, JSON Lines or Parquet
    events: str | None = "source/events.parquet"  # path or glob; CSV, JSON Lines or Parquet; absent: judgments alone
    judgments: str | None = None  # query, item_id, grade[, split]: graded labels besides or instead of events
    item_columns: dict[str, str] = Field(default_factory=dict)  # Tandem's name -> the file's column
    event_columns: dict[str, str] = Field(default_factory=dict)  # the same for the event log
    judgment_columns: dict[str, str] = Field(default_factory=dict)  # the same for the judgments
    event_types: dict[str, EventType] = Field(default_factory=dict)  # the file's word -> search, click, purchase, …
    category_separator: str = Field(default=">", min_length=1)  # between the levels of a category written as text
    max_reject_share: float = Field(default=0.05, ge=0, le=1)  # of the rows of one table; past it the run stops
    attribution_window_minutes: float = Field(default=30.0, gt=0)  # from a search to what it led to
    event_weights: dict[EventType, float] = Field(
        default_factory=lambda: {EventType.CLICK: 0.2, EventType.ADD_TO_CART: 0.5, EventType.PURCHASE: 1.0}
    )  # training weight of an item by its strongest event; 0 or absent: no label
    history_max_events: int = Field(default=50, ge=0)  # events kept per history, the newest
    valid_from: datetime | None = None  # first instant of validation; without a zone it is UTC
    test_from: datetime | None = None  # first instant of the test split; set both dates or neither
    valid_share: float = Field(default=0.1, ge=0, lt=1)  # of the examples, at the end of time, where no date is given
    test_share: float = Field(default=0.1, ge=0, lt=1)  # of the examples, after those of validation
    judgment_positive_grade: float = Field(
        default=2.0, gt=0
    )  # from here on a judged item is a positive, weight grade/3

    @field_validator("valid_from", "test_from")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @model_validator(mode="after")
    def _splits_fit(self) -> Self:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("set both valid_from and test_from, or neither")
        if self.valid_from and self.test_from and self.valid_from > self.test_from:
            raise ValueError(f"expected valid_from <= test_from, got {self.valid_from} and {self.test_from}")
        if self.valid_share + self.test_share >= 1:
            raise ValueError("expected valid_share + test_share < 1: nothing would be left to train on")
        if any(weight < 0 for weight in self.event_weights.values()):
            raise ValueError("expected event_weights >= 0")
        return self
