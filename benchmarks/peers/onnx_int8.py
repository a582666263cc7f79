"""ONNX Runtime with int8 weights: what an engineer reaches for once plain torch is too slow.

The model is exported by torch and quantised by ONNX Runtime's own dynamic quantisation, with the settings of its
documentation for transformers. Optimum, which wraps both, needs an older transformers than this project's.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from corpus.errors import ConfigError
from retrieval.arrays import FloatArray, IntArray
from retrieval.engines.engine import INPUT_NAMES

GRAPH, QUANTISED = "model.onnx", "model.int8.onnx"
OPSET = 17


class OnnxEngine:
    """Runs an exported graph. An ``Engine`` of ``retrieval.engines.engine``."""

    def __init__(self, path: Path) -> None:
        """Open a graph on all cores.

        Raises:
            ConfigError: If ONNX Runtime is not installed.
        """
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [port.name for port in self._session.get_inputs()]

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """Run the model over a padded batch; see ``Engine.run``."""
        batch = dict(zip(INPUT_NAMES, (input_ids, attention_mask, token_type_ids), strict=True))
        (numbers,) = self._session.run(None, {name: batch[name] for name in self._names})
        return np.ascontiguousarray(numbers, dtype=np.float32)


def open_onnx_int8(module: Any, folder: Path) -> OnnxEngine:  # noqa: ANN401 - torch.nn.Module: torch is imported late
    """Open a module in int8, exported first unless the folder holds it.

    Args:
        module: Takes ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 (n, length); returns one tensor.
        folder: Where the graph is kept; one per model.
    Raises:
        ConfigError: If ONNX Runtime is not installed.
    """
    _runtime()
    path = folder / QUANTISED
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _export(module, folder / GRAPH)
        draft = folder / f"{QUANTISED}.part"
        _quantise(folder / GRAPH, draft)
        draft.replace(path)
    return OnnxEngine(path)


def _export(module: Any, path: Path) -> None:  # noqa: ANN401
    import torch

    ids = torch.arange(5, 45).reshape(2, 20) % 40  # two rows, so that tracing cannot take the batch size for a constant
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns about every shape that it takes for a constant
        torch.onnx.export(
            module.cpu().eval(),
            example,
            str(path),
            dynamo=False,
            input_names=list(INPUT_NAMES),
            output_names=["numbers"],
            dynamic_axes={name: {0: "n", 1: "length"} for name in INPUT_NAMES} | {"numbers": {0: "n"}},
            opset_version=OPSET,
        )


def _quantise(source: Path, target: Path) -> None:
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pre-processing of image models
    try:
        quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)


def _runtime() -> Any:  # noqa: ANN401 - the module
    try:
        import onnxruntime
    except ImportError as exc:
        raise ConfigError(
            "expected onnxruntime for this peer, found none; pip install -c constraints.txt '.[bench]'"
        ) from exc
    return onnxruntime
