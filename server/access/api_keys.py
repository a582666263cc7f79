"""API keys: who may call what. The file holds salted hashes; a key itself is shown once and kept nowhere.

A key is 256 random bits, so that one round of HMAC-SHA-256 is as good as a slow hash, which is for secrets that
people choose.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corpus.errors import ConfigError

PREFIX = "tandem"  # keys that leak into a repository are found by it
ID_BYTES = 6
SECRET_BYTES = 32
SALT_BYTES = 16


class Scope(StrEnum):
    """What a key may be used for."""

    SEARCH = "search"
    EVENTS = "events"
    ADMIN = "admin"


class StoredKey(BaseModel):
    """One key, without what it takes to use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    key_id: str
    salt: str  # hexadecimal, as the digest
    digest: str = Field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None

    def has_expired(self, now: datetime) -> bool:
        """Tell whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    keys: tuple[StoredKey, ...] = ()


def read_keys(path: Path) -> KeyFile:
    """Read a key file.

    Raises:
        ConfigError: If it is missing or is none.
    """
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise ConfigError(f"no API keys at {path}; make one: `tandem keys add NAME --scope search`") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read the API keys at {path}: {exc.strerror}; mend its permissions") from exc
    except ValidationError as exc:
        raise ConfigError(
            f"expected {path} as `tandem keys` writes it, got {exc.error_count()} faults; restore it from a backup, "
            "or move it away and make new keys"
        ) from exc


def add_key(path: Path, name: str, scopes: Sequence[Scope], *, expires_at: datetime | None, now: datetime) -> str:
    """Make a key and keep its hash.

    Args:
        path: The file; made if there is none.
        name: For logs and limits; lower-case letters, digits, dots, hyphens, underscores.
        scopes: What it may be used for.
        expires_at: When it ends, timezone-aware; None: never.
        now: The time, timezone-aware.
    Returns:
        The key, which nothing can show again.
    Raises:
        ConfigError: If the name is taken or is none, or the file is none.
    """
    known = read_keys(path) if path.exists() else KeyFile()
    if any(key.name == name for key in known.keys):
        raise ConfigError(f"there is a key {name!r} already; remove it first, or choose another name")
    key_id, secret, salt = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES), secrets.token_hex(SALT_BYTES)
    try:
        key = StoredKey(
            name=name,
            scopes=tuple(dict.fromkeys(scopes)),
            key_id=key_id,
            salt=salt,
            digest=_digest(salt, secret),
            created_at=now,
            expires_at=expires_at,
        )
    except ValidationError as exc:
        raise ConfigError(
            f"expected a name of 1 to 64 lower-case letters, digits, '.', '-' and '_', and a scope, got {name!r} with "
            f"{len(scopes)} scopes"
        ) from exc
    _write(path, KeyFile(keys=(*known.keys, key)))
    return f"{PREFIX}_{key_id}_{secret}"


def remove_key(path: Path, name: str) -> None:
    """Forget a key; servers refuse it within a second.

    Raises:
        ConfigError: If there is none of this name, or the file is none.
    """
    known = read_keys(path)
    kept = tuple(key for key in known.keys if key.name != name)
    if len(kept) == len(known.keys):
        names = ", ".join(key.name for key in known.keys) or "none"
        raise ConfigError(f"expected the name of a key ({names}), got {name!r}")
    _write(path, KeyFile(keys=kept))


class ApiKeys:
    """The keys that a server accepts, as the file has them."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: If it is missing or is none.
        """
        self._path = path
        self._seen = _stamp(path)
        self._keys = _by_id(read_keys(path))

    def refresh(self) -> bool:
        """Read the file again if it has changed.

        Returns:
            Whether it had.
        Raises:
            ConfigError: If it is missing or is none; the keys read last count on, and it is not asked again until
                it changes.
        """
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return False
        self._seen = stamp
        self._keys = _by_id(read_keys(self._path))
        return True

    def find(self, presented: str, *, now: datetime) -> StoredKey | None:
        """Return the key that somebody presents; None if it is unknown, wrong or expired.

        Takes as long for an unknown id as for a wrong secret, and compares in constant time.

        Args:
            presented: As sent.
            now: The time, timezone-aware.
        """
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id)
        salt, digest = (key.salt, key.digest) if key is not None else ("00" * SALT_BYTES, "")
        is_right = hmac.compare_digest(_digest(salt, secret), digest)
        if key is None or not is_right or prefix != PREFIX or key.has_expired(now):
            return None
        return key


def _digest(salt: str, secret: str) -> str:
    return hmac.new(bytes.fromhex(salt), secret.encode(), hashlib.sha256).hexdigest()


def _by_id(file: KeyFile) -> dict[str, StoredKey]:
    return {key.key_id: key for key in file.keys}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _write(path: Path, file: KeyFile) -> None:
    """Replace the file at once, readable for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as output:
            output.write(file.model_dump_json(indent=2) + "\n")
            output.flush()
            os.fsync(output.fileno())
        temporary.replace(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write the API keys at {path}: {exc.strerror}; mend its folder's permissions"
        ) from exc


def utc(moment: datetime) -> datetime:
    """Read a time without a zone as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
