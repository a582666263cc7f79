"""From the published files to a pipeline that is ready for shoppers."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from corpus.errors import ArtefactError, ConfigError, VersionNotFound
from corpus.workspace import Workspace
from indexer.bundle import Bundle, open_bundle
from indexer.publish import current_version
from server.config import ServerConfig, TandemConfig
from server.histories.contract import Histories
from server.inference.model_runtime import ModelRuntime
from server.pipeline import Pipeline
from server.stages.ranking import Run, SearchTask

if TYPE_CHECKING:
    from server.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


def open_current(bundles: Path, config: ServerConfig) -> Bundle:
    """Open the bundle that is to be served.

    Raises:
        VersionNotFound: If none was published.
        ArtefactError: If it does not verify or open.
    """
    version = current_version(bundles)
    if version is None:
        raise VersionNotFound(
            f"expected a published bundle in {bundles}, found none; run `tandem build` and `tandem publish` first"
        )
    return open_bundle(bundles / version, n_threads=config.n_threads)


def pull_current(config: TandemConfig, workspace: Workspace) -> None:
    """Fetch what the bundle store says is current, if there is one; what is here is served if it cannot be had."""
    if config.bundle_store.uri is None:
        return
    from indexer.bundle_store import BundleStore

    try:
        version = BundleStore(config.bundle_store.uri).pull(workspace.bundles)
        logger.info("bundle %s is what the bundle store says is current", version)
    except ArtefactError as exc:
        logger.error("nothing pulled, serving what is here: %s", exc)


def warm(bundle: Bundle, histories: Histories, config: ServerConfig, runtime: ModelRuntime) -> Pipeline:
    """Return a pipeline that has searched once, so that no shopper waits for lazy set-up.

    It searches on this thread, beside the models' owners, who go on with the searches of the bundle before.
    """
    pipeline = Pipeline(bundle, histories, hide_out_of_stock=config.hide_out_of_stock)
    bundle.items.row_of(bundle.items.item(0).item_id)  # makes the look-up, which a search without history never asks
    bundle.suggestions.warm()
    task = SearchTask(
        query=bundle.items.item(0).title, retrieval_depth=config.retrieval_depth, rerank_depth=config.rerank_depth
    )
    pipeline.search(task, Run(deadline=float("inf")))
    return Pipeline(runtime.take(bundle), histories, hide_out_of_stock=config.hide_out_of_stock)


def open_tracing(config: ServerConfig) -> "Tracing | None":
    """Return what sends traces; None where nobody wants any.

    Raises:
        ConfigError: If the libraries for it are not installed.
    """
    if config.otlp_endpoint is None:
        return None
    try:
        from server.telemetry.tracing import Tracing
    except ImportError as exc:
        raise ConfigError(
            f"server.otlp_endpoint needs libraries that are not installed ({exc.name}); "
            "`pip install -c constraints.txt '.[otel]'`, or leave it out"
        ) from exc
    return Tracing(config.otlp_endpoint, share=config.trace_share)
