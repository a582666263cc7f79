"""``tandem items upsert`` and ``tandem items delete``: changing the catalogue of a running server."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import JsonOption, report_values

AddressOption = Annotated[str, typer.Option(help="The server's server.admin_address.")]
ADMIN_ADDRESS = "127.0.0.1:50052"
AT_ONCE = 100  # items in one call: some seconds of embedding, if all of them are new


def upsert(
    file: Annotated[Path, typer.Argument(help="Items as JSON Lines, CSV or Parquet, with the fields of the API.")],
    address: AddressOption = ADMIN_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Add items, or replace them whole; searches find them when this returns."""
    import tempfile

    from corpus.catalogue import read_catalogue
    from corpus.items import ItemTable
    from corpus.rejects import RejectLog
    from corpus.settings import DataConfig
    from server.access.credentials import Credentials
    from server.client import TandemAdmin

    with tempfile.TemporaryDirectory() as folder, RejectLog(Path(folder) / "rejects.jsonl") as rejects:
        # a row that cannot be read stops it: nobody looks at rejects here
        settings = DataConfig(items=str(file.absolute()), max_reject_share=0)
        table = ItemTable(read_catalogue(settings, Path(), rejects))
    with TandemAdmin(address, credentials=Credentials.from_environment()) as admin:
        for start in range(0, len(table), AT_ONCE):
            admin.upsert_items([table.item(row) for row in range(start, min(start + AT_ONCE, len(table)))])
    report_values({"n_upserted": len(table)}, as_json=as_json, text=f"{len(table):,} items are live")


def delete(
    item_ids: Annotated[list[str], typer.Argument(help="Ids of the items to remove.")],
    address: AddressOption = ADMIN_ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Remove items; no search finds them when this returns."""
    from server.access.credentials import Credentials
    from server.client import TandemAdmin

    unknown: list[str] = []
    with TandemAdmin(address, credentials=Credentials.from_environment()) as admin:
        for start in range(0, len(item_ids), AT_ONCE):
            unknown += admin.delete_items(item_ids[start : start + AT_ONCE])
    n_deleted = len(set(item_ids)) - len(set(unknown))
    text = f"{n_deleted:,} items are gone" + (f"; there was no {', '.join(unknown)}" if unknown else "")
    report_values({"n_deleted": n_deleted, "unknown_item_ids": unknown}, as_json=as_json, text=text)
