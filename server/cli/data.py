"""``tandem init`` and ``tandem prepare``: from a store's files to clean tables."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import ConfigError
from corpus.workspace import Workspace
from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report_values

HEAD = """\
# A Tandem store. Every setting, its default and its meaning: docs/configuration.md.
# Override one for a single run with --set section.key=value or TANDEM_SECTION__KEY=value.
"""

# what a store's owner is likely to change, by section
HINTS = {
    "retriever": (
        '# base_model = "default"            # packaged MiniLM; or a folder, or a hub id',
        '# item_fields = ["title", "brand", "category"]',
    ),
    "reranker": (),
    "server": ('# address = "127.0.0.1:50051"',),
}

# what a newcomer without an importer edits: the two files and how their columns are called
OWN_FILES = """\
items = "source/items.csv"          # CSV, JSON Lines or Parquet; .gz, .zst; one file or a glob
events = "source/events.csv"        # search, impression, click, add_to_cart, purchase
# item_columns = { item_id = "sku", title = "name" }
# event_columns = { timestamp = "time", item_id = "sku" }"""

SYNTHETIC_SEARCHES = 12_000


def init(
    store: StoreArgument,
    kind: Annotated[
        str | None,
        typer.Option(
            "--from", help="What to fill it from: synthetic, ubi, esci, wands, bestbuy, homedepot or purchases."
        ),
    ] = None,
    source: Annotated[Path | None, typer.Option(help="The folder that holds the files to import.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic store.")] = 7,
    searches: Annotated[
        int, typer.Option(min=10, max=300_000, help="Searches in the synthetic store's log.")
    ] = SYNTHETIC_SEARCHES,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Write a setting into tandem.toml.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a store: its folder, its tandem.toml and, with --from, its source files."""
    workspace = Workspace(store)
    if workspace.config_path.exists():
        raise ConfigError(f"{workspace.config_path} exists; choose another folder, or remove it to start again")
    check_overrides(overrides or ())  # before anything is made
    settings, counts = _fill(workspace, kind, source, seed, searches)
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()] if kind else OWN_FILES.splitlines()
    store.mkdir(parents=True, exist_ok=True)
    workspace.config_path.write_text(_configuration(lines, overrides or ()), encoding="utf-8")
    wrote = ", ".join(f"{value:,} {name}" for name, value in counts.items())
    hint = f"next: tandem run {store}" if kind else f"next: put your files into {workspace.source} and edit the file"
    report_values(
        {"config": workspace.config_path, **counts},
        as_json=as_json,
        text=f"created {workspace.config_path}" + (f" with {wrote}" if wrote else "") + f"\n{hint}",
    )


def prepare(
    store: StoreArgument = Path(),
    overrides: SetOption = None,
    as_json: JsonOption = False,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="The catalogue is a full export of this time (UTC if no zone is named): live updates taken before it "
            "are superseded.",
        ),
    ] = None,
) -> None:
    """Clean the catalogue and the event log; pair queries with what answered them."""
    from corpus.live_log import Held, read_log
    from corpus.prepare import prepare as prepare_data

    workspace, config = open_store(store, overrides)
    superseded = None
    if as_of is not None:
        as_of = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
        log = read_log(workspace.live)
        superseded = Held(log=log.identity, sequence=log.last_before(as_of), as_of=as_of)
    result = prepare_data(config.data, workspace.root, workspace.data, held=superseded)
    values = result.model_dump()
    report_values(
        values, as_json=as_json, text="\n".join(f"{key.replace('_', ' '):<24} {_show(v)}" for key, v in values.items())
    )


def _fill(
    workspace: Workspace, kind: str | None, source: Path | None, seed: int, searches: int
) -> tuple[dict[str, object], dict[str, int]]:
    """Write the source files; return the settings and the counts."""
    if kind is None:
        workspace.source.mkdir(parents=True, exist_ok=True)
        return {}, {}
    if kind == "synthetic":
        from corpus.synthetic import SyntheticConfig, generate

        made = generate(SyntheticConfig(seed=seed, n_searches=searches), workspace.source)
        counts = {"items": made.n_items, "searches": made.n_searches, "clicks": made.n_clicks}
        return {"items": "source/items.parquet", "events": "source/events.parquet"}, {
            **counts,
            "purchases": made.n_purchases,
        }
    from corpus.importers import KINDS, import_store

    if kind not in KINDS:
        raise ConfigError(f"expected --from synthetic, {', '.join(KINDS)}; got {kind!r}")
    if source is None:
        raise ConfigError(f"--from {kind} needs --source FOLDER: the folder that holds the files to import")
    imported = import_store(kind, source, workspace.source)
    return dict(imported.settings), imported.counts


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse settings that no tandem.toml can hold.

    Args:
        overrides: As ``section.key=value``.
    Raises:
        ConfigError: If one has no section, or does not fit the schema beside the others.
    """
    from corpus.config import read_override, validated
    from server.config import TandemConfig

    for override in overrides:
        if "." not in read_override(override)[0]:
            raise ConfigError(f"expected --set section.key=value, got {override!r}")
    text = _configuration(OWN_FILES.splitlines(), overrides)
    named = ", ".join(overrides)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"expected settings that fit beside each other, got --set {named}: {exc}") from exc
    validated(TandemConfig, tree, source=f"--set {named}")


def _configuration(data: Sequence[str], overrides: Sequence[str]) -> str:
    """Return the text of a tandem.toml.

    Args:
        data: Lines of its [data].
        overrides: Further settings, in the sections that they name; in place of a line that sets the same.
    """
    from corpus.config import read_override

    sections = {"data": data, **HINTS}
    lines = {name: {_key_of(line): line for line in hints} for name, hints in sections.items()}
    for override in overrides:
        name, value = read_override(override)
        section, _, key = name.partition(".")
        lines.setdefault(section, {})[key] = f"{key} = {_toml(value)}"
    return HEAD + "".join("\n".join(["", f"[{name}]", *each.values(), ""]) for name, each in lines.items())


def _key_of(line: str) -> str:
    """Return what a line sets; of a comment, the line itself."""
    return line if line.startswith("#") else line.partition("=")[0].strip()


def _toml(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # nan and inf as well
    return json.dumps(value, ensure_ascii=False)


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
