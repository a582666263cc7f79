"""The serving processes of one server among themselves: who began an answer also answers for its further pages.

A client's connection belongs to one process, but after a reconnect, or through a proxy, the next page is asked of
another. That one passes the request on over a private Unix socket, whose folder only the server's owner may enter: keys
and rates were checked where the call came in.
"""

import logging
import time

import grpc

from corpus.errors import BadPageToken, ConfigError, DeadlineExceeded, Overloaded, TandemError
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.processes.listening import grpc_server
from server.processes.sharing import Share
from server.rankings.page_tokens import process_of
from server.stages.ranking import Run

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH_BYTES = 107  # of Linux
# an answer may carry a thousand items, and a sibling that was started again is to be found at once
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


class Siblings:
    """Asks the other processes, and answers them."""

    def __init__(self, share: Share, *, max_request_bytes: int) -> None:
        """Answer nobody yet.

        Args:
            share: This process's place.
            max_request_bytes: What a caller's request may have.
        """
        self.number = share.number
        self._share = share
        self._server = grpc_server(max_request_bytes)

    async def begin(self, service: search_pb2_grpc.SearchServiceServicer) -> None:
        """Let siblings ask a service of this process.

        Raises:
            ConfigError: If its socket cannot be made.
        """
        search_pb2_grpc.add_SearchServiceServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        address = self._share.socket_of(self.number)
        if len(address.removeprefix("unix:").encode()) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"expected a folder for temporary files with a path short enough for sockets, got "
                f"{self._share.folder}; set TMPDIR=/tmp"
            )
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as exc:
            raise ConfigError(
                f"cannot make a socket in {self._share.folder}; let TMPDIR name a folder that may be written"
            ) from exc
        await self._server.start()

    async def end(self) -> None:
        """Answer siblings no more."""
        await self._server.stop(0)

    def holder_of(self, page_token: str) -> int | None:
        """Return the sibling that keeps a token's ranking; None if that is no sibling's.

        Raises:
            BadPageToken: If the token is malformed.
        """
        number = process_of(page_token)
        is_sibling = number is not None and number != self.number and 1 <= number <= self._share.n_processes
        return number if is_sibling else None

    async def search(self, holder: int, request: search_pb2.SearchRequest, run: Run) -> search_pb2.SearchResponse:
        """Let a sibling answer a request.

        Args:
            holder: Its number.
            request: As it came.
            run: The clock.
        Raises:
            BadPageToken: If the sibling refuses the token, or has ended, and its rankings with it.
            TandemError: Whatever else the sibling answers.
        """
        run.check_time()
        with run.stage("forward"):
            async with grpc.aio.insecure_channel(self._share.socket_of(holder), options=CHANNEL_OPTIONS) as channel:
                stub = search_pb2_grpc.SearchServiceStub(channel)  # type: ignore[no-untyped-call]
                try:
                    response: search_pb2.SearchResponse = await stub.Search(
                        request, timeout=run.deadline - time.monotonic()
                    )
                except grpc.aio.AioRpcError as exc:
                    raise _failure(exc, holder) from exc
        return response


def _failure(error: grpc.aio.AioRpcError, holder: int) -> TandemError:
    code, message = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return BadPageToken(
            "this page_token has expired with the process of the server that kept its ranking; search again without it",
            field="page_token",
        )
    if code is grpc.StatusCode.INVALID_ARGUMENT:  # this process has found no fault but what its sibling knows
        return BadPageToken(message, field="page_token")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the call's deadline passed before it could be answered; allow it more time")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Overloaded(message)
    logger.error("process %d failed to answer for a page: %s", holder, code.name)
    return TandemError(message)
