"""``tandem serve`` and ``tandem search``."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import JsonOption, SetOption, StoreArgument, open_store


def serve(
    store: StoreArgument = Path(),
    address: Annotated[str | None, typer.Option(help="Such as 127.0.0.1:50051; port 0 picks a free one.")] = None,
    overrides: SetOption = None,
) -> None:
    """Serve the current bundle over gRPC until SIGTERM or SIGINT."""
    import asyncio
    import os

    # gRPC's own log would repeat what strangers send, control characters and all; read when gRPC starts
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from server.processes.sharing import n_processes_of

    settings = list(overrides or ())
    if address is not None:
        settings.append(f'server.address="{address}"')
    workspace, config = open_store(store, settings)
    n_processes = n_processes_of(config.server)
    if n_processes == 1:
        from server.processes.process import serve as serve_alone

        asyncio.run(serve_alone(config, workspace))
    else:
        from server.processes.supervisor import Supervisor

        asyncio.run(Supervisor(config, workspace, n_processes=n_processes).run())


def search(
    query: Annotated[str, typer.Argument(help="What a shopper would type.")],
    address: Annotated[str, typer.Option(help="The server's address.")] = "127.0.0.1:50051",
    user: Annotated[str | None, typer.Option(help="The shopper whose history is read.")] = None,
    k: Annotated[int, typer.Option("-k", help="Results wanted.")] = 10,
    condition: Annotated[
        str | None, typer.Option("--filter", help="What results must meet, such as 'brand = Acme AND price < 50'.")
    ] = None,
    facets: Annotated[
        list[str] | None, typer.Option("--facet", help="A field to count, such as brand; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search a running server."""
    from server.access.credentials import Credentials
    from server.cli.console import print_response
    from server.client import TandemClient

    with TandemClient(address, credentials=Credentials.from_environment()) as client:
        response = client.search(query, user_id=user, page_size=k, filter=condition, facets=facets or ())
    print_response(response, as_json=as_json)
