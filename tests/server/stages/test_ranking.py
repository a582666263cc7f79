import pytest

from server.stages.ranking import DegradationReason, Run


@pytest.mark.parametrize("reason", DegradationReason)
def test_only_what_a_deadline_took_away_was_for_want_of_time(reason):
    run = Run(deadline=1e12)
    assert run.had_time()
    run.degrade(reason, "something is missing")
    assert run.had_time() == (reason is not DegradationReason.DEADLINE)  # a slow reranker's answer came as soon as ever
