"""Inference engines: token ids in, one row of numbers per text out, for both stages.

The encoder's graph ends in L2-normalised embeddings, the reranker's in one score per pair; an engine knows neither.
"""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from corpus.errors import ArtefactError, DeviceUnavailable, InputError
from retrieval.arrays import FloatArray, IntArray

GRAPH_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Texts (or pairs of texts) as token ids, padded to one length."""

    input_ids: IntArray  # (n, length)
    attention_mask: IntArray  # (n, length): 1 for a token, 0 for padding
    token_type_ids: IntArray  # (n, length): 0 for the first segment, 1 for the second

    def __len__(self) -> int:
        return len(self.input_ids)


class Engine(Protocol):
    """Runs one model. Safe to call from several threads."""

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """Run the model over a padded batch.

        Args:
            input_ids: int64 (n, length).
            attention_mask: int64 (n, length), 1 for a token, 0 for padding.
            token_type_ids: int64 (n, length), the segment of each token.
        Returns:
            float32 (n, out_dim), C-contiguous, the caller's own.
        """
        ...
