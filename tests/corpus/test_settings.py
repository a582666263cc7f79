from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from corpus.settings import DataConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid_from": "2024-01-01"}, "both valid_from and test_from"),
        ({"valid_from": "2024-02-01", "test_from": "2024-01-01"}, "valid_from <= test_from"),
        ({"valid_share": 0.5, "test_share": 0.5}, "nothing would be left"),
        ({"event_weights": {"click": -1}}, "event_weights >= 0"),
        ({"event_weights": {"hover": 1}}, "click"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(settings)


def test_dates_without_a_zone_are_utc():
    config = DataConfig(valid_from="2024-01-01", test_from="2024-01-02T02:00:00+02:00")
    assert config.valid_from == datetime(2024, 1, 1, tzinfo=UTC)
    assert config.test_from == datetime(2024, 1, 2, tzinfo=UTC)
