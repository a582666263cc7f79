"""The wheel holds exactly our packages, and the plain install needs no torch."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"corpus", "retrieval", "rerank", "indexer", "server"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True, timeout=300)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_holds_exactly_our_packages(wheel: zipfile.ZipFile):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_the_generated_stubs(wheel: zipfile.ZipFile):
    assert any(name.endswith("search_pb2_grpc.py") for name in wheel.namelist())


def test_wheel_may_not_be_uploaded_by_accident(wheel: zipfile.ZipFile):
    metadata = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    assert b"Private :: Do Not Upload" in wheel.read(metadata)


def test_plain_install_needs_no_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    heavy = ("torch", "transformers", "sentence-transformers", "nncf", "ir-measures")
    assert not [name for name in project["dependencies"] if name.startswith(heavy)]


SERVING_MODULES = [
    "server.cli",
    "server.serve",
    "server.client",
    "indexer.bundle",
    "indexer.publish",
    "rerank.reranker",
]


@pytest.mark.parametrize("module", SERVING_MODULES)
def test_serving_modules_import_no_training_library(module: str):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'nncf', 'ray') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_command_line_imports_nothing_heavy():
    heavy = ("torch", "transformers", "faiss", "polars", "openvino", "tantivy", "grpc", "numpy", "pydantic")
    code = f"import sys, server.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
