"""Options that several commands share, and how a command finds its store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corpus.workspace import Workspace

if TYPE_CHECKING:
    from pydantic import BaseModel

    from server.config import TandemConfig

StoreArgument = Annotated[Path, typer.Argument(help="The store's folder, which holds tandem.toml.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def open_store(store: Path, overrides: list[str] | None) -> tuple[Workspace, TandemConfig]:
    """Read a store's configuration.

    Raises:
        ConfigError: If the folder has no valid ``tandem.toml``.
    """
    from corpus.config import load_config
    from server.config import TandemConfig

    workspace = Workspace(store)
    return workspace, load_config(TandemConfig, workspace.config_path, overrides=overrides or ())


def report(document: BaseModel, *, as_json: bool, text: str) -> None:
    """Print a command's result: one JSON document, or a line of text."""
    sys.stdout.write((document.model_dump_json(indent=2) if as_json else text) + "\n")


def report_values(values: dict[str, object], *, as_json: bool, text: str) -> None:
    """Print a result that is no model of its own."""
    sys.stdout.write((json.dumps(values, indent=2, default=str) if as_json else text) + "\n")
