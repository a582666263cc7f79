"""``tandem evaluate`` and ``tandem run``: the evidence, and the whole chain in one command."""

from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import TooLittleData
from server.cli.bundles import build, publish
from server.cli.data import prepare
from server.cli.models import blend, has_first_stage, has_second_stage, reranker, retriever
from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report


def evaluate(
    store: StoreArgument = Path(),
    version: Annotated[str | None, typer.Option(help="Bundle version; the current one if none is named.")] = None,
    split: Annotated[
        str, typer.Option(help="train, valid or test. Choose settings on valid, report on test.")
    ] = "test",
    limit: Annotated[int | None, typer.Option(help="Evaluate a seeded sample of so many queries.")] = None,
    depth: Annotated[
        int | None, typer.Option(help="Candidates that the cross-encoder reads; the server's number by default.")
    ] = None,
    relevant_grade: Annotated[float | None, typer.Option(help="Least grade that counts; default: any above 0.")] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a bundle beside its floors: random, popularity, BM25 and the untuned encoder."""
    from indexer.evaluate import evaluate_bundle

    workspace, config = open_store(store, overrides)
    measured = evaluate_bundle(
        workspace,
        config.retriever,
        version=version,
        split=split,
        limit=limit,
        rerank_depth=config.server.rerank_depth if depth is None else depth,
        relevant_grade=relevant_grade,
    )
    report(measured, as_json=as_json, text=measured.table())


def run(
    store: StoreArgument = Path(),
    overrides: SetOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train all models anew, whatever there is.")] = False,
) -> None:
    """Prepare, train, build and publish: from the store's files to a bundle in service.

    After a kill, call it again: models that were trained on the same data with the same settings are kept.
    """
    prepare(store, overrides)
    workspace, config = open_store(store, overrides)
    if not fresh and has_first_stage(workspace, config):
        typer.echo("retriever: kept, for it was trained on these data with these settings")
    else:
        retriever(store, overrides, fresh)
    if not fresh and has_second_stage(workspace, config):
        typer.echo("reranker: kept, for it was trained on these data with these settings")
    else:
        reranker(store, overrides, fresh)
    try:
        blend(store, overrides, fresh)
    except TooLittleData as exc:
        typer.echo(f"without a blend: {exc}")
    build(store, overrides)
    publish(store, overrides=overrides)
