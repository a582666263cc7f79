"""OpenVINO, imported late and kept from calling home."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from corpus.errors import DeviceUnavailable

_STARTING = threading.Lock()  # bundles open their models side by side


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Keep OpenVINO and NNCF from reporting their use to their maker inside the block.

    Both do so unasked, the former at its very import; a search server must not. What they take for a continuous
    integration job they leave alone, and they offer no other switch short of a file in the home folder.
    """
    switches = {"CI": "true", "NNCF_CI": "1"}
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def load_openvino() -> Any:  # noqa: ANN401 - the module
    """Import OpenVINO.

    Raises:
        DeviceUnavailable: If it is not installed.
    """
    try:
        with no_telemetry():
            import openvino
    except ImportError as exc:
        raise DeviceUnavailable("expected OpenVINO for an exported model, found none; pip install openvino") from exc
    return openvino


def openvino_core() -> Any:  # noqa: ANN401 - openvino.Core
    """Return the process's one OpenVINO runtime. Safe to call from several threads.

    Raises:
        DeviceUnavailable: If OpenVINO is not installed.
    """
    with _STARTING:
        return _core()


@lru_cache(maxsize=1)
def _core() -> Any:  # noqa: ANN401 - openvino.Core
    return load_openvino().Core()
