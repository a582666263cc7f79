"""The physical floor: how fast this machine multiplies and reads, and how long a model must take at that.

A BERT layer of width d with a feed-forward part of 4 d computes 24 d² + 4 L d floating-point operations for each of
the L tokens of a text: 8 d² for the four projections of attention, 16 d² for the feed-forward part, 4 L d for the
products of attention. Padding, embeddings, normalisation, softmax and heads are not counted: nobody reaches this floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.index_timing import bandwidth
from benchmarks.latency_cases import Shape
from retrieval.arrays import IntArray

# (m, k, n) of the probes: MiniLM's and BERT-base's feed-forward parts over a batch of tokens, and a square
PROBES = ((2048, 384, 1536), (2048, 768, 3072), (1024, 1024, 1024))
REPEATS = 5  # the fastest counts: a peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What the machine can do at most, by measurement."""

    fp32: float  # FLOP/s of torch's matrix product
    int8: float | None  # operations per second of ONNX Runtime's integer product; None: it is not installed
    bytes_per_s: float  # of reading memory on all cores

    @classmethod
    def measure(cls) -> "Peaks":
        """Probe the machine; takes some seconds."""
        return cls(fp32=_peak_fp32(), int8=_peak_int8(), bytes_per_s=bandwidth()["all"])


def flops(lengths: IntArray, shape: Shape) -> float:
    """Return the floating-point operations that a model needs for texts.

    Args:
        lengths: int64 (n,) tokens of each.
        shape: Of the model.
    Source: layers · (24 d² + 4 L d) per token; see the top of this module.
    """
    per_token = shape.n_layers * (24 * shape.width**2 + 4 * lengths * shape.width)
    return float((per_token * lengths).sum())


def weight_bytes(shape: Shape, bytes_each: int) -> float:
    """Return the size of the layers' weights, 12 d² each."""
    return float(shape.n_layers * 12 * shape.width**2 * bytes_each)


def floors(lengths: IntArray, shape: Shape, peaks: Peaks, *, n_calls: int) -> dict[str, float]:
    """Return the least milliseconds of a call: ``fp32_ms`` and ``int8_ms`` to compute, ``read_ms`` to read weights.

    Weights that stay in the caches are not read from memory: ``read_ms`` (int8) bounds calls that find them empty.

    Args:
        lengths: int64 (n,) tokens of the texts of all calls.
        shape: Of the model.
        peaks: Of the machine.
        n_calls: Over how many calls the texts are spread.
    """
    work = flops(lengths, shape) / n_calls
    found = {"fp32_ms": 1e3 * work / peaks.fp32, "read_ms": 1e3 * weight_bytes(shape, 1) / peaks.bytes_per_s}
    if peaks.int8 is not None:
        found["int8_ms"] = 1e3 * work / peaks.int8
    return {name: round(value, 3) for name, value in found.items()}


def _peak_fp32() -> float:
    import torch

    rates = []
    for m, k, n in PROBES:
        a, b = torch.randn(m, k), torch.randn(k, n)
        rates.append(2 * m * k * n / _fastest(lambda a=a, b=b: a @ b))  # type: ignore[misc]
    return max(rates)


def _peak_int8() -> float | None:
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    rates = []
    for m, k, n in PROBES:
        weights = numpy_helper.from_array(rng.integers(-8, 8, (k, n)).astype(np.int8), "b")
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
            "probe",
            [helper.make_tensor_value_info("a", TensorProto.UINT8, [m, k])],
            [helper.make_tensor_value_info("c", TensorProto.INT32, [m, n])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        inputs = {"a": rng.integers(0, 8, (m, k)).astype(np.uint8)}
        rates.append(2 * m * k * n / _fastest(lambda s=session, i=inputs: s.run(None, i)))  # type: ignore[misc]
    return max(rates)


def _fastest(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
