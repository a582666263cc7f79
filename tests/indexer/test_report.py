import pytest

from indexer.report import Estimate


@pytest.mark.parametrize(
    ("estimate", "signed", "text"),
    [
        (Estimate(value=0.5834, low=0.571, high=0.595), False, ".583 ±.012"),
        (Estimate(value=1.0, low=1.0, high=1.0), False, "1.000 ±.000"),
        (Estimate(value=0.0301, low=0.02, high=0.04), True, "+.030 ±.010"),
        (Estimate(value=-0.2, low=-0.3, high=-0.1), True, "-.200 ±.100"),
        (Estimate(value=-1.0, low=-1.0, high=-1.0), True, "-1.000 ±.000"),
    ],
)
def test_an_estimate_is_written_with_half_its_interval(estimate, signed, text):
    assert estimate.text(signed=signed) == text
