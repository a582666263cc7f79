"""How fast a model runs, and whether that is far slower than it has been."""

from collections import deque
from statistics import median

from retrieval.engines.batches import SETUP_TOKENS

N_RECENT = 5  # runs, whose median counts: one that the machine held up says nothing
SLOW = 6.0  # times what is usual. Ten times as many searches as there is room for make runs up to 4.2 times as long


class Pace:
    """Seconds per token of a model's runs. Written by the thread that runs it; any thread may read.

    What is usual is the fastest that it has been, so that a model which grows slow by and by is not taken for usual.
    """

    def __init__(self) -> None:
        """Begin without knowing anything: a model that is slow from the start is not found out."""
        self._recent: deque[float] = deque(maxlen=N_RECENT)
        self._usual = 0.0  # seconds per token
        self._is_slow = False

    def note(self, n_tokens: int, seconds: float) -> None:
        """Note a run."""
        self._recent.append(seconds / (n_tokens + SETUP_TOKENS))
        if len(self._recent) < N_RECENT:
            return
        present = median(self._recent)
        self._usual = min(self._usual or present, present)
        self._is_slow = present > SLOW * self._usual

    def usual_s(self, n_tokens: int) -> float | None:
        """Return how many seconds a run of so many tokens used to take, if they now take far longer; None if not."""
        return self._usual * (n_tokens + SETUP_TOKENS) if self._is_slow else None
