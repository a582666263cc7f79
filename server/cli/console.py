"""How answers look on a terminal."""

import dataclasses
import json
import sys

from rich.console import Console
from rich.table import Table

from server.client import SearchResponse


def print_response(response: SearchResponse, *, as_json: bool = False) -> None:
    """Print an answer: the items, and what each stage thought of them."""
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(response), indent=2, default=str) + "\n")
        return
    console = Console()
    console.print(results_table(response))
    for facet in response.facets:
        counts = ", ".join(f"{value.value} ({value.count})" for value in facet.values)
        console.print(f"{facet.field}: {counts}", markup=False)
    timings = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in response.stage_timings_ms.items())
    console.print(f"{response.total_size} candidates · bundle {response.index_version} · {timings}", style="dim")
    for reason in response.degraded:
        console.print(f"degraded: {reason}", style="yellow")


def results_table(
    response: SearchResponse, *, limit: int | None = None, ranks_before: dict[str, int] | None = None
) -> Table:
    """Lay out the results of one answer.

    Args:
        response: The answer.
        limit: Show at most so many results.
        ranks_before: Rank of each item for the same query without history; given, a column shows how far it moved each.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rank", "retrieval", "lexical", "rerank"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    if ranks_before is not None:
        table.add_column("moved", justify="right", no_wrap=True, min_width=8)
    table.add_column("item", ratio=1)
    table.add_column("price", justify="right", no_wrap=True, min_width=6)
    for hit in response.results[:limit]:
        row = [str(hit.rank), _score(hit.retrieval_score), _score(hit.lexical_score), _score(hit.rerank_score)]
        if ranks_before is not None:
            row.append(_moved(ranks_before.get(hit.item.item_id), hit.rank))
        price = f"{hit.item.price:.2f}" if hit.item.price is not None else ""
        table.add_row(*row, hit.item.title, price)
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _moved(before: int | None, now: int) -> str:
    if before is None:
        return "[green]new here[/green]"
    if before == now:
        return "="
    return f"[green]+{before - now}[/green]" if before > now else f"[red]-{now - before}[/red]"
