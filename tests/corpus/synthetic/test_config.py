import pytest
from pydantic import ValidationError

from corpus.synthetic import ChoiceConfig, SyntheticConfig


def test_more_searches_than_the_shoppers_can_make_are_refused():
    with pytest.raises(ValidationError, match="expected n_searches <= 2 · n_shoppers · days = 40, got 41"):
        SyntheticConfig(n_shoppers=10, days=2, n_searches=41)


def test_a_cart_that_does_not_imply_a_click_is_refused():
    with pytest.raises(ValidationError, match=r"expected cart_slack <= click_slack, got 2\.0 and 1\.6"):
        ChoiceConfig(cart_slack=2.0)


def test_a_start_without_a_time_zone_is_refused():
    with pytest.raises(ValidationError, match="timezone"):
        SyntheticConfig(start="2026-01-01T00:00:00")
