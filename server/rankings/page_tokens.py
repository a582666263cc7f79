"""Paging: a token names a ranking that the server keeps (``server.rankings.kept_rankings``), and a place in it.

A page is cut from the very ranking of which the first page was cut, so that pages neither overlap nor leave gaps
while histories, items and versions change. The ranking stays in the server's memory; the token is a name, not a copy.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

from corpus.errors import BadPageToken

MAX_TOKEN_CHARACTERS = 200
AFTER_PROCESS = "."  # no character of the names that follow
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PageToken:
    """What a token says."""

    search_id: str  # of the answer whose page is asked for
    ranking: str  # name of what it is cut from, which other answers may have been cut from as well
    mark: str  # of the request
    offset: int  # of the page

    def write(self) -> str:
        """Return the text that callers pass on."""
        said = [self.search_id, self.ranking, self.mark, self.offset]
        body = json.dumps(said, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")


def process_of(token: str) -> int | None:
    """Return the number of the serving process that keeps the ranking of a token; None if the token names none.

    Raises:
        BadPageToken: If the token is malformed.
    """
    number, separator, _ = read_token(token).search_id.partition(AFTER_PROCESS)
    return int(number) if separator and number.isascii() and number.isdecimal() else None


def read_token(token: str) -> PageToken:
    """Return what a token says.

    Raises:
        BadPageToken: If it is malformed.
    """
    try:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        checksum, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if checksum != _checksum(body):
            raise ValueError("checksum")
        search_id, ranking, mark, offset = json.loads(body)
        return PageToken(search_id=str(search_id), ranking=str(ranking), mark=str(mark), offset=int(offset))
    except (ValueError, TypeError, binascii.Error) as exc:
        raise BadPageToken(
            "expected page_token to be the next_page_token of an earlier answer, got something else; "
            "pass it on unchanged, or leave it out",
            field="page_token",
        ) from exc


def _checksum(body: bytes) -> bytes:
    """Guard against tokens that were cut or mistyped; unguessable names guard against forged ones."""
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
