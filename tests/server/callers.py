"""What callers of a server do and meet in tests of several of its parts."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from corpus.events import Event, EventType

NOW = datetime.now(UTC)


def failure(call) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def purchase(user_id: str | None, item_id: str, *, hours_ago: float = 1) -> Event:
    return Event(
        timestamp=NOW - timedelta(hours=hours_ago),
        user_id=user_id,
        session_id=None,
        type=EventType.PURCHASE,
        item_id=item_id,
    )


class Nobody:
    """Histories of nobody."""

    def history(self, shopper: str) -> tuple[()]:
        return ()
