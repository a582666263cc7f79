"""A typed client of what operators may do.

>>> with TandemAdmin("127.0.0.1:50052") as admin:                                       # doctest: +SKIP
...     admin.upsert_items([Item(item_id="i-1", title="trail running shoe", price=79.0)])
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from corpus.errors import ActivationRefused, UpdatesRefused
from corpus.items import Item
from server.access.credentials import PLAIN, Credentials
from server.api.messages import item_message
from server.api.requests import ITEM_FIELDS
from server.client.connection import Connection
from server.pb.tandem.search.v1 import search_pb2, search_pb2_grpc


class TandemAdmin(Connection):
    """Changes the catalogue that a server answers from."""

    def __init__(self, address: str, *, timeout_s: float = 60.0, credentials: Credentials = PLAIN) -> None:
        """Connect when first needed.

        Args:
            address: The server's ``admin_address``, such as ``127.0.0.1:50052``.
            timeout_s: Deadline of each call.
            credentials: Key and certificates.
        Raises:
            ConfigError: If a file that the credentials name cannot be read.
        """
        super().__init__(address, timeout_s=timeout_s, credentials=credentials)
        self._stub: Any = search_pb2_grpc.IndexAdminServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def upsert_items(self, items: Sequence[Item]) -> int:
        """Add or replace items; when this returns they are on the server's disk, and searches find them.

        Args:
            items: Whole ones: fields left out are emptied. At most 500, each id once.
        Returns:
            How many were taken.
        Raises:
            TandemError: Of the type that the server raised; nothing has changed then. Calling again does no harm.
        """
        request = search_pb2.UpsertItemsRequest(items=[item_message(item, ITEM_FIELDS) for item in items])
        return int(self._call(self._stub.UpsertItems, request, None).n_upserted)

    def activate_version(self, version: str, *, reason: str | None = None, timeout_s: float = 600.0) -> str:
        """Let the server make a bundle current and answer from it.

        Args:
            version: Such as ``v3``.
            reason: Why the release gate is not asked; None: it is, which can take minutes.
            timeout_s: Deadline of this call.
        Returns:
            The version that is served now.
        Raises:
            ActivationRefused: If the gate or a check refuses it; what was served is served.
            TandemError: Of the type that the server raised.
        """
        request = search_pb2.ActivateVersionRequest(version=version, reason=reason)
        with _activating():
            return str(self._call(self._stub.ActivateVersion, request, timeout_s).version.version)

    def roll_back(self) -> str:
        """Let the server serve the bundle that was current before; called again, the one before that.

        Returns:
            The version that is served now.
        Raises:
            ActivationRefused: If there is none, or it cannot be served.
            TandemError: Of the type that the server raised.
        """
        with _activating():
            return str(
                self._call(self._stub.RollbackVersion, search_pb2.RollbackVersionRequest(), None).version.version
            )

    def delete_items(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        """Remove items; when this returns that is on the server's disk, and no search finds them.

        Args:
            item_ids: At most 500.
        Returns:
            Those that were not there.
        Raises:
            TandemError: Of the type that the server raised; nothing has changed then. Calling again does no harm.
        """
        request = search_pb2.DeleteItemsRequest(item_ids=item_ids)
        return tuple(self._call(self._stub.DeleteItems, request, None).unknown_item_ids)


@contextmanager
def _activating() -> Iterator[None]:
    try:
        yield
    except UpdatesRefused as exc:  # what a failed precondition is for most calls
        raise ActivationRefused(str(exc)) from exc
