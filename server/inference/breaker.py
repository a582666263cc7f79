"""Leaving alone for a moment what does not work: a search without it at once is better than one that waits in vain."""

import threading
import time
from dataclasses import dataclass, field

PAUSE_S = 1.0  # for which a part is left alone
N_FAILURES = 3  # in a row: one query that breaks a model is no broken model
STUCK_S = 0.25  # that a model may be at one run before searches that go without it call it broken


class Breaker:
    """Leaves a part alone for a moment after it failed; then one caller tries it for all. Safe for several threads."""

    def __init__(self, pause_s: float, *, n_failures: int = 1) -> None:
        """Begin with trust.

        Args:
            pause_s: How long the part is left alone.
            n_failures: In a row, after which it is.
        """
        self._pause_s = pause_s
        self._most = n_failures
        self._lock = threading.Lock()
        self._n_failures = 0  # in a row
        self._asked_again_at = 0.0  # time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether the part is left alone."""
        return self._n_failures >= self._most

    def admits(self, *, is_stuck: bool = False) -> bool:
        """Tell whether the part may be asked now.

        Args:
            is_stuck: Whether the part is still at what it was left alone for: who tried it would only wait.
        """
        with self._lock:
            if not self.is_open:
                return True
            if is_stuck or time.monotonic() < self._asked_again_at:
                return False
            self._asked_again_at = time.monotonic() + self._pause_s  # for the others
            return True

    def note(self, *, failed: bool) -> None:
        """Note how asking went."""
        with self._lock:
            self._n_failures = self._n_failures + 1 if failed else 0
            self._asked_again_at = time.monotonic() + self._pause_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakers:
    """Those of one server's searches, which outlive live updates."""

    history: Breaker = field(default_factory=lambda: Breaker(PAUSE_S, n_failures=N_FAILURES))
    reranker: Breaker = field(default_factory=lambda: Breaker(PAUSE_S, n_failures=N_FAILURES))
