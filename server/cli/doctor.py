"""``tandem doctor``: is this installation able to serve, to train, to use the GPU?"""

import importlib.util
import os
import platform
import resource
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import JsonOption, report_values
from server.cli.store_checks import Check, store_checks

DISTRIBUTION = "tandem-search"
MIN_FILE_HANDLES = 1024  # each connection of a caller takes one, besides some hundred of files and models
TRAINING = ("torch", "transformers", "sentence_transformers", "nncf", "ir_measures", "accelerate", "tensorboard")


def doctor(
    store: Annotated[Path | None, typer.Argument(help="Check this store too.")] = None, as_json: JsonOption = False
) -> None:
    """Check the installation, and a store if one is named; say what to mend, and exit with 1 if there is anything."""
    checks = [*_installation(), *(store_checks(store) if store else ())]
    lines = [f"{'ok  ' if c.ok else 'MEND'}  {c.name:<22} {c.found}" + (f"  → {c.remedy}" * (not c.ok)) for c in checks]
    report_values(
        {c.name: {"ok": c.ok, "found": c.found, "remedy": c.remedy} for c in checks},
        as_json=as_json,
        text="\n".join(lines),
    )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _installation() -> list[Check]:
    unfit = _unfit_packages()
    training = [name for name in TRAINING if importlib.util.find_spec(name) is None]
    n_handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    free_bytes = shutil.disk_usage(Path.cwd()).free
    return [
        Check(
            name="python", ok=sys.version_info >= (3, 11), found=platform.python_version(), remedy="use 3.11 or newer"
        ),
        Check(
            name="serving libraries",
            ok=not unfit,
            found=", ".join(unfit) or "all there, in versions that fit",
            remedy="pip install -c constraints.txt .",
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
        Check(
            name="file handles",
            ok=n_handles >= MIN_FILE_HANDLES,
            found=f"{n_handles:,} for a process",
            remedy=f"ulimit -n {MIN_FILE_HANDLES * 64}, or LimitNOFILE in deploy/tandem.service",
        ),
        Check(name="disk", ok=free_bytes > 2e9, found=f"{free_bytes / 1e9:.0f} GB free", remedy="free 2 GB"),
    ]


def _unfit_packages() -> list[str]:
    """Name the packages that the plain install needs and that are missing, or of a version that does not fit."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return [f"{DISTRIBUTION} is not installed"]
    unfit = []
    for need in needed:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        # either build of FAISS does, and the check below counts them
        found = _version(need.name) or (_version("faiss-gpu") if need.name == "faiss-cpu" else None)
        if found is None:
            unfit.append(f"{need.name} is missing")
        elif not need.specifier.contains(found, prereleases=True):
            unfit.append(f"{need.name} is {found}, expected {need.specifier}")
    return unfit


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
