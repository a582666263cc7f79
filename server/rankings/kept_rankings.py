"""The latest rankings, of which further pages are cut, and with which repeated searches are answered.

One store serves both: a page token names the ranking that the first page was cut from, and the key of a search
(``server.rankings.ranking_keys``) names the ranking that was made for the same search before. Each answer has a search
id of its own, by which events find it; a ranking that answers many searches is kept once, and an answer leaves nothing
behind.
"""

import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from corpus.errors import BadPageToken
from retrieval.arrays import FloatArray, IntArray
from server.rankings.page_tokens import AFTER_PROCESS, PageToken, read_token
from server.rankings.pages import Page
from server.stages.ranking import RankedWindow

MOST_OPENINGS = 3  # of bundles, the latest, whose catalogues stay in memory for pages: a new version, and its rollback
RANKING_BYTES = 2_500  # what Python takes for a ranking's place, names and arrays, beside what is in them
VALUE_BYTES = 100  # of a facet: its object with a text and a count
EXPLAINED_BYTES = 280  # of a candidate: what it takes to tell what made up its score, mostly features
_MARK_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRanking:
    """A ranking that pages can be cut from."""

    name: str  # unguessable
    window: RankedWindow
    key: bytes | None  # of the search that it answers; None: it is good for its own pages alone
    page: Page | None  # that was cut first; None where no other search is answered with it
    made_at: float  # on the clock of the keeper
    size_bytes: int


