"""Servers under load and faults; the long forms run with ``--robustness N``."""

import pytest

from tests.server.conftest import any_pace, loop, own_store, serving, store  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def times(request: pytest.FixtureRequest) -> int:
    """How many times as long as in the daily run a test is to go on."""
    found: int = request.config.getoption("--robustness")
    return found
