"""The house's plan, enforced: who imports whom, and who alone imports what."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["corpus", "retrieval", "rerank", "indexer", "server"]
ONLY_IN = {
    "polars": "corpus",
    "faiss": "retrieval",
    "tantivy": "retrieval",
    "openvino": "retrieval",
    "nncf": "retrieval",
    "lark": "retrieval",
    "lightgbm": "rerank",
    "ray": "indexer",
    "grpc": "server",
    "redis": "server",
}
MODULES = sorted(
    path for package in ORDER for path in (ROOT / package).rglob("*.py") if "pb" not in path.relative_to(ROOT).parts
)


def imports(path: Path) -> set[str]:
    """Return the first part of every absolute import anywhere in a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_leftwards_and_libraries_have_one_room(path: Path):
    package = path.relative_to(ROOT).parts[0]
    found = imports(path)
    to_the_right = set(ORDER[ORDER.index(package) + 1 :]) | {"tests", "benchmarks"}
    assert not found & to_the_right
    assert not {name for name in found if ONLY_IN.get(name, package) != package}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_below_400_lines(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400
