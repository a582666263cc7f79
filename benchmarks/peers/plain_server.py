"""The plain stack behind Tandem's own proto: ``Search`` alone, as an engineer would serve it.

    python -m benchmarks.peers.plain_server stores/toys --bundle stores/toys/bundles/v1 --address 127.0.0.1:0

A synchronous gRPC server whose threads take turns at the models, for torch uses all cores for one call. Says that it is
ready through ``grpc.health.v1``, and prints its address.
"""

import argparse
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from benchmarks.peers.plain_stack import PlainStack
from corpus.workspace import Workspace
from server.api.messages import item_message
from server.api.requests import read_search
from server.config import ServerConfig
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc
from server.telemetry.health import SEARCH_SERVICE

N_THREADS = 64  # as many calls as Tandem admits


class PlainService(search_pb2_grpc.SearchServiceServicer):
    """``Search`` over a plain stack."""

    def __init__(self, stack: PlainStack) -> None:
        self._stack = stack
        self._turn = threading.Lock()
        self._config = ServerConfig()

    def Search(self, request: search_pb2.SearchRequest, context: Any) -> search_pb2.SearchResponse:  # noqa: ANN401
        """Answer a search; what it asks besides a query, a history, a depth and a size is not heeded."""
        call = read_search(request, self._config, now=datetime.now(UTC))
        task = call.task
        with self._turn:
            rows, scores = self._stack.search(task.query, task.events or (), task.rerank_depth)
        best = list(zip(rows.tolist(), scores.tolist(), strict=True))[: call.page_size]
        results = [
            search_pb2.SearchResult(
                item=item_message(self._stack.items.item(row), call.item_fields), rank=rank, score=score
            )
            for rank, (row, score) in enumerate(best, start=1)
        ]
        return search_pb2.SearchResponse(results=results, total_size=len(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a store with trained models")
    parser.add_argument("--bundle", type=Path, required=True, help="the folder of a bundle built from them")
    parser.add_argument("--address", default="127.0.0.1:0", help="port 0 picks a free one")
    options = parser.parse_args(arguments)
    stack = PlainStack(Workspace(options.store), options.bundle)
    stack.search("warm", (), 2)
    server = grpc.server(ThreadPoolExecutor(N_THREADS))
    search_pb2_grpc.add_SearchServiceServicer_to_server(PlainService(stack), server)  # type: ignore[no-untyped-call]
    ready = health.HealthServicer()
    ready.set(SEARCH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(ready, server)
    port = server.add_insecure_port(options.address)
    server.start()
    sys.stdout.write(f"{options.address.rpartition(':')[0]}:{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
