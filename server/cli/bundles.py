"""``tandem build``, ``publish``, ``rollback`` and ``list``: the life of a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report, report_values

VersionArgument = Annotated[str | None, typer.Argument(help="Such as v3; the newest if none is named.")]


def build(store: StoreArgument = Path(), overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Embed the catalogue, build both indexes, export the models, verify: a new bundle."""
    from indexer.build import build_bundle

    workspace, config = open_store(store, overrides)
    built = build_bundle(workspace, config.retriever, config.reranker, config.build)
    report(
        built,
        as_json=as_json,
        text=f"bundle {built.manifest.version}: {built.manifest.n_items:,} items, {built.n_embedded:,} embedded anew, "
        f"ann_recall@100 {built.manifest.ann_recall:.4f}\nnext: tandem publish {store}",
    )


def publish(store: StoreArgument = Path(), version: VersionArgument = None, as_json: JsonOption = False) -> None:
    """Make a bundle the one that is served."""
    from indexer.publish import publish as publish_bundle

    workspace, _ = open_store(store, None)
    published = publish_bundle(workspace.bundles, version)
    report_values({"version": published}, as_json=as_json, text=f"{published} is current\nnext: tandem serve {store}")


def rollback(store: StoreArgument = Path(), as_json: JsonOption = False) -> None:
    """Serve the bundle that was current before."""
    from indexer.publish import rollback as roll_back

    workspace, _ = open_store(store, None)
    version = roll_back(workspace.bundles)
    report_values({"version": version}, as_json=as_json, text=f"{version} is current again")


def list_versions(store: StoreArgument = Path(), as_json: JsonOption = False) -> None:
    """List the bundles, and which one is current."""
    from indexer.publish import current_version, list_bundles

    workspace, _ = open_store(store, None)
    current = current_version(workspace.bundles)
    manifests = list_bundles(workspace.bundles)
    lines = [
        f"{'*' if m.version == current else ' '} {m.version:<6} {m.created_at:%Y-%m-%d %H:%M}  {m.n_items:>10,} items"
        for m in manifests
    ]
    report_values(
        {"current": current, "bundles": [m.model_dump(mode="json") for m in manifests]},
        as_json=as_json,
        text="\n".join(lines) or "no bundle yet; run `tandem build`",
    )
