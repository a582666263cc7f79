"""A bundle's life: ``tandem build``, ``publish``, ``pull``, ``rollback``, ``list``, ``verify``, ``diff``, ``gc``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corpus.errors import ConfigError, GateRefused
from corpus.workspace import Workspace
from server.cli.options import JsonOption, SetOption, StoreArgument, open_store, report, report_values

if TYPE_CHECKING:
    from server.config import TandemConfig

VersionArgument = Annotated[str | None, typer.Argument(help="Such as v3; the newest if none is named.")]


def build(
    store: StoreArgument = Path(),
    overrides: SetOption = None,
    as_json: JsonOption = False,
    reranker: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Such as v3, also a student; by default the newest that is none."),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="Embed on a Ray cluster, or on local Ray workers.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw recall over time of the vector index: a PNG.")] = None,
) -> None:
    """Embed the catalogue, build both indexes, export the models, verify: a new bundle."""
    from indexer.build import build_bundle
    from indexer.tuning_curve import check_plot, curve_table, plot_curve

    if plot is not None:
        check_plot(plot)
    workspace, config = open_store(store, overrides)
    built = build_bundle(workspace, config.retriever, config.reranker, config.build, reranker_version=reranker, ray=ray)
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
    _push(workspace, config, published)
    text = "\n".join([*found, f"{published} is current", f"next: tandem serve {store}"])
    report_values({"version": published, "gate": gate, "reason": reason}, as_json=as_json, text=text)


def rollback(store: StoreArgument = Path(), as_json: JsonOption = False) -> None:
    """Serve the bundle that was current before."""
    from indexer.publish import rollback as roll_back

    workspace, config = open_store(store, None)
    version = roll_back(workspace.bundles)
    _push(workspace, config, version)
    report_values({"version": version}, as_json=as_json, text=f"{version} is current again")


def pull(store: StoreArgument = Path(), overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Fetch the bundle that the bundle store says is current, verify it, and make it current here."""
    from indexer.bundle_store import BundleStore

    workspace, config = open_store(store, overrides)
    if config.bundle_store.uri is None:
        raise ConfigError('expected bundle_store.uri, such as "s3://bucket/shop", got none; set it in tandem.toml')
    version = BundleStore(config.bundle_store.uri).pull(workspace.bundles)
    report_values({"version": version}, as_json=as_json, text=f"{version} is current")


def list_versions(store: StoreArgument = Path(), as_json: JsonOption = False) -> None:
    """List the bundles, oldest first; a star marks the current one."""
    from indexer.publish import current_version, list_bundles

    workspace, _ = open_store(store, None)
    current = current_version(workspace.bundles)
    manifests = list_bundles(workspace.bundles)
    lines = [
        f"{'*' if m.version == current else ' '} {m.version:<6} {m.created_at:%Y-%m-%d %H:%M}  {m.n_items:>10,} items"
        f"  {_size(m.size_bytes):>9}  ann_recall@100 {m.ann_recall:.4f}  parent {m.parent or 'none'}"
        for m in manifests
    ]
    report_values(
        {
            "current": current,
            "bundles": [{**m.model_dump(mode="json"), "size_bytes": m.size_bytes} for m in manifests],
        },
        as_json=as_json,
        text="\n".join(lines) or "no bundle yet; run `tandem build`",
    )


def verify(
    store: StoreArgument = Path(),
    version: Annotated[str | None, typer.Argument(help="Such as v3; the current one if none is named.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every version's folder, finished or not.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every byte of a bundle, and name every bad file."""
    from indexer.verify import find_faults

    workspace, _ = open_store(store, None)
    faults = {folder.name: find_faults(folder) for folder in _folders(workspace, version, every=every)}
    lines = [
        line
        for name, found in faults.items()
        for line in (
            [f"{name}: {len(found)} bad file(s)", *(f"  {fault}" for fault in found)] if found else [f"{name}: whole"]
        )
    ]
    documents: dict[str, object] = {name: {"ok": not found, "faults": found} for name, found in faults.items()}
    report_values(documents, as_json=as_json, text="\n".join(lines) or "no bundle yet; run `tandem build`")
    if any(faults.values()):
        raise typer.Exit(1)


def diff(
    store: Annotated[Path, typer.Argument(help="The store's folder, which holds tandem.toml.")],
    before: Annotated[str, typer.Argument(help="A version, such as v3.")],
    after: Annotated[str, typer.Argument(help="The version to compare it with.")],
    n_queries: Annotated[int, typer.Option("--queries", min=0, help="Searches that both answer.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Compare two bundles: items, settings and models, answers."""
    from indexer.diff import diff_bundles

    workspace, _ = open_store(store, None)
    found = diff_bundles(workspace, before, after, n_queries=n_queries)
    report(found, as_json=as_json, text=found.text())


def gc(
    keep: Annotated[int, typer.Option(min=1, help="The newest so many bundles stay.")],
    store: StoreArgument = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old bundles and what killed processes left; never the current one or a rollback's target."""
    from indexer.retention import remove_unused

    workspace, _ = open_store(store, None)
    done = remove_unused(workspace, keep, dry_run=dry_run)
    lines = [
        *(f"{each.kind} {each.path}: {_size(each.size_bytes)}" for each in done.removed),
        *(f"note: {note}" for note in done.notes),
        f"{'would free' if dry_run else 'freed'} {done.freed_bytes:,} bytes; kept: {', '.join(done.kept) or 'none'}",
    ]
    report(done, as_json=as_json, text="\n".join(lines))


def _push(workspace: Workspace, config: TandemConfig, version: str) -> None:
    if config.bundle_store.uri is not None:
        from indexer.bundle_store import BundleStore

        BundleStore(config.bundle_store.uri).push(workspace.bundles, version)


def _folders(workspace: Workspace, version: str | None, *, every: bool) -> list[Path]:
    from corpus.workspace import VERSION, find_version
    from indexer.manifest import MANIFEST_FILE
    from indexer.publish import current_version

    if every:
        if version is not None:
            raise ConfigError(f"expected a version or --all, got both ({version}); name one of them")
        found = workspace.bundles.iterdir() if workspace.bundles.is_dir() else ()
        # without a manifest as well: a version's name is given only to what was finished
        return sorted((p for p in found if VERSION.fullmatch(p.name)), key=lambda path: int(path.name[1:]))
    chosen = version if version is not None else current_version(workspace.bundles)
    if chosen is not None and VERSION.fullmatch(chosen) and (workspace.bundles / chosen).is_dir():
        return [workspace.bundles / chosen]
    return [find_version(workspace.bundles, chosen, marker=MANIFEST_FILE)]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
