"""The command line's root: sub-commands, exit codes, and errors without tracebacks.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration. Nothing heavy is imported here: each command imports
what it runs, so that ``tandem --help`` answers at once.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version as package_version
from typing import Annotated

import typer

from corpus.errors import ConfigError, TandemError
from server.cli import bundles, data, demo, doctor, health, items, keys, models, quality, serving

app = typer.Typer(
    name="tandem",
    help="Two-stage product search: a tuned dual encoder finds, a history-aware cross-encoder orders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train = typer.Typer(help="Train a model on the prepared data.", no_args_is_help=True, rich_markup_mode=None)
live = typer.Typer(help="Change the catalogue of a running server.", no_args_is_help=True, rich_markup_mode=None)
access = typer.Typer(help="Say who may call a server.", no_args_is_help=True, rich_markup_mode=None)

app.command()(data.init)
app.command()(data.prepare)
app.add_typer(train, name="train")
train.command()(models.retriever)
train.command()(models.reranker)
train.command()(models.blend)
app.command()(bundles.build)
app.command()(bundles.publish)
app.command()(bundles.pull)
app.command()(bundles.rollback)
app.command(name="list")(bundles.list_versions)
app.command()(bundles.verify)
app.command()(bundles.diff)
app.command()(bundles.gc)
app.command()(serving.serve)
app.command()(serving.search)
app.command()(health.health)
app.add_typer(live, name="items")
live.command()(items.upsert)
live.command()(items.delete)
app.add_typer(access, name="keys")
access.command()(keys.add)
access.command(name="list")(keys.list_keys)
access.command()(keys.remove)
app.command()(quality.evaluate)
app.command()(quality.run)
app.command()(demo.demo)
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tandem {package_version('tandem-search')}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    level = logging.INFO if verbose or not sys.stderr.isatty() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in (
        "httpx",
        "httpx2",
        "nncf",
        "openvino",
        "sentence_transformers",
        "transformers",
        "datasets",
        "fsspec",
        "faiss",
    ):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        app(args=list(arguments) if arguments is not None else None)
    except TandemError as exc:
        sys.stderr.write(f"error: {exc}\n")
        raise SystemExit(2 if isinstance(exc, ConfigError) else 1) from exc
    except BrokenPipeError:
        # the reader of our output has left, as `| head` does: not a failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as exc:
        if os.environ.get("TANDEM_DEBUG"):
            raise
        sys.stderr.write(f"error: unexpected {type(exc).__name__}: {exc}; TANDEM_DEBUG=1 shows where\n")
        raise SystemExit(1) from exc
