"""What is asked of a store of histories, and which store a configuration means."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from corpus.errors import ConfigError
from corpus.events import EventType, HistoryEvent
from corpus.workspace import Workspace
from server.histories.pseudonyms import KEY_VARIABLE, pseudonyms_of_environment, pseudonyms_of_file

if TYPE_CHECKING:
    from server.config import ServerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopperEvent:
    """One event to be remembered."""

    shopper: str
    timestamp: datetime  # timezone-aware
    type: EventType
    item_id: str | None = None
    query: str | None = None
    session_id: str | None = None
    search_id: str | None = None
    position: int | None = None
    price: float | None = None
    quantity: int | None = None
    also: str | None = None  # the visitor who turned out to be this shopper: see ``Histories.record``


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of a call's events."""

    n_recorded: int
    n_already_known: int


class Histories(Protocol):
    """A store of histories. Safe for several threads; ids are kept as pseudonyms (``server.histories.pseudonyms``)."""

    def record(self, events: Sequence[ShopperEvent]) -> Recorded:
        """Write events, all or none. One that is there already (shopper, time, type, item, query) changes nothing.

        What is kept of ``ShopperEvent.also``, this call's events included, becomes the shopper's afterwards.

        Args:
            events: Of any shoppers, in any order.
        Raises:
            ArtefactError: If they cannot be written.
        """
        ...

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        """Return a shopper's events, newest first; none for a shopper never seen.

        Raises:
            ArtefactError: If they cannot be read.
        """
        ...

    def delete(self, shoppers: Sequence[str]) -> int:
        """Remove everything that is kept of some shoppers, and return how many events that were.

        Raises:
            ArtefactError: If it cannot be removed; calling again does no harm.
        """
        ...

    def close(self) -> None:
        """Let go of the store; a call that is being answered is waited for."""
        ...


def open_histories(config: "ServerConfig", workspace: Workspace) -> Histories:
    """Open the store of histories that a configuration names.

    Args:
        config: ``history_url`` names a Redis server; without one, ``history_path`` is a SQLite file.
        workspace: The store that a relative path starts from.
    Raises:
        ConfigError: If the key of the histories, or what a Redis store needs, is missing.
        ArtefactError: If the store is not one of this version, or was written under another key.
    """
    pseudonyms = pseudonyms_of_environment()
    max_events, ttl = config.history_max_events, timedelta(days=config.history_ttl_days)
    if config.history_url is None:
        from server.histories.sqlite_store import HistoryStore

        path = workspace.root / config.history_path
        names = pseudonyms or pseudonyms_of_file(path.with_name(path.name + ".key"))
        return HistoryStore(path, names, max_events=max_events, ttl=ttl)
    if pseudonyms is None:
        # a key file would be one of its own on every machine, and each would see other histories
        raise ConfigError(
            f"expected the key of histories in {KEY_VARIABLE} beside server.history_url, got none; make one with "
            "`openssl rand -hex 32` and give it to every server of the fleet"
        )
    try:
        from server.histories.redis_store import RedisHistoryStore
    except ModuleNotFoundError as exc:
        raise ConfigError(
            "server.history_url needs the `redis` extra: pip install 'tandem-search[redis]', or leave it out"
        ) from exc
    return RedisHistoryStore(
        config.history_url, pseudonyms, max_events=max_events, ttl=ttl, timeout_ms=config.history_timeout_ms
    )