class KeptRankings:
    """The latest rankings, bounded in memory and age. For one thread only, but for its counts."""

    name = "ranking"  # for metrics, beside the caches of what models said

    def __init__(
        self,
        *,
        page_ttl_s: float,
        repeat_ttl_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        process: int | None = None,
    ) -> None:
        """Begin with none.

        Args:
            page_ttl_s: Seconds for which a ranking is kept after the last search that it answered.
            repeat_ttl_s: Seconds after its making for which a ranking answers repeated searches; 0: it never does.
            max_bytes: Most memory, of which the newest ranking may take more; those that answered longest ago go first.
                What a snapshot of the catalogue adds to it counts once; the bound on catalogues is ``MOST_OPENINGS``.
            clock: Seconds, never falling.
            process: Number of this one of several serving processes, which search ids, and so tokens, begin with.
        """
        self.n_hits = 0
        self.n_misses = 0
        self.size_bytes = 0
        self._prefix = "" if process is None else f"{process}{AFTER_PROCESS}"
        self._page_ttl_s = page_ttl_s
        self._repeat_ttl_s = repeat_ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._secret = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._kept: OrderedDict[str, tuple[KeptRanking, float]] = OrderedDict()  # with its end; next to end first
        self._names: dict[bytes, str] = {}  # by key
        self._sharing: Counter[int] = Counter()  # rankings by id of the items that they hold
        self._openings: set[int] = set()  # of the rankings that are kept, and perhaps of some that are not

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def repeats(self) -> bool:
        """Whether repeated searches are ever answered."""
        return self._repeat_ttl_s > 0

    def new_search_id(self) -> str:
        """Return a name for one answer, unguessable."""
        return self._prefix + secrets.token_urlsafe(16)

    def keep(self, window: RankedWindow, key: bytes | None = None, page: Page | None = None) -> KeptRanking:
        """Keep a ranking for further pages, and with a key for repeated searches; degraded ones answer none.

        Args:
            window: The ranking.
            key: Of the search; None: no other search may be answered with it.
            page: Cut from it, for searches that repeat.
        """
        now = self._clock()
        answers_others = key is not None and self.repeats and not window.degraded
        page = page if answers_others else None
        kept = KeptRanking(
            name=secrets.token_urlsafe(16),
            window=window,
            key=key if answers_others else None,
            page=page,
            made_at=now,
            size_bytes=size_of(window) + (0 if page is None else len(page.results)),
        )
        self._kept[kept.name] = (kept, now + self._page_ttl_s)
        self._sharing[id(window.items)] += 1
        self.size_bytes += kept.size_bytes
        if self._sharing[id(window.items)] == 1:
            self.size_bytes += window.items.own_bytes
        if kept.key is not None:
            self._names[kept.key] = kept.name
        while len(self._kept) > 1 and (self._next_end() <= now or self.size_bytes > self._max_bytes):
            self._let_go(next(iter(self._kept)))
        self._forget_openings(window.opening)
        return kept

    def repeat(self, key: bytes) -> KeptRanking | None:
        """Return the ranking that was made for the same search, which counts as a hit; None if there is none."""
        now = self._clock()
        name = self._names.get(key)
        if name is not None:
            kept, ends_at = self._kept[name]
            if now < min(kept.made_at + self._repeat_ttl_s, ends_at):
                self._kept[name] = (kept, now + self._page_ttl_s)  # the pages of this answer, too
                self._kept.move_to_end(name)
                self.n_hits += 1
                return kept
        self.n_misses += 1
        return None

    def token(self, search_id: str, kept: KeptRanking, offset: int, request_digest: bytes) -> str:
        """Return the token of a further page.

        Args:
            search_id: Of the answer that the page belongs to.
            kept: The ranking.
            offset: Where the page begins.
            request_digest: Of the request but for its paging fields.
        """
        mark = self._mark(search_id, request_digest)
        return PageToken(search_id=search_id, ranking=kept.name, mark=mark, offset=offset).write()

    def find(self, token: str, request_digest: bytes) -> tuple[str, KeptRanking, int]:
        """Return what a page token names: the search id, the ranking, and the offset of the page.

        Args:
            token: As made by ``token``.
            request_digest: Of the request that brings it.
        Raises:
            BadPageToken: If the token is malformed, has expired or belongs to another request.
        """
        asked = read_token(token)
        found = self._kept.get(asked.ranking)
        if found is None or found[1] <= self._clock():
            raise BadPageToken(
                f"this page_token has expired (they are kept for at most {self._page_ttl_s:.0f} s, and not across "
                "restarts of the server); search again without it",
                field="page_token",
            )
        if not secrets.compare_digest(asked.mark, self._mark(asked.search_id, request_digest)):
            raise BadPageToken(
                "this page_token belongs to another request; send it with the fields of the first page, of which only "
                "page_size and labels may differ",
                field="page_token",
            )
        return asked.search_id, found[0], asked.offset

    def _mark(self, search_id: str, request_digest: bytes) -> str:
        """Bind a token to its answer and request. Keyed: tokens stand in URLs, and requests name shoppers."""
        bound = request_digest + search_id.encode()
        return hashlib.blake2b(bound, digest_size=_MARK_BYTES, key=self._secret).hexdigest()

    def _next_end(self) -> float:
        return next(iter(self._kept.values()))[1]

    def _forget_openings(self, opening: int) -> None:
        """Drop the rankings of all openings but the latest: somebody who changes versions again and again may do so."""
        self._openings.add(opening)
        if len(self._openings) > MOST_OPENINGS:
            gone = min(self._openings)
            self._openings.remove(gone)
            for name in [name for name, (kept, _) in self._kept.items() if kept.window.opening == gone]:
                self._let_go(name)

    def _let_go(self, name: str) -> None:
        kept, _ = self._kept.pop(name)
        items = kept.window.items
        self.size_bytes -= kept.size_bytes
        self._sharing[id(items)] -= 1
        if not self._sharing[id(items)]:
            del self._sharing[id(items)]
            self.size_bytes -= items.own_bytes
        if kept.key is not None and self._names.get(kept.key) == name:  # not made again since
            del self._names[kept.key]


def size_of(window: RankedWindow) -> int:
    """Return how much memory a ranking takes, about, in bytes; what it shares with the bundle is not counted."""
    ranking = window.ranking
    n_values = len(window.facets) + sum(len(facet.values) for facet in window.facets)
    explained = 0 if ranking.parts_of is None else EXPLAINED_BYTES * len(ranking)
    return RANKING_BYTES + sum(_held(array) for array in ranking.columns) + VALUE_BYTES * n_values + explained


def _held(array: FloatArray | IntArray) -> int:
    """Return the bytes that an array keeps in memory, which may be those of a greater one."""
    return array.base.nbytes if isinstance(array.base, np.ndarray) else array.nbytes
