"""Refuses the searches that there is no room for, before anything is made of them: ten times as many must cost little.

Whoever comes through is asked again by ``Admission.admit``, once his message is read and found good.
"""

import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.api.status import retry_trailer
from server.calls.admission import Admission
from server.calls.layers import Context, Method
from server.pb.tandem.search.v1 import search_pb2

SEARCH = "SearchService.Search"
CODE = grpc.StatusCode.RESOURCE_EXHAUSTED


class LoadShedding:
    """Stands before ``Search`` alone, which is what comes by the thousand."""

    def __init__(self, searches: Admission, deadline_of: Callable[[Context], float], *, retry_after_ms: float) -> None:
        """Stand before nothing yet.

        Args:
            searches: The house.
            deadline_of: Tells when a call's answer must be there, in ``time.monotonic()`` seconds.
            retry_after_ms: What a refused caller is told to wait.
        """
        self._searches = searches
        self._deadline_of = deadline_of
        self._retry_after_ms = retry_after_ms

    def wrap(self, method: Method, rpc: str) -> Method:
        """Ask whether there is room for each search."""
        if rpc != SEARCH:
            return method

        async def admitted(data: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            deadline = self._deadline_of(context)
            why = self._searches.obstacle(deadline)
            if why is not None and time.monotonic() < deadline:  # a deadline that has passed is told as such
                if _is_further_page(data):
                    why = self._searches.obstacle()
                if why is not None:
                    self._searches.note_refusal()
                    await context.abort(CODE, why, retry_trailer(CODE, why, self._retry_after_ms))
            return await method(data, context)

        return admitted


def _is_further_page(data: bytes) -> bool:
    """Tell whether a search brings a page token, and so costs next to nothing; takes some microseconds."""
    try:
        return bool(search_pb2.SearchRequest.FromString(data).page_token)
    except (DecodeError, ValueError):
        return False
