"""``tandem keys``: who may call a server."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import JsonOption, open_store, report_values

NameArgument = Annotated[str, typer.Argument(help="Names the key in logs and limits.")]
StoreOption = Annotated[Path, typer.Option("--store", help="The store's folder, which holds tandem.toml.")]


class ScopeName(StrEnum):
    """``server.access.api_keys.Scope``, without what that imports."""

    SEARCH = "search"
    EVENTS = "events"
    ADMIN = "admin"


def add(
    name: NameArgument,
    scope: Annotated[list[ScopeName], typer.Option(help="What it may be used for; may be repeated.")],
    store: StoreOption = Path(),
    expires: Annotated[datetime | None, typer.Option(help="When it ends, UTC, such as 2027-01-31.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once."""
    from datetime import UTC

    from server.access.api_keys import Scope, add_key, utc

    scopes = [Scope(each.value) for each in scope]
    ends = utc(expires) if expires is not None else None
    key = add_key(_file(store), name, scopes, expires_at=ends, now=datetime.now(UTC))
    report_values({"name": name, "key": key}, as_json=as_json, text=key)


def list_keys(store: StoreOption = Path(), as_json: JsonOption = False) -> None:
    """List names, scopes and ends of keys."""
    from datetime import UTC

    from server.access.api_keys import read_keys

    now = datetime.now(UTC)
    keys = read_keys(_file(store)).keys
    rows = [
        {"name": k.name, "scopes": list(k.scopes), "expires_at": k.expires_at, "expired": k.has_expired(now)}
        for k in keys
    ]
    lines = [
        f"{k.name:<24} {', '.join(k.scopes):<24} "
        + (f"{'expired' if k.has_expired(now) else 'until'} {k.expires_at:%Y-%m-%d %H:%M}" if k.expires_at else "")
        for k in keys
    ]
    report_values({"keys": rows}, as_json=as_json, text="\n".join(line.rstrip() for line in lines) or "no keys")


def remove(name: NameArgument, store: StoreOption = Path()) -> None:
    """Forget a key; running servers refuse it within a second."""
    from server.access.api_keys import remove_key

    remove_key(_file(store), name)
    typer.echo(f"{name} is no key any more")


def _file(store: Path) -> Path:
    from corpus.errors import ConfigError

    workspace, config = open_store(store, None)
    if config.server.api_keys is None:
        raise ConfigError(
            'expected server.api_keys in tandem.toml, got none; set api_keys = "keys.json" under [server], '
            "so that the server asks for keys"
        )
    return workspace.root / config.server.api_keys
