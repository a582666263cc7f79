"""Silence for what libraries print about themselves: load reports, shard bars, advice nobody can act on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("sentence_transformers", "transformers", "datasets", "accelerate", "huggingface_hub")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers and its kin to errors, and without progress bars, inside the block.

    Their errors still surface as exceptions; what is silenced is advice (newly initialised heads, deprecated
    defaults) that the person at the terminal did not cause and cannot change.
    """
    from transformers.utils import logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", module=r"(transformers|sentence_transformers|accelerate|torch|datasets)\b"
            )
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
