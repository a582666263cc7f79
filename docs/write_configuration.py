"""Write docs/configuration.md from the configuration's own classes, their defaults and their comments.

Run it with ``make docs``; a test fails when the page is stale.
"""

import ast
import inspect
import io
import sys
import tokenize
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydantic import BaseModel

from server.config import TandemConfig

PAGE = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration

One file, `tandem.toml`, in the store's folder; every key has a default, an unknown key is an error. For a single run,
`--set section.key=value` overrides it, and so does `TANDEM_SECTION__KEY=value` in the environment (a double underscore
descends a level); `--set` wins over the environment, the environment over the file. The resolved configuration is kept
in the manifest of everything that is made with it. This page is generated: `make docs`.
"""


def comments(model: type[BaseModel]) -> dict[str, str]:
    """Return the trailing comment of each field, from the class's source."""
    source = inspect.getsource(model)
    lines = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: lines.get(node.end_lineno or 0, "")
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def shown(value: Any) -> str:  # noqa: ANN401 - a default may be of any type
    """Write a default as TOML would."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def section(name: str, model: type[BaseModel]) -> str:
    """Write the table of one section, then those of the sections inside it."""
    notes = comments(model)
    rows, inner = [], []
    for key, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            inner.append(section(f"{name}.{key}", field.annotation))
            continue
        entry = next(iter(get_args(field.annotation)), None)  # of a list of sections
        if inspect.isclass(entry) and issubclass(entry, BaseModel):
            inner.append(section(f"[{name}.{key}]", entry))
        default = "required" if field.is_required() else f"`{shown(field.get_default(call_default_factory=True))}`"
        rows.append(f"| `{key}` | {default} | {notes.get(key, '')} |")
    summary = (inspect.getdoc(model) or "").splitlines()[0].partition(": ")[2]
    table = "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])
    return "\n".join([f"## `[{name}]`\n", f"{summary[:1].upper()}{summary[1:]}\n", f"{table}\n", *inner])


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for name, field in TandemConfig.model_fields.items():
        assert inspect.isclass(field.annotation)
        parts.append(section(name, field.annotation))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
