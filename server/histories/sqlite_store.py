"""What shoppers did, remembered on disk: one SQLite file.

An event is on disk (write-ahead log, fsync) before ``record`` returns. A shopper's history is bounded in length and
age. Events are keyed by what they are, so that a call that is repeated after a lost answer changes nothing. Shoppers
are kept under pseudonyms, and what is removed is overwritten.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from corpus.errors import ArtefactError
from corpus.events import EventType, HistoryEvent
from server.histories.contract import Recorded, ShopperEvent
from server.histories.file_lock import FileLock
from server.histories.pseudonyms import KEY_VARIABLE, Pseudonyms

SCHEMA_VERSION = 2
LAST_WITHOUT_PSEUDONYMS = 1  # version of the schema that had the ids themselves
BUSY_TIMEOUT_S = 1.0  # for other processes that write, and again for one, such as a backup, that holds the file
PURGE_INTERVAL_S = 3600.0  # between removals of what has grown too old
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# the key is also the order in which a history is read
SCHEMA = """
CREATE TABLE events (
  shopper    TEXT    NOT NULL,
  at_us      INTEGER NOT NULL,  -- microseconds since 1970, UTC
  type       TEXT    NOT NULL,
  item_id    TEXT    NOT NULL,  -- '' for none
  query      TEXT    NOT NULL,  -- '' for none
  session_id TEXT,
  search_id  TEXT,
  position   INTEGER,
  price      REAL,
  quantity   INTEGER,
  PRIMARY KEY (shopper, at_us, type, item_id, query)
) WITHOUT ROWID;
CREATE INDEX events_by_age ON events (at_us);
"""
# under which key the pseudonyms of a file are
KEY_SCHEMA = "CREATE TABLE key (fingerprint TEXT NOT NULL)"


class HistoryStore:
    """Histories in a SQLite file. Safe to call from several threads; readers do not wait for writers."""

    def __init__(
        self,
        path: Path,
        pseudonyms: Pseudonyms,
        *,
        max_events: int = 200,
        ttl: timedelta = timedelta(days=365),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open the file, or create it, and remove what has grown too old.

        Args:
            path: The file. One of the version that had no pseudonyms yet is given them.
            pseudonyms: What shoppers are called in it.
            max_events: Kept per shopper; the oldest go first.
            ttl: Age at which an event is forgotten.
            now: The clock.
        Raises:
            ArtefactError: If the file cannot be opened, or is not a history store of this version and key.
        """
        self._path = path
        self._pseudonyms = pseudonyms
        self._max_events = max_events
        self._ttl = ttl
        self._now = now
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        with self._wrapping_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file_lock = FileLock(path.with_name(path.name + ".lock"))
            try:
                with self._file_lock.hold(within_s=BUSY_TIMEOUT_S):
                    self._writer = self._connect()
                    self._prepare()
                    self._reader = self._connect()
                    self._purge()
            except BaseException:
                self._file_lock.close()
                raise

    def record(self, events: Sequence[ShopperEvent]) -> Recorded:
        """Write events; when this returns they are on disk. All are written, or none.

        Args:
            events: Of any shoppers, in any order; for those of a visitor who signed in see ``Histories``.
        Raises:
            ArtefactError: If the file cannot be written.
        """
        name_of = self._pseudonyms.of
        merges = {name_of(event.also): name_of(event.shopper) for event in events if event.also is not None}
        rows = [
            (
                name_of(event.shopper),
                microseconds(event.timestamp),
                event.type.value,
                event.item_id or "",
                event.query or "",
                event.session_id,
                event.search_id,
                event.position,
                event.price,
                event.quantity,
            )
            for event in events
        ]
        with self._writing():
            with self._writer:  # one transaction; the fsync happens when it commits
                self._writer.execute("BEGIN IMMEDIATE")
                before = self._writer.total_changes
                self._writer.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                n_recorded = self._writer.total_changes - before
                for visitor, shopper in merges.items():
                    self._writer.execute(
                        "UPDATE OR IGNORE events SET shopper = ? WHERE shopper = ?", (shopper, visitor)
                    )
                    self._writer.execute("DELETE FROM events WHERE shopper = ?", (visitor,))  # what both had
                self._trim({row[0] for row in rows})
            if time.monotonic() - self._purged_at > PURGE_INTERVAL_S:
                self._purge()
        return Recorded(n_recorded=n_recorded, n_already_known=len(rows) - n_recorded)

    def history(self, shopper: str) -> tuple[HistoryEvent, ...]:
        """Return a shopper's events, newest first; none for a shopper never seen.

        Raises:
            ArtefactError: If the file cannot be read.
        """
        with self._read_lock, self._wrapping_errors():
            rows = self._reader.execute(
                "SELECT at_us, type, item_id, query, session_id FROM events WHERE shopper = ? AND at_us > ? "
                "ORDER BY at_us DESC LIMIT ?",
                (self._pseudonyms.of(shopper), self._oldest(), self._max_events),
            ).fetchall()
        return tuple(
            HistoryEvent(
                timestamp=EPOCH + at_us * MICROSECOND,
                type=EventType(kind),
                item_id=item_id or None,
                query=query or None,
                session_id=session_id,
            )
            for at_us, kind, item_id, query, session_id in rows
        )

    def delete(self, shoppers: Sequence[str]) -> int:
        """Remove everything that is kept of some shoppers; when this returns, no byte of it is left in the file.

        Returns:
            How many events were removed.
        Raises:
            ArtefactError: If the file cannot be written, or another process keeps reading its write-ahead log.
        """
        names = [(self._pseudonyms.of(shopper),) for shopper in shoppers]
        with self._writing(), self._read_lock:
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                before = self._writer.total_changes
                self._writer.executemany("DELETE FROM events WHERE shopper = ?", names)
                n_deleted = self._writer.total_changes - before
            # secure_delete has overwritten the pages; the log still has them as they were
            is_busy = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if is_busy:
                raise sqlite3.OperationalError("another process reads the file, whose log still holds what was deleted")
        return n_deleted

    def close(self) -> None:
        """Close the file; a call that is being answered is waited for."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()
            self._file_lock.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten with zeros
        return connection

    def _prepare(self) -> None:
        """Create the tables in a new file; refuse a file of another kind."""
        self._writer.execute("PRAGMA journal_mode = WAL")
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            found = self._writer.execute("PRAGMA user_version").fetchone()[0]
            n_tables = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if found == 0 and n_tables == 0:
                for statement in SCHEMA.split(";\n"):
                    self._writer.execute(statement)
                self._note_key()
            elif found == LAST_WITHOUT_PSEUDONYMS:
                self._writer.create_function("pseudonym", 1, self._pseudonyms.of, deterministic=True)
                self._writer.execute("UPDATE events SET shopper = pseudonym(shopper)")
                self._note_key()
            elif found != SCHEMA_VERSION:
                raise ArtefactError(
                    f"expected a history store of version {SCHEMA_VERSION} at {self._path}, got version {found}; "
                    "name another file as server.history_path"
                )
            elif self._writer.execute("SELECT fingerprint FROM key").fetchone() != (self._pseudonyms.fingerprint,):
                raise ArtefactError(
                    f"expected the key that the history store {self._path} was written under, got another one; put "
                    f"it back ({KEY_VARIABLE}, or without it the file {self._path.name}.key), or move the store away "
                    "to begin with empty histories"
                )
        if found == LAST_WITHOUT_PSEUDONYMS:
            self._writer.execute("VACUUM")  # pages that were given up still hold ids
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _note_key(self) -> None:
        self._writer.execute(KEY_SCHEMA)
        self._writer.execute("INSERT INTO key VALUES (?)", (self._pseudonyms.fingerprint,))
        self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _trim(self, shoppers: set[str]) -> None:
        for shopper in shoppers:
            self._writer.execute(
                "DELETE FROM events WHERE shopper = ?1 AND at_us < "
                "(SELECT at_us FROM events WHERE shopper = ?1 ORDER BY at_us DESC LIMIT 1 OFFSET ?2)",
                (shopper, self._max_events - 1),
            )

    def _purge(self) -> None:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute("DELETE FROM events WHERE at_us <= ?", (self._oldest(),))
        self._purged_at = time.monotonic()

    def _oldest(self) -> int:
        return microseconds(self._now() - self._ttl)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the one that writes, among the threads of all processes."""
        with self._write_lock, self._wrapping_errors(), self._file_lock.hold(within_s=BUSY_TIMEOUT_S):
            yield

    @contextmanager
    def _wrapping_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise ArtefactError(
                f"the history store {self._path} cannot be used: {exc}; check the disk's space and the file's "
                "permissions, or move the file away to begin with empty histories"
            ) from exc


def microseconds(moment: datetime) -> int:
    """Return a timezone-aware time as microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND
