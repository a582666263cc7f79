"""``tandem doctor``: is this installation able to serve, to train, to use the GPU?"""

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import TandemError
from server.cli.options import JsonOption, open_store, report_values

SERVING = ("faiss", "tantivy", "openvino", "tokenizers", "polars", "fsspec", "grpc", "grpc_health", "grpc_reflection")
TRAINING = ("torch", "transformers", "sentence_transformers", "nncf", "ir_measures", "accelerate", "tensorboard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def doctor(
    store: Annotated[Path | None, typer.Argument(help="Check this store too.")] = None, as_json: JsonOption = False
) -> None:
    """Check the installation, and a store if one is named; say what to mend."""
    checks = [*_installation(), *(_store(store) if store else ())]
    lines = [f"{'ok  ' if c.ok else 'MEND'}  {c.name:<22} {c.found}" + (f"  → {c.remedy}" * (not c.ok)) for c in checks]
    report_values(
        {c.name: {"ok": c.ok, "found": c.found, "remedy": c.remedy} for c in checks},
        as_json=as_json,
        text="\n".join(lines),
    )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _installation() -> list[Check]:
    missing = [name for name in SERVING if importlib.util.find_spec(name) is None]
    training = [name for name in TRAINING if importlib.util.find_spec(name) is None]
    free_bytes = shutil.disk_usage(Path.cwd()).free
    return [
        Check(
            name="python", ok=sys.version_info >= (3, 11), found=platform.python_version(), remedy="use 3.11 or newer"
        ),
        Check(
            name="serving libraries",
            ok=not missing,
            found=f"missing: {', '.join(missing)}" if missing else "all there",
            remedy="pip install -c constraints.txt tandem-search",
        ),
        Check(
            name="training libraries",
            ok=True,
            found=f"absent ({', '.join(training)}): this installation serves only" if training else "all there",
        ),
        Check(
            name="faiss",
            ok=len(_faiss()) == 1,
            found=", ".join(_faiss()) or "none",
            remedy="keep exactly one of faiss-cpu and faiss-gpu: they overwrite each other",
        ),
        Check(name="processor", ok=True, found=f"{len(os.sched_getaffinity(0))} cores, {_instructions()}"),
        Check(name="disk", ok=free_bytes > 2e9, found=f"{free_bytes / 1e9:.0f} GB free", remedy="free 2 GB"),
    ]


def _faiss() -> list[str]:
    return [f"{name} {found}" for name in ("faiss-cpu", "faiss-gpu") if (found := _version(name))]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _instructions() -> str:
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return "instruction sets unknown"
    names = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags]
    return " ".join(names) if names else "no vector instructions known to help"


def _store(store: Path) -> list[Check]:
    try:
        workspace, config = open_store(store, None)
    except TandemError as exc:
        return [Check(name="configuration", ok=False, found=str(exc), remedy="mend tandem.toml")]
    checks = [Check(name="configuration", ok=True, found=str(workspace.config_path))]
    try:
        from indexer.bundle import open_bundle
        from indexer.publish import current_version

        current = current_version(workspace.bundles)
        if current is None:
            remedy = f"tandem run {store}"
            return [*checks, Check(name="bundle", ok=False, found="none is published", remedy=remedy)]
        bundle = open_bundle(workspace.bundles / current)
        found = f"{current}, {len(bundle.items):,} items, verified"
        checks.append(Check(name="bundle", ok=True, found=found))
    except TandemError as exc:
        checks.append(Check(name="bundle", ok=False, found=str(exc), remedy="tandem rollback, or build and publish"))
    checks.append(Check(name="server address", ok=True, found=config.server.address))
    return checks
