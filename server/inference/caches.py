"""What the models said before, so that they need not be asked again: bounded, in memory only, gone with the process.

Keys say everything that an answer depends on, so that nothing ever has to be taken back. An embedding is kept under the
fingerprint of its encoder and the query's text; the logits of a pair under a digest of the exported cross-encoder, of
the tokens of query and history, and of the item's tokens. Another history, an item whose text changed, and a bundle
with another model have keys of their own; what nobody asks for any more goes first.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from rerank.scorer import Pairs
from retrieval.arrays import FloatArray

ENTRY_BYTES = 300  # what Python takes for an entry's place, its key and its array, beside what is in them
DIGEST_BYTES = 16  # two of a billion pairs agree once in 10²⁰ such caches
PASSAGE_BEGINS = b"\0passage"  # tokens are 4 bytes each, and this is none: where the prefix ends is part of the key

K = TypeVar("K", bound=Hashable)


class Cache(Generic[K]):
    """Arrays by key; the one that was asked for longest ago goes first. Safe for several threads."""

    def __init__(self, name: str, max_bytes: int) -> None:
        """Begin empty.

        Args:
            name: Of what is kept, for metrics.
            max_bytes: Most memory; 0 keeps nothing.
        """
        self.name = name
        self.n_hits = 0
        self.n_misses = 0
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, FloatArray] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    def find(self, keys: Sequence[K]) -> list[FloatArray | None]:
        """Return what is kept under some keys, which counts as hits and misses; None where nothing is."""
        with self._lock:
            found = [self._kept.get(key) for key in keys]
            for key, array in zip(keys, found, strict=True):
                if array is not None:
                    self._kept.move_to_end(key)
            n_hits = sum(array is not None for array in found)
            self.n_hits += n_hits
            self.n_misses += len(keys) - n_hits
        return found

    def keep(self, arrays: Mapping[K, FloatArray]) -> None:
        """Keep copies of arrays, at the cost of those that were asked for longest ago."""
        with self._lock:
            for key, array in arrays.items():
                before = self._kept.pop(key, None)
                if before is not None:
                    self.size_bytes -= _size(key, before)
                kept = array.copy()  # of what may be part of a greater array
                kept.flags.writeable = False
                self._kept[key] = kept
                self.size_bytes += _size(key, kept)
            while self.size_bytes > self._max_bytes:
                oldest, array = self._kept.popitem(last=False)
                self.size_bytes -= _size(oldest, array)


class PairKeys:
    """Makes the keys under which the logits of one cross-encoder are kept."""

    def __init__(self, model: str) -> None:
        """Begin with the model.

        Args:
            model: Says which exported cross-encoder; another one has other numbers.
        """
        self._model = hashlib.blake2b(model.encode(), digest_size=DIGEST_BYTES)

    def of(self, pairs: Pairs) -> list[bytes]:
        """Return a key for each pair, by the content of its tokens."""
        keys: list[bytes] = []
        last, begun = None, self._model
        for prefix, passage in zip(pairs.prefixes, pairs.passages, strict=True):
            if prefix is not last:  # one request's pairs share it
                begun = self._model.copy()
                begun.update(prefix.tobytes() + PASSAGE_BEGINS)
                last = prefix
            digest = begun.copy()
            digest.update(passage.tobytes())
            keys.append(digest.digest())
        return keys


def _size(key: Hashable, array: FloatArray) -> int:
    texts = key if isinstance(key, tuple) else (key,)
    return ENTRY_BYTES + array.nbytes + sum(len(text) for text in texts if isinstance(text, str | bytes))
