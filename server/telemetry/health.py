"""Health by ``grpc.health.v1``: whether the process lives, and whether each of its services wants calls.

The empty name stands for the process: it is served as long as the event loop turns, and restarting is for when it is
not. A service's own name stands for readiness: calls should go elsewhere while it is not served.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from server.access.credentials import PLAIN, Credentials
from server.pb.tandem.search.v1 import search_pb2

logger = logging.getLogger(__name__)

SEARCH_SERVICE = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
ADMIN_SERVICE = search_pb2.DESCRIPTOR.services_by_name["IndexAdminService"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
POLL_S = 0.1  # between looks at how long the models have been busy


class Readiness:
    """Says of each service whether it wants calls; the search service does not while its models are stuck."""

    def __init__(self, busy_s: Callable[[], float], *, wedged_after_s: float) -> None:
        """Begin unready.

        Args:
            busy_s: Tells for how long the longest of the present searches, and of the models' runs, has been going on.
            wedged_after_s: Seconds after which it counts as stuck.
        """
        self.servicer = health.aio.HealthServicer()
        self._busy_s = busy_s
        self._wedged_after_s = wedged_after_s
        self._watching: asyncio.Task[None] | None = None
        self.is_wedged = False  # the models have been stuck, and are

    async def begin(self) -> None:
        """Say that calls are wanted, and watch the models."""
        for service in (SEARCH_SERVICE, ADMIN_SERVICE):
            await self.servicer.set(service, SERVING)
        self._watching = asyncio.create_task(self._watch())

    async def end(self) -> None:
        """Say that no more calls are wanted, whatever the models do."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        for service in (SEARCH_SERVICE, ADMIN_SERVICE):
            await self.servicer.set(service, NOT_SERVING)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            is_wedged = self._busy_s() > self._wedged_after_s
            if is_wedged == self.is_wedged:
                continue
            self.is_wedged = is_wedged
            await self.servicer.set(SEARCH_SERVICE, NOT_SERVING if is_wedged else SERVING)
            if is_wedged:
                logger.error("not ready: the models have been busy with one search for %g s", self._wedged_after_s)
            else:
                logger.info("ready: the models go on")


def check_health(address: str, service: str, *, timeout_s: float, credentials: Credentials = PLAIN) -> str:
    """Ask a server how it is.

    Args:
        address: Such as ``127.0.0.1:50051``.
        service: Full name of a service for its readiness; empty for the process.
        timeout_s: How long to wait for the answer.
        credentials: Certificates; keys are not needed.
    Returns:
        ``SERVING``, another status of ``grpc.health.v1``, or the gRPC code of a call that failed.
    Raises:
        ConfigError: If a file that the credentials name cannot be read.
    """
    with credentials.channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as exc:
            code: grpc.StatusCode = exc.code()
            return code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
