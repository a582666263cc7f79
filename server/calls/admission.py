"""Which calls are let in: a house that is full, or too slow for one more, says so at once; nobody waits in vain.

A bound on the number alone does not keep a crowd in time: whoever waits behind 60 others is served when its deadline is
about to pass, and so is everybody behind it, so that hardly an answer is of use to anyone. So the house also knows
its pace, the time between two answers while it is busy, and refuses calls whose turn would come too late.

How late that is hangs on whether there is a standing queue. A house in which now and then nobody waits meets bursts,
which pass: it lets in whoever can be answered at all. One in which somebody has waited for a second has more callers
than it can answer, and each that it lets in waits as long as it allows: it allows less, so that time is left for
reranking. The rule is that of controlled delay (CoDel, RFC 8289) as servers use it (B. Maurer, "Fail at Scale", ACM
Queue 13 (8), 2015).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from corpus.errors import Overloaded

BURST_SHARE = 0.9  # of the time left, within which an answer must be expected
STANDING_SHARE = 0.6  # and in a standing queue: at .7 most had no time for reranking
STANDING_S = 1.0  # without a moment in which nobody waited
ONE = 1  # is being answered; whoever else is inside waits, about: searches share models and cores
SIDE_BY_SIDE = 3  # are let in whatever the pace: one alone does not tell how fast several are
BACKOFF = 1.1  # by which the house is thought to be slower after an answer that a crowd left too little time
MEMORY = 0.9  # what the known pace counts beside a new measurement

TOO_LATE = "the calls before this one leave it too little time; call again a little later"


class Admission:
    """A bounded number of calls in the house. For one thread only: the event loop's."""

    def __init__(self, limit: int) -> None:
        """Open an empty house.

        Args:
            limit: Calls admitted at once, waiting and being answered.
        """
        self.limit = limit
        self._full = f"all {limit} places are taken; call again a little later"
        self._n_inside = 0
        self._n_refused = 0
        self._n_paced = 0  # of those inside, the ones that tell the pace
        self._queue_since = 0.0  # time.monotonic() seconds at which nobody waited last
        self._since = 0.0  # time.monotonic() seconds of the last whole answer, or of the end of idleness
        self._pace_s: float | None = None  # between two whole answers, while there is always a next one

    @property
    def n_inside(self) -> int:
        """Calls admitted and not yet answered."""
        return self._n_inside

    @property
    def n_refused(self) -> int:
        """Calls that were not let in, since the house was opened."""
        return self._n_refused

    def obstacle(self, deadline: float | None = None) -> str | None:
        """Say why a call would not be let in now; None if it would be.

        Args:
            deadline: As for ``admit``.
        """
        if self._n_inside >= self.limit:
            return self._full
        if deadline is not None and self._is_hopeless(deadline):
            return TOO_LATE
        return None

    def note_refusal(self) -> None:
        """Count a call that was not let in."""
        self._n_refused += 1

    @contextmanager
    def admit(self, deadline: float | None = None, *, is_whole: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Hold a place while a call is answered.

        Args:
            deadline: When the answer must be there, in ``time.monotonic()`` seconds; None: the call is let in whatever
                the pace, and does not tell it, as those that cost next to nothing.
            is_whole: Tells at the end whether the answer lacks nothing for want of time. One that does was quick to
                give: were it to tell the pace, a house too full for reranking would believe that it is fast, let more
                in, and never rerank again. Among several, it tells that the house is slower than was thought.
        Raises:
            Overloaded: If all places are taken, or those inside leave the call too little time.
        """
        obstacle = self.obstacle(deadline)
        if obstacle is not None:
            self.note_refusal()
            raise Overloaded(obstacle)
        is_paced = deadline is not None
        if is_paced and self._n_paced <= ONE:
            self._queue_since = time.monotonic()
        if is_paced and not self._n_paced:
            self._since = time.monotonic()
        self._n_inside += 1
        self._n_paced += is_paced
        try:
            yield
            if is_paced:  # what failed may have cost nothing
                self._note_answer(is_whole=is_whole())
        finally:
            self._n_inside -= 1
            self._n_paced -= is_paced

    def _is_hopeless(self, deadline: float) -> bool:
        """Tell whether a call's turn would come too late. A house nearly empty tries, and so learns of better times."""
        if self._pace_s is None or self._n_paced < SIDE_BY_SIDE:
            return False
        now = time.monotonic()
        share = STANDING_SHARE if now - self._queue_since > STANDING_S else BURST_SHARE
        return (self._n_paced + 1) * self._pace_s > share * (deadline - now)

    def _note_answer(self, *, is_whole: bool) -> None:
        now = time.monotonic()
        measured = now - self._since
        if is_whole:
            self._since = now
            self._pace_s = measured if self._pace_s is None else MEMORY * self._pace_s + (1 - MEMORY) * measured
        elif self._n_paced > SIDE_BY_SIDE:  # fewer would not be refused: their budgets are at fault
            self._pace_s = measured if self._pace_s is None else BACKOFF * self._pace_s
