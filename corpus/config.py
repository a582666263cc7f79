"""Configuration: one ``tandem.toml``, overridden by the environment and by ``--set``.

The sections are pydantic models that live beside their users; ``server/config.py`` joins them into one tree.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.errors import ConfigError

ENVIRONMENT_PREFIX = "TANDEM_"


class Section(BaseModel):
    """Base of every configuration section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=Section)


def load_config(
    model: type[M],
    path: Path,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> M:
    """Read a configuration; later sources win: file, environment, overrides.

    Args:
        model: The root section to validate against.
        path: The ``tandem.toml`` to read.
        overrides: ``section.key=value`` strings; a value is read as TOML and, failing that, as a string.
        environ: Variables such as ``TANDEM_RETRIEVER__TRAIN__EPOCHS=2``: a double underscore descends a level.
            Only variables whose first part names a section count. Default: the process's environment.
    Returns:
        The validated, immutable configuration.
    Raises:
        ConfigError: If the file is missing or is not TOML, or a key or value does not fit the schema.
    """
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"no configuration at {path}; run `tandem init {path.parent}` to create a workspace") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}; mend the line it names") from exc
    variables = os.environ if environ is None else environ
    for name, text in sorted(variables.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            if keys[0] in model.model_fields:
                _assign(tree, keys, _value(text), source=name)
    for override in overrides:
        key, value = read_override(override)
        _assign(tree, key.split("."), value, source=f"--set {override}")
    return validated(model, tree, source=str(path))


def validated(model: type[M], tree: Mapping[str, Any], *, source: str) -> M:
    """Return a configuration of the values in a tree of sections.

    Args:
        model: The root section to validate against.
        tree: Sections and values, as TOML has them.
        source: Where they stand, for the message.
    Raises:
        ConfigError: If a key or value does not fit the schema.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in exc.errors())
        raise ConfigError(f"{source} does not fit the schema: {faults}") from exc


def read_override(override: str) -> tuple[str, Any]:
    """Return the key, with its section, and the value of ``section.key=value``.

    Raises:
        ConfigError: If it has no key or no value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"expected --set section.key=value, got {override!r}")
    return key.strip(), _value(text)


def _value(text: str) -> Any:  # noqa: ANN401 - TOML values are of any type
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(tree: dict[str, Any], keys: list[str], value: object, *, source: str) -> None:
    node = tree
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{source}: {key!r} is a value, not a section; check the spelling of the key")
    node[keys[-1]] = value
