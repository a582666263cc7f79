"""``tandem serve`` with a cross-encoder that breaks at SIGUSR2, and is mended by the next one.

python -m benchmarks.faulty_server hangs serve demo-store
"""

import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from rerank.scorer import Pairs, PairScorer
from retrieval.arrays import FloatArray
from server.cli.app import main

SLOWER = 10
Heads = Callable[[PairScorer, Pairs], FloatArray]

_broken = threading.Event()
_whole = threading.Event()


def slow(heads: Heads, scorer: PairScorer, pairs: Pairs) -> FloatArray:
    """Take ten times as long."""
    began = time.monotonic()
    found = heads(scorer, pairs)
    time.sleep((SLOWER - 1) * (time.monotonic() - began))
    return found


def raises(_heads: Heads, _scorer: PairScorer, _pairs: Pairs) -> FloatArray:
    """Fail at once."""
    raise RuntimeError("out of memory")


def nan(_heads: Heads, _scorer: PairScorer, pairs: Pairs) -> FloatArray:
    """Answer nonsense."""
    return np.full((len(pairs.passages), 3), np.nan, dtype=np.float32)


def hangs(heads: Heads, scorer: PairScorer, pairs: Pairs) -> FloatArray:
    """Say nothing until mended."""
    _whole.wait()
    return heads(scorer, pairs)


FAULTS = {"slow": slow, "raises": raises, "nan": nan, "hangs": hangs}


def break_at_a_signal(fault: Callable[[Heads, PairScorer, Pairs], FloatArray]) -> None:
    """Put a fault in every cross-encoder's place, for as long as it is asked for."""
    heads: Heads = PairScorer.heads

    def perhaps(scorer: PairScorer, pairs: Pairs) -> FloatArray:
        # what batches for others asks the very scorer that is to break
        if not _broken.is_set() or type(scorer) is not PairScorer:
            return heads(scorer, pairs)
        return fault(heads, scorer, pairs)

    def turn(_number: int, _frame: object) -> None:
        if _broken.is_set():
            _broken.clear()
            _whole.set()
        else:
            _whole.clear()
            _broken.set()

    setattr(PairScorer, "heads", perhaps)  # noqa: B010 - mypy takes no assignment to a method
    signal.signal(signal.SIGUSR2, turn)


if __name__ == "__main__":
    break_at_a_signal(FAULTS[sys.argv[1]])
    main(sys.argv[2:])
