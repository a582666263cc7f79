"""Inference engines: token ids in, one row of numbers per text out, for both stages.

The encoder's graph ends in L2-normalised embeddings, the reranker's in one score per pair; an engine knows neither.
"""

import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from corpus.errors import ArtefactError
from retrieval.arrays import FloatArray, IntArray
from retrieval.engines.openvino_runtime import openvino_core

GRAPH_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
# operations set up for a shape that are kept: with OpenVINO's own 5,000 reranking is up to 7 % faster, and a server
# grows by 80 MB more under load. The property is none of the documented ones
KEPT_SHAPES = 100
NARROW, WIDTH_STEP = 8, 16  # tokens: what graphs read is so wide, or a multiple of the latter
FEW, ROW_STEP = 2, 4  # texts: what graphs read has at most so many, or a multiple of the latter


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
        Raises:
            ArtefactError: If the model cannot run this batch.
        """
        ...


class OpenVinoEngine:
    """Runs an exported graph on the CPU, one request per stream at a time; further callers take turns.

    One stream, whose request has all cores, answers soonest. A stream per core does most work, for cores that share no
    request never wait for each other.
    """

    def __init__(
        self,
        compiled: Any,  # noqa: ANN401 - openvino.CompiledModel
        *,
        n_streams: int = 1,
    ) -> None:
        """Make the requests.

        Args:
            compiled: The graph.
            n_streams: Requests that run side by side.
        """
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(n_streams):
            self._idle.put(compiled.create_infer_request())
        # a graph that reads no segments has no such input
        self._names = [port.get_any_name() for port in compiled.inputs]

    @classmethod
    def load(cls, folder: Path, *, n_threads: int | None = None, n_streams: int = 1) -> "OpenVinoEngine":
        """Compile a graph written by ``retrieval.engines.export``.

        Args:
            folder: Holds ``openvino_model.xml`` and ``openvino_model.bin``.
            n_threads: Most cores to use; None: all.
            n_streams: Requests that run side by side, each on its share of the cores.
        Raises:
            ArtefactError: If the folder holds no such graph.
            DeviceUnavailable: If OpenVINO is not installed.
        """
        core = openvino_core()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY" if n_streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(n_streams),
            "CPU_RUNTIME_CACHE_CAPACITY": str(KEPT_SHAPES),
            # OpenVINO's own choice where the CPU has bfloat16, and wrong there (docs/decisions/0022-floats-in-f32.md)
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if n_threads is not None:
            options["INFERENCE_NUM_THREADS"] = n_threads
            options["ENABLE_CPU_PINNING"] = False  # every process would pin its threads to the same first cores
        for name in (GRAPH_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise ArtefactError(f"expected an exported model in {folder}, found no {name}; build the bundle again")
        try:
            return cls(core.compile_model(str(folder / GRAPH_FILE), "CPU", options), n_streams=n_streams)
        except RuntimeError as exc:
            raise ArtefactError(f"expected an OpenVINO graph in {folder}, got: {exc}; build the bundle again") from exc

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """Run the model over a padded batch; see ``Engine.run``."""
        batch = dict(zip(INPUT_NAMES, (input_ids, attention_mask, token_type_ids), strict=True))
        n, width = input_ids.shape
        shape = (even_rows(n), even_width(width))
        inputs = {name: _filled(batch[name], shape) for name in self._names}
        request = self._idle.get()
        try:
            request.infer(inputs, share_inputs=True)
            # the request owns the output: copy it before the next caller overwrites it
            return np.array(request.get_output_tensor(0).data[:n], dtype=np.float32, order="C")
        except RuntimeError as exc:
            raise ArtefactError(f"the exported model failed on a {input_ids.shape} batch: {exc}") from exc
        finally:
            self._idle.put(request)


def even_width(width: int) -> int:
    """Return to how many tokens a batch of a width is padded.

    Sums over a padded text have another last digit for widths that do not fill whole registers, and rounding to 8 bits
    makes steps of that: a text's numbers would hang on its company. Also OpenVINO sets up every operation anew whenever
    the shape differs from that of the call before, which takes as long as to encode a query in int8.
    """
    return NARROW if width <= NARROW else -(-width // WIDTH_STEP) * WIDTH_STEP


def even_rows(n: int) -> int:
    """Return to how many texts a batch of n is filled up.

    The fewer shapes there are, the fewer operations OpenVINO sets up, each with memory of its own.
    """
    return n if n <= FEW else -(-n // ROW_STEP) * ROW_STEP


def _filled(tokens: IntArray, shape: tuple[int, int]) -> IntArray:
    """Put rows and columns of zeros behind: in the mask they mean padding, and nothing reads what is padding."""
    if tokens.shape == shape:
        return np.ascontiguousarray(tokens, dtype=np.int64)
    filled = np.zeros(shape, dtype=np.int64)
    filled[: len(tokens), : tokens.shape[1]] = tokens
    return filled
