"""Under which key a ranking is kept: a digest of everything that it depends on.

- *The snapshot* of the bundle: a swap and every live update make another one, so that no price, no stock and no deleted
  item outlives them.
- *The task*, every field of it, as a request reads after normalisation and defaults: so requests that mean the same
  share a ranking, and a field that is new is in the key from its first day. The shopper's id and the visit are left
  out, for they say nothing beyond the history that they lead to.
- *The history* that the stages read: kinds, items and queries in their order, without the times, which no stage reads
  (``corpus.events.HistoryEvent``). So nothing ages while a ranking is kept, and a shopper's deleted history leads to
  another key.

Source: keyed BLAKE2b, RFC 7693. The key of the digest is the process's own: nobody can tell from a key, with a guess at
the query and the history at hand, whether that was searched.
"""

import hashlib
import secrets
from dataclasses import replace

from server.stages.ranking import SearchTask

KEY_BYTES = 16  # of a billion rankings, two share a key once in 10^20 servers (n² / 2^129)


class RankingKeys:
    """Makes the keys of one process; another one's differ."""

    def __init__(self) -> None:
        """Draw a secret."""
        self._secret = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)

    def of(self, snapshot: int, task: SearchTask) -> bytes:
        """Return the key of a search's ranking.

        Args:
            snapshot: Number of the pipeline that is to search.
            task: With the history itself in ``events``.
        """
        if task.events is None:
            raise ValueError("expected a search with its history in events, got one whose history is not looked up")
        history = [(event.type.value, event.item_id, event.query) for event in task.events]
        # sets have no order of their own; `repr` tells all other values apart, and writes equal ones alike
        rest = replace(task, shopper=None, session=None, events=None, excluded=frozenset())
        said = repr((snapshot, rest, sorted(task.excluded), history))
        return hashlib.blake2b(said.encode(), digest_size=KEY_BYTES, key=self._secret).digest()
