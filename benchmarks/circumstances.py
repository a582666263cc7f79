"""Under which circumstances a figure was measured: without them it cannot be measured again."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch",
    "sentence-transformers",
    "transformers",
    "faiss-cpu",
    "faiss-gpu",
    "lightgbm",
    "onnxruntime",
    "openvino",
    "tantivy",
)


class Circumstances:
    """The machine, the versions and the clock, from the moment this is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._load_before = os.getloadavg()

    def document(self) -> dict[str, object]:
        """Return what a results file records, with the wall time so far."""
        return {
            "machine": {
                "processor": processor(),
                "n_cores": len(os.sched_getaffinity(0)),
                "device": device(),
                "platform": f"{platform.system()} {platform.machine()}",
                "load_average_before": _rounded(self._load_before),  # over 1, 5 and 15 minutes
                "load_average_after": _rounded(os.getloadavg()),
            },
            "versions": {"tandem": commit(), "python": platform.python_version(), **package_versions()},
            "wall_s": round(time.monotonic() - self._began, 1),
        }


def processor() -> str:
    """Return the processor's name, as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def device() -> str:
    """Return where torch trains: a GPU's name, or ``cpu``."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def commit(root: Path = ROOT) -> str:
    """Return the commit of a checkout, marked if tracked files differ from it; ``unknown`` outside of one."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Return the versions of those packages that are installed and that decide what comes out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _rounded(load: tuple[float, float, float]) -> list[float]:
    return [round(value, 2) for value in load]
