"""What shoppers are called where their histories are kept: keyed hashes, so that a copy of the store names nobody.

Source: keyed BLAKE2b, RFC 7693.
"""

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from corpus.errors import ArtefactError, ConfigError

KEY_VARIABLE = "TANDEM_HISTORY_KEY"
LEAST_CHARACTERS = 32  # of a key: `openssl rand -hex 16` makes 128 bits of them
N_BYTES = 16  # of a pseudonym: of a billion shoppers, two share one once in 10^20 stores (n² / 2^129)


class Pseudonyms:
    """One key's names for shoppers: always the same ones, and nobody without the key can tell whose they are."""

    def __init__(self, key: str) -> None:
        """Take a key.

        Args:
            key: A secret of at least ``LEAST_CHARACTERS`` characters.
        Raises:
            ConfigError: If it is shorter.
        """
        if len(key) < LEAST_CHARACTERS:
            raise ConfigError(
                f"expected a key of histories ({KEY_VARIABLE}) of at least {LEAST_CHARACTERS} characters, got "
                f"{len(key)}; make one with `openssl rand -hex 32`"
            )
        self._key = hashlib.blake2b(key.encode()).digest()  # 64 bytes, the most that BLAKE2b takes

    def of(self, shopper: str) -> str:
        """Return the name under which a shopper's events are kept; 32 hexadecimal digits."""
        return self._digest(b"shopper", shopper)

    @property
    def fingerprint(self) -> str:
        """What tells this key from others without telling the key."""
        return self._digest(b"key", "")

    def _digest(self, purpose: bytes, text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=N_BYTES, key=self._key, person=purpose).hexdigest()


def pseudonyms_of_environment(environ: Mapping[str, str] | None = None) -> Pseudonyms | None:
    """Return those under the key in ``TANDEM_HISTORY_KEY``, None if it is not set.

    Raises:
        ConfigError: If the key is too short.
    """
    key = (os.environ if environ is None else environ).get(KEY_VARIABLE, "").strip()
    return Pseudonyms(key) if key else None


def pseudonyms_of_file(path: Path) -> Pseudonyms:
    """Return those under the key in a file, which is made, for its owner alone to read, if it is not there.

    Raises:
        ArtefactError: If it can neither be read nor made.
        ConfigError: If what it holds is too short.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
        return Pseudonyms(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as exc:
        raise ArtefactError(
            f"expected to read or make the key of histories at {path}, got: {exc}; check the file's permissions, or "
            f"set {KEY_VARIABLE}"
        ) from exc


def _make_key(path: Path) -> None:
    """Write a new key, whole or not at all, unless another server was faster."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # for its owner alone
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
