"""``tandem health``: what a container, a script or a person asks a running server."""

from typing import Annotated

import typer

from server.cli.options import JsonOption, report_values


def health(
    address: Annotated[str, typer.Option(help="The server's address.")] = "127.0.0.1:50051",
    alive: Annotated[
        bool, typer.Option("--alive", help="Ask whether the process lives, instead of whether searches are wanted.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the answer.")] = 3.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a server whether it wants searches; exit with 1 if it does not."""
    from server.access.credentials import Credentials
    from server.telemetry.health import SEARCH_SERVICE, check_health

    service = "" if alive else SEARCH_SERVICE
    status = check_health(address, service, timeout_s=timeout_s, credentials=Credentials.from_environment())
    report_values({"service": service, "status": status}, as_json=as_json, text=status)
    if status != "SERVING":
        raise typer.Exit(1)
