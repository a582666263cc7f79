"""From a torch module to an OpenVINO graph, fp32 or int8. Imports torch; serving never imports this."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from corpus.errors import ArtefactError, ConfigError, DeviceUnavailable
from retrieval.engines.engine import GRAPH_FILE, INPUT_NAMES, TokenBatch
from retrieval.engines.openvino_runtime import load_openvino, no_telemetry

Precision = Literal["fp32", "int8"]


def export_openvino(
    module: torch.nn.Module, folder: Path, *, precision: Precision, calibration: Sequence[TokenBatch]
) -> None:
    """Write a module as ``openvino_model.xml`` and ``.bin``, free in batch size and length.

    Args:
        module: Takes ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 (n, length), by name;
            returns one float32 tensor. It is moved to the CPU.
        folder: Where to write; made if missing.
        precision: "int8" quantises weights and activations after training.
        calibration: Batches like those of service: their activations set the int8 ranges. The first one
            also serves as the example that the module is traced with. At least one; for int8, hundreds of texts.
    Raises:
        ConfigError: If there is no calibration batch.
        DeviceUnavailable: If openvino or, for int8, nncf is not installed.
        ArtefactError: If the module cannot be converted.
    """
    if not calibration:
        raise ConfigError("expected at least one batch of texts to export a model with, got none")
    openvino = load_openvino()
    module = module.cpu().eval()
    inputs = [(name, openvino.PartialShape([-1, -1]), openvino.Type.i64) for name in INPUT_NAMES]
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        try:
            with torch.no_grad():
                model = openvino.convert_model(module, example_input=_example(calibration[0]), input=inputs)
            if precision == "int8":
                model = _quantize(model, calibration)
            # the default would squeeze fp32 weights into fp16
            openvino.save_model(model, str(folder / GRAPH_FILE), compress_to_fp16=False)
        except RuntimeError as exc:
            raise ArtefactError(
                f"expected to convert a module with OpenVINO and to write it to {folder}, got: {exc}"
            ) from exc


def _example(batch: TokenBatch) -> dict[str, torch.Tensor]:
    # two rows, so that tracing cannot take the batch size for a constant 1
    return {name: torch.as_tensor(getattr(batch, name)[[0, -1]]) for name in INPUT_NAMES}


def _quantize(model: Any, calibration: Sequence[TokenBatch]) -> Any:  # noqa: ANN401 - openvino.Model
    try:
        import nncf
    except ImportError as exc:
        raise DeviceUnavailable("expected nncf for int8, found none; install the `train` extra or use fp32") from exc
    logging.getLogger("nncf").setLevel(logging.ERROR)  # set_log_level would reach into other handlers too
    names = [port.get_any_name() for port in model.inputs]
    samples = nncf.Dataset([{name: getattr(batch, name) for name in names} for batch in calibration])
    # a table that is looked up costs no products, and OpenVINO would spread one of int8 out into floats in memory; one
    # of floats stays in the mapped file, of which the rows that texts ask for alone are read
    tables = nncf.IgnoredScope(types=["Gather"], validate=False)
    return nncf.quantize(
        model,
        samples,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
        ignored_scope=tables,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters from calling home, from warning about tracing, and off the standard output."""
    with no_telemetry(), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
