"""Which threads go first where there are more of them than cores: those that speak with callers.

Models compute for tens of milliseconds on all cores. What takes calls in, refuses them and sends answers needs a core
for some microseconds at a time, but at once: while it waits behind models, refusals are as slow as answers.
"""

import os
import sys
import threading

STEP = 10  # of niceness: such a thread gets a tenth of what others get that want the same core


def give_way() -> None:
    """Let other threads go before the calling one, and before all that it starts; only Linux can do that.

    A thread cannot take it back: it is for threads that do nothing else.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + STEP)
