"""Paging: answers are kept for a while, and a token names one of them and a place in it.

A page is cut from the very ranking of which the first page was cut, so that pages neither overlap nor leave gaps
while histories, items and versions change. The ranking stays in the server's memory; the token is a name, not a copy.
"""

import base64
import binascii
import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from corpus.errors import BadPageToken
from server.ranking import RankedWindow

MAX_TOKEN_CHARACTERS = 200
_DIGEST_BYTES = 8
_AFTER_PROCESS = "."  # no character of the names that follow


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """A ranking that further pages can be cut from."""

    search_id: str
    window: RankedWindow
    request_digest: bytes  # of the request but for its paging fields
    expires_at: float  # on the clock of the keeper


class KeptAnswers:
    """The latest answers, bounded in number and age. For one thread only."""

    def __init__(
        self,
        *,
        ttl_s: float,
        max_answers: int,
        clock: Callable[[], float] = time.monotonic,
        process: int | None = None,
    ) -> None:
        """Begin with none.

        Args:
            ttl_s: Seconds for which an answer is kept.
            max_answers: Kept at once; the oldest go first.
            clock: Seconds, never falling.
            process: Number of this one of several serving processes, which search ids, and so tokens, begin with.
        """
        self._prefix = "" if process is None else f"{process}{_AFTER_PROCESS}"
        self._ttl_s = ttl_s
        self._max_answers = max_answers
        self._clock = clock
        self._answers: OrderedDict[str, KeptAnswer] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._answers)

    def keep(self, window: RankedWindow, request_digest: bytes) -> KeptAnswer:
        """Keep an answer under a new, unguessable search id."""
        now = self._clock()
        while self._answers and next(iter(self._answers.values())).expires_at <= now:
            self._answers.popitem(last=False)
        if len(self._answers) >= self._max_answers:
            self._answers.popitem(last=False)
        answer = KeptAnswer(
            search_id=self._prefix + secrets.token_urlsafe(16),
            window=window,
            request_digest=request_digest,
            expires_at=now + self._ttl_s,
        )
        self._answers[answer.search_id] = answer
        return answer

    def find(self, token: str, request_digest: bytes) -> tuple[KeptAnswer, int]:
        """Return the answer that a page token names, and the offset of its page.

        Args:
            token: As made by ``page_token``.
            request_digest: Of the request that brings the token.
        Raises:
            BadPageToken: If the token is malformed, has expired or belongs to another request.
        """
        search_id, offset = _read(token)
        answer = self._answers.get(search_id)
        if answer is None or answer.expires_at <= self._clock():
            raise BadPageToken(
                f"this page_token has expired (they are kept for at most {self._ttl_s:.0f} s, and not across restarts "
                "of the server); search again without it",
                field="page_token",
            )
        if not secrets.compare_digest(answer.request_digest, request_digest):
            raise BadPageToken(
                "this page_token belongs to another request; send it with the fields of the first page, of which only "
                "page_size may differ",
                field="page_token",
            )
        return answer, offset


def page_token(search_id: str, offset: int) -> str:
    """Write the token of the page that begins at an offset."""
    body = json.dumps([search_id, offset], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")


def process_of(token: str) -> int | None:
    """Return the number of the serving process that keeps the answer of a token; None if the token names none.

    Raises:
        BadPageToken: If the token is malformed.
    """
    number, separator, _ = _read(token)[0].partition(_AFTER_PROCESS)
    return int(number) if separator and number.isascii() and number.isdecimal() else None


def _read(token: str) -> tuple[str, int]:
    """Return search id and offset of a token."""
    try:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        checksum, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if checksum != _checksum(body):
            raise ValueError("checksum")
        search_id, offset = json.loads(body)
        return str(search_id), int(offset)
    except (ValueError, TypeError, binascii.Error) as exc:
        raise BadPageToken(
            "expected page_token to be the next_page_token of an earlier answer, got something else; "
            "pass it on unchanged, or leave it out",
            field="page_token",
        ) from exc


def _checksum(body: bytes) -> bytes:
    """Guard against tokens that were cut or mistyped; unguessable search ids guard against forged ones."""
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
