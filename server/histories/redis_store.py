"""What shoppers did, remembered in Redis, so that the servers of several machines share their histories.

Of each shopper there are two keys: a sorted set of events by their time, whose members are what makes two events the
same, and a hash with what else is known of them. Every call is one script, which Redis runs alone: all of a call's
events are written, or none, and a repeated call changes nothing. Both keys expire once their newest event is too old.

A look-up is worth some milliseconds to a search, and no more: timeouts are short, nothing is tried twice, and after a
failure Redis is left alone for a moment (``Breaker``).
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from corpus.errors import ArtefactError, ConfigError
from corpus.events import EventType, HistoryEvent
from server.histories.contract import Recorded, ShopperEvent
from server.histories.pseudonyms import KEY_VARIABLE, Pseudonyms
from server.histories.sqlite_store import EPOCH, MICROSECOND, microseconds
from server.inference.breaker import Breaker

logger = logging.getLogger(__name__)

EVENTS_PREFIX = "tandem:1:events:"  # 1: version of what is kept
DETAILS_PREFIX = "tandem:1:details:"
KEY_KEY = "tandem:1:key"  # under which key the pseudonyms are
SEPARATOR = "\x1f"  # between the parts of a member; ids are printable, and queries hold no control characters
WRITE_TIMEOUT_S = 1.0  # a script of 100 events, and the disk of a Redis that flushes every call
BREAK_S = 1.0  # after a failure, until Redis is asked again

# KEYS: events and details of shopper 0, of shopper 1, …; numbers of shoppers below begin at 0
RECORD = """
local call = cjson.decode(ARGV[1])
for i = 1, #KEYS do
  local kind = redis.call('TYPE', KEYS[i])['ok']
  if kind ~= 'none' and kind ~= ((i % 2 == 1) and 'zset' or 'hash') then
    return redis.error_reply('WRONGTYPE something else lies where histories are kept')
  end
end
local function events(shopper) return KEYS[2 * shopper + 1] end
local function details(shopper) return KEYS[2 * shopper + 2] end
local n_recorded = 0
for _, event in ipairs(call.events) do
  local shopper, at, member, detail = event[1], event[2], event[3], event[4]
  if redis.call('ZADD', events(shopper), 'NX', at, member) == 1 then
    n_recorded = n_recorded + 1
    if detail ~= '' then redis.call('HSET', details(shopper), member, detail) end
  end
