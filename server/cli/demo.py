"""``tandem demo``: the whole of Tandem on an invented store, in a few minutes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corpus.errors import TandemError
from corpus.workspace import Workspace, versions
from server.cli.options import open_store

if TYPE_CHECKING:
    from rich.console import Console

    from corpus.prepared import Example, Prepared
    from server.client import TandemClient
    from server.config import TandemConfig

# Sized for two cores without a GPU: enough steps to leave the floors behind, few enough for a coffee.
DEMO_SETTINGS = [
    "retriever.train.max_steps=45",
    "retriever.train.valid_examples=200",
    "retriever.train.valid_items=1000",
    'reranker.base_model="retriever"',
    "reranker.n_layers=4",
    "reranker.max_history_tokens=40",
    "reranker.max_item_tokens=32",
    "reranker.train.max_steps=45",
    "reranker.train.lists_per_batch=12",
    "reranker.train.list_size=6",
    "reranker.train.learning_rate=2e-4",
    "reranker.train.valid_examples=200",
    "reranker.train.valid_depth=20",
    "blend.max_reranked=120",
    "blend.rerank_depth=20",
]
N_EVALUATED = 120
DEMO_SEED = 7
SERVING = re.compile(r"serving .* on (\S+:\d+)")


def demo(
    store: Annotated[Path, typer.Argument(help="Folder of the invented store.")] = Path("demo-store"),
    seed: Annotated[int, typer.Option(help="Seed of the invented store.")] = DEMO_SEED,
) -> None:
    """Invent a store, train both models, build, serve, search as different shoppers, and measure."""
    from rich.console import Console

    console = Console()
    started = time.monotonic()
    workspace = Workspace(store)
    config = make_demo_store(console, workspace, seed)
    _heading(console, "Held-out quality: searches of the last days, which no model has seen")
    from indexer.evaluate import evaluate_bundle

    measured = evaluate_bundle(workspace, config.retriever, split="test", limit=N_EVALUATED, rerank_depth=20)
    console.print(measured.table())
    _heading(console, "Search: the same words, different shoppers")
    with _server(store) as address:
        from server.client import TandemClient

        with TandemClient(address) as client:
            _search_as_shoppers(console, client, workspace)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    _heading(console, f"Done in {minutes} min {seconds} s. Next, try")
    console.print(
        f"  tandem serve {store}\n"
        f'  tandem search "running shoes" --user somebody-new   # in a second terminal\n'
        f"  tandem init my-store && $EDITOR my-store/tandem.toml   # your own catalogue and event log",
        highlight=False,
    )


def make_demo_store(console: Console, workspace: Workspace, seed: int) -> TandemConfig:
    """Invent a store, train both models, build and publish; what is there already is left as it is.

    Args:
        console: Told what is being done.
        workspace: Where the store is to be.
        seed: Of the invented store.
    Returns:
        Its configuration.
    """
    _make_store(console, workspace, seed)
    _, config = open_store(workspace.root, None)
    _make_bundle(console, workspace, config)
    return config


def _make_store(console: Console, workspace: Workspace, seed: int) -> None:
    from server.cli.data import init, prepare

    if not workspace.config_path.exists():
        _heading(console, "A store: catalogue, shoppers, and two months of their searches, clicks and purchases")
        init(workspace.root, kind="synthetic", seed=seed, overrides=DEMO_SETTINGS)
    if not (workspace.data / "manifest.json").exists():
        _heading(console, "Prepare: clean both, pair each query with what answered it")
        prepare(workspace.root)


def _make_bundle(console: Console, workspace: Workspace, config: TandemConfig) -> None:
    from indexer.publish import current_version
    from server.cli.bundles import build, publish
    from server.cli.models import train_first_stage, train_second_stage, train_trees

    if not versions(workspace.retrievers, marker="model.json"):
        _heading(console, "First stage: fine-tune the two towers on what shoppers chose after what they typed")
        train_first_stage(workspace, config)
    if not versions(workspace.rerankers, marker="model.json"):
        _heading(console, "Second stage: fine-tune the cross-encoder on the first stage's candidates and histories")
        train_second_stage(workspace, config)
    if not versions(workspace.blends, marker="model.json"):
        _heading(console, "Blend: trees over both stages' scores, popularity, prices and affinities")
        train_trees(workspace, config)
    if current_version(workspace.bundles) is None:
        _heading(console, "Build and publish a bundle: embeddings, both indexes, exported models, checksums")
        build(workspace.root)
        # whatever minutes of training give is what the demonstration is about
        publish(workspace.root, force=True, reason="a demonstration")


@contextmanager
def _server(store: Path) -> Iterator[str]:
    """Run ``tandem serve`` as an operator would, on a free port; yield its address."""
    command = [sys.executable, "-m", "server.cli", "serve", str(store), "--address", "127.0.0.1:0"]
    command += ["--set", "server.admin_address=127.0.0.1:0", "--set", "server.metrics_address=127.0.0.1:0"]
    log = store / "serve.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := SERVING.search(log.read_text(encoding="utf-8")):
            return found[1]
        time.sleep(0.1)
    raise TandemError(f"the server did not start within 60 s; its log: {log}")


def _search_as_shoppers(console: Console, client: TandemClient, workspace: Workspace) -> None:
    from corpus.prepared import Prepared
    from server.cli.console import results_table

    prepared = Prepared(workspace.data)
    query, shoppers = _shoppers_of_one_query(prepared)
    anonymous = client.search(query, page_size=50)
    ranks_before = {hit.item.item_id: hit.rank for hit in anonymous.results}
    console.print(f"\n[bold]“{query}”[/bold], nobody in particular")
    console.print(results_table(anonymous, limit=5))
    for example in shoppers:
        answer = client.search(query, events=list(example.history[:20]), page_size=5)
        console.print(f"\n[bold]“{query}”[/bold], a shopper whose last purchases and clicks were")
        for row in _recent_rows(prepared, example)[:4]:
            console.print(f"    · {prepared.items.item(row).title}", highlight=False)
        console.print(results_table(answer, ranks_before=ranks_before))


def _recent_rows(prepared: Prepared, example: Example) -> list[int]:
    rows = [prepared.items.row_of(event.item_id) for event in example.history if event.item_id is not None]
    return list(dict.fromkeys(row for row in rows if row is not None))


def _shoppers_of_one_query(prepared: Prepared) -> tuple[str, list[Example]]:
    """Pick the held-out query that most shoppers with a history typed, and two of them with little in common."""
    by_query: dict[str, list[Example]] = {}
    for example in prepared.examples("test"):
        if len(_recent_rows(prepared, example)) >= 3:
            by_query.setdefault(example.query, []).append(example)
    if not by_query:
        raise TandemError("expected held-out searches of shoppers with a history, found none; generate a larger store")
    query, examples = max(by_query.items(), key=lambda pair: len({e.user_id for e in pair[1]}))
    first = max(examples, key=lambda e: len(e.history))
    known = set(_recent_rows(prepared, first))
    others = [e for e in examples if e.user_id != first.user_id]
    others.sort(key=lambda e: (len(known & set(_recent_rows(prepared, e))), -len(e.history)))
    return query, [first, *others[:1]]


def _heading(console: Console, text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/bold cyan]")
