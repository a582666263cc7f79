"""How fast a model runs, and whether that is far slower than it has been."""

import math
from collections import deque
from statistics import median

from retrieval.engines.batches import SETUP_TOKENS

N_RECENT = 3  # runs, of which each has to be slow: the machine holds up one or another at any time
SLOW = 5.0  # times what is usual. With ten times as many searches as there is room for the fastest of them took 3.5
LEAST_S = 0.05  # that anybody may wait: what is slow within that keeps nobody from anything


class Pace:
    """Seconds per token of a model's runs. Written by the thread that runs it; any thread may read.

    What is usual is the fastest median of recent runs that there has been, so that a model which grows slow by and by
    is not taken for usual.
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
        self._is_slow = min(self._recent) > SLOW * self._usual

    def patience_s(self, n_tokens: int) -> float:
        """Return how many seconds are enough to wait for so many tokens, if runs now take far longer; else infinity."""
        return max(LEAST_S, self._usual * (n_tokens + SETUP_TOKENS)) if self._is_slow else math.inf