end
for _, merge in ipairs(call.merges) do
  local from, into = merge[1], merge[2]
  local found = redis.call('ZRANGE', events(from), 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    if redis.call('ZADD', events(into), 'NX', found[i + 1], found[i]) == 1 then
      local detail = redis.call('HGET', details(from), found[i])
      if detail then redis.call('HSET', details(into), found[i], detail) end
    end
  end
  redis.call('DEL', events(from), details(from))
end
for shopper = 0, #KEYS / 2 - 1 do
  local surplus = redis.call('ZRANGE', events(shopper), 0, -1 - call.max_events)
  local old = redis.call('ZRANGE', events(shopper), '-inf', call.oldest_us, 'BYSCORE')
  for _, members in ipairs({surplus, old}) do
    for _, member in ipairs(members) do
      redis.call('ZREM', events(shopper), member)
      redis.call('HDEL', details(shopper), member)
    end
  end
  local newest = redis.call('ZRANGE', events(shopper), -1, -1, 'WITHSCORES')[2]
  if newest then
    local left_ms = string.format('%.0f', math.ceil((tonumber(newest) - tonumber(call.oldest_us)) / 1000))
    redis.call('PEXPIRE', events(shopper), left_ms)
    redis.call('PEXPIRE', details(shopper), left_ms)
  end
end
return n_recorded
"""

DELETE = """
local n_deleted = 0
for i = 1, #KEYS, 2 do
  n_deleted = n_deleted + redis.call('ZCARD', KEYS[i])
  redis.call('DEL', KEYS[i], KEYS[i + 1])
end
return n_deleted
"""


class RedisHistoryStore:
    """Histories in one Redis server, or behind its Sentinel's address. Safe for several threads."""

    def __init__(
        self,
        url: str,
        pseudonyms: Pseudonyms,
        *,
        max_events: int = 200,
        ttl: timedelta = timedelta(days=365),
        timeout_ms: float = 50.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Look whether Redis is there; if it is not, searches begin without histories.

        Args:
            url: Such as ``redis://host:6379/0``.
            pseudonyms: What shoppers are called in it.
            max_events: Kept per shopper; the oldest go first.
            ttl: Age at which an event is forgotten.
            timeout_ms: For Redis to take a connection, and again to answer a look-up, in milliseconds.
            now: The clock.
        Raises:
            ConfigError: If the URL is none.
            ArtefactError: If the histories there were written under another key.
        """
        self._pseudonyms = pseudonyms
        self._max_events = max_events
        self._ttl = ttl
        self._now = now
        self._breaker = Breaker(BREAK_S)
        self._is_ours = False  # whether the key has been compared
        self._reader = _client(url, timeout_s=timeout_ms / 1000, answer_s=timeout_ms / 1000)
        self._writer = _client(url, timeout_s=timeout_ms / 1000, answer_s=WRITE_TIMEOUT_S)
        where = self._reader.connection_pool.connection_kwargs
        self._address = f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"  # without the password
        self._record = self._writer.register_script(RECORD)
        self._delete = self._writer.register_script(DELETE)
        try:
            with self._asking():
                self._check_key()
        except RedisUnavailable as exc:
            logger.error("histories begin without Redis: %s", exc)

    def record(self, events: Sequence[ShopperEvent]) -> Recorded:
        """Write events; all are written, or none. They are as safe as Redis is told to keep them.

        Args:
            events: Of any shoppers, in any order; for those of a visitor who signed in see ``Histories``.
        Raises:
            ArtefactError: If Redis does not take them.
        """
        number: dict[str, int] = {}
        for event in events:
            for shopper in (event.shopper, event.also):
                if shopper is not None:
                    number.setdefault(shopper, len(number))
        call = {
            "events": [
                (number[event.shopper], str(microseconds(event.timestamp)), _member(event), _details(event))
                for event in events
            ],
            "merges": [(number[event.also], number[event.shopper]) for event in events if event.also is not None],
            "max_events": self._max_events,
            "oldest_us": str(self._oldest()),
        }
        with self._asking():
            self._check_key()
            n_recorded = _number(self._record(keys=self._keys(list(number)), args=[json.dumps(call)]))
        return Recorded(n_recorded=n_recorded, n_already_known=len(events) - n_recorded)

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        """Return a shopper's events, newest first; none for a shopper never seen.

        Raises:
            ArtefactError: If Redis does not answer in time, or did not a moment ago.
        """
        events_key, details_key = self._keys([shopper])
        with self._asking():
            self._check_key()
            # no transaction: a full Redis refuses those, and an event without its visit does no harm
            both = self._reader.pipeline(transaction=False)
            both.zrange(
                events_key, "+inf", f"({self._oldest()}", desc=True, byscore=True, offset=0, num=self._max_events
            )
            both.hgetall(details_key)
            members, details = cast("tuple[list[bytes], dict[bytes, bytes]]", both.execute())
            return tuple(_event(member.decode(), details.get(member)) for member in members)

    def delete(self, shoppers: Sequence[str]) -> int:
        """Remove everything that is kept of some shoppers.

        Returns:
            How many events were removed.
        Raises:
            ArtefactError: If Redis does not do it.
        """
        with self._asking():
            self._check_key()
            return _number(self._delete(keys=self._keys(shoppers)))

    def close(self) -> None:
        """Hang up."""
        self._reader.close()
        self._writer.close()

    def _keys(self, shoppers: Sequence[str]) -> list[str]:
        names = map(self._pseudonyms.of, shoppers)
        return [prefix + name for name in names for prefix in (EVENTS_PREFIX, DETAILS_PREFIX)]

    def _oldest(self) -> int:
        return microseconds(self._now() - self._ttl)

    def _check_key(self) -> None:
        """Note the key in an empty Redis; refuse one with another key, whose histories would be nobody's."""
        if self._is_ours:
            return
        ours = self._pseudonyms.fingerprint
        self._reader.set(KEY_KEY, ours, nx=True)
        found = cast("bytes | None", self._reader.get(KEY_KEY))
        if found != ours.encode():
            raise ArtefactError(
                f"expected the key that the histories in Redis at {self._address} were written under, got another "
                f"one; give every server the same {KEY_VARIABLE}, or this fleet a database of its own"
            )
        self._is_ours = True

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let Redis be asked unless it failed a moment ago, and turn what it raises into our error."""
        if not self._breaker.admits():
            raise RedisUnavailable(f"Redis at {self._address} failed a moment ago, and is asked again in a second")
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as exc:
            self._breaker.note(failed=True)
            raise RedisUnavailable(f"expected Redis at {self._address} to answer in time, got: {exc}") from exc
        except redis.RedisError as exc:
            self._breaker.note(failed=False)
            raise ArtefactError(
                f"expected Redis at {self._address} to keep histories, got: {exc}; mend its configuration"
            ) from exc
        except (TypeError, ValueError, LookupError, AttributeError) as exc:  # its client's, or ours: of another kind
            self._breaker.note(failed=True)
            raise RedisUnavailable(
                f"expected Redis at {self._address} to speak as Redis does, got answers of another kind "
                f"({type(exc).__name__}); look what listens there"
            ) from exc
        else:
            self._breaker.note(failed=False)


class RedisUnavailable(ArtefactError):
    """Redis does not answer, or not in time."""


def _number(answer: object) -> int:
    if not isinstance(answer, int):
        raise TypeError(f"expected a number, got {type(answer).__name__}")
    return answer


def _client(url: str, *, timeout_s: float, answer_s: float) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=timeout_s,
            socket_timeout=answer_s,
            retry=Retry(NoBackoff(), 0),  # the default tries thrice, each time as long
            health_check_interval=0,
        )
    except ValueError as exc:  # its text may hold the password
        raise ConfigError(
            "expected server.history_url as redis://HOST:PORT/DATABASE, rediss://… or unix://…, got something else"
        ) from exc


def _member(event: ShopperEvent) -> str:
    """Write what makes two events of a shopper the same, in the order in which equal times are read."""
    at = microseconds(event.timestamp)
    return SEPARATOR.join((str(at), event.type.value, event.item_id or "", event.query or ""))


def _details(event: ShopperEvent) -> str:
    details: dict[str, Any] = {
        name: value
        for name in ("session_id", "search_id", "position", "price", "quantity")
        if (value := getattr(event, name)) is not None
    }
    return json.dumps(details) if details else ""


def _event(member: str, details: bytes | None) -> HistoryEvent:
    at, kind, item_id, query = member.split(SEPARATOR)
    return HistoryEvent(
        timestamp=EPOCH + int(at) * MICROSECOND,
        type=EventType(kind),
        item_id=item_id or None,
        query=query or None,
        session_id=json.loads(details).get("session_id") if details else None,
    )
