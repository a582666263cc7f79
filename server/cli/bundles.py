"""``tandem build``, ``publish``, ``rollback`` and ``list``: the life of a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from corpus.errors import ConfigError, GateRefused
from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report, report_values

VersionArgument = Annotated[str | None, typer.Argument(help="Such as v3; the newest if none is named.")]


def build(
    store: StoreArgument = Path(),
    overrides: SetOption = None,
    as_json: JsonOption = False,
    plot: Annotated[Path | None, typer.Option(help="Draw recall over time of the vector index: a PNG.")] = None,
) -> None:
    """Embed the catalogue, build both indexes, export the models, verify: a new bundle."""
    from indexer.build import build_bundle
    from indexer.tuning_curve import check_plot, curve_table, plot_curve

    if plot is not None:
        check_plot(plot)
    workspace, config = open_store(store, overrides)
    built = build_bundle(workspace, config.retriever, config.reranker, config.build)
    report(
        built,
        as_json=as_json,
        text=f"bundle {built.manifest.version}: {built.manifest.n_items:,} items, {built.n_embedded:,} embedded anew, "
        f"ann_recall@100 {built.manifest.ann_recall:.4f}\n{curve_table(built.manifest)}\nnext: tandem publish {store}",
    )
    if plot is not None:
        plot_curve(built.manifest, plot)


def publish(
    store: StoreArgument = Path(),
    version: VersionArgument = None,
    force: Annotated[bool, typer.Option("--force", help="Do not ask the release gate; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why the gate is not asked; kept in publications.jsonl.")] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle the one that is served, if the release gate lets it pass."""
    from indexer.publish import publish as publish_bundle

    if force != bool(reason and reason.strip()):
        raise ConfigError('expected --force and --reason "…" together, got only one of them; name both or neither')
    workspace, config = open_store(store, overrides)
    outcome = None
    if not force:
        from indexer.gate import judge

        outcome = judge(workspace, version, config.gate)
        version = outcome.version
    gate = None if outcome is None else outcome.model_dump(mode="json")
    found = [] if outcome is None else [outcome.text()]
    try:
        published = publish_bundle(workspace.bundles, version, gate=outcome, reason=reason)
    except GateRefused:
        report_values({"version": None, "gate": gate}, as_json=as_json, text="\n".join(found))
        raise
    text = "\n".join([*found, f"{published} is current", f"next: tandem serve {store}"])
    report_values({"version": published, "gate": gate, "reason": reason}, as_json=as_json, text=text)


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
