import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from server.api.status import DETAILS_KEY, Violation, details_trailer, violations_of

FAULTS = (Violation(field="query", description="expected more"), Violation(field="offset", description="expected less"))


class Failed(grpc.RpcError):
    """A failed call with trailers of our choice."""

    def __init__(self, trailers):
        self._trailers = trailers

    def trailing_metadata(self):
        return self._trailers


def test_faults_survive_the_way_to_the_client():
    trailers = details_trailer(grpc.StatusCode.INVALID_ARGUMENT, "bad", violations=FAULTS)
    assert violations_of(Failed((("other", "x"), *trailers))) == FAULTS


def test_the_trailer_is_a_standard_status():
    ((key, value),) = details_trailer(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after_ms=1500)
    status = status_pb2.Status.FromString(value)
    assert (key, status.code, status.message) == (DETAILS_KEY, 8, "full")
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_an_error_with_nothing_to_add_has_no_trailer():
    assert details_trailer(grpc.StatusCode.INTERNAL, "oops") == ()


@pytest.mark.parametrize("trailers", [None, (), ((DETAILS_KEY, b"\xff\xff"),), (("x", "y"),)])
def test_other_trailers_name_no_faults(trailers):
    assert violations_of(Failed(trailers)) == ()
