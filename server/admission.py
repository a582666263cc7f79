"""Which calls are let in: a house that is full, or too slow for one more, says so at once; nobody waits in vain.

A bound on the number alone does not keep a crowd in time: whoever waits behind 60 others is served when its deadline is
about to pass, and so is everybody behind it, so that hardly an answer is of use to anyone. So the house also knows
its pace, the time between two answers while it is busy, and refuses calls whose turn would come too late.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from corpus.errors import Overloaded

SHARE = 0.6  # of the time left, within which an answer must be expected: at .7 most had no time for reranking
SIDE_BY_SIDE = 3  # are let in whatever the pace: one alone does not tell how fast several are
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
        self._since = 0.0  # time.monotonic() seconds of the last answer, or of the end of idleness
        self._pace_s: float | None = None  # between two answers, while there is always a next one

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
    def admit(self, deadline: float | None = None) -> Iterator[None]:
        """Hold a place while a call is answered.

        Args:
            deadline: When the answer must be there, in ``time.monotonic()`` seconds; None: the call is let in whatever
                the pace, and does not tell it, as those that cost next to nothing.
        Raises:
            Overloaded: If all places are taken, or those inside leave the call too little time.
        """
        obstacle = self.obstacle(deadline)
        if obstacle is not None:
            self.note_refusal()
            raise Overloaded(obstacle)
        is_paced = deadline is not None
        if is_paced and not self._n_paced:
            self._since = time.monotonic()
        self._n_inside += 1
        self._n_paced += is_paced
        try:
            yield
            if is_paced:  # what failed may have cost nothing
                self._note_answer()
        finally:
            self._n_inside -= 1
            self._n_paced -= is_paced

    def _is_hopeless(self, deadline: float) -> bool:
        """Tell whether a call's turn would come too late. A house nearly empty tries, and so learns of better times."""
        if self._pace_s is None or self._n_paced < SIDE_BY_SIDE:
            return False
        return (self._n_paced + 1) * self._pace_s > SHARE * (deadline - time.monotonic())

    def _note_answer(self) -> None:
        now = time.monotonic()
        measured, self._since = now - self._since, now
        self._pace_s = measured if self._pace_s is None else MEMORY * self._pace_s + (1 - MEMORY) * measured
