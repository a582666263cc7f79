"""From the published files to a pipeline that is ready for shoppers."""

from pathlib import Path

from corpus.errors import VersionNotFound
from indexer.bundle import Bundle, open_bundle
from indexer.publish import current_version
from server.config import ServerConfig
from server.histories import Histories
from server.pipeline import Pipeline
from server.ranking import Run, SearchTask


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


def warm(bundle: Bundle, histories: Histories, config: ServerConfig) -> Pipeline:
    """Return a pipeline that has searched once, so that no shopper waits for lazy set-up."""
    pipeline = Pipeline(bundle, histories, hide_out_of_stock=config.hide_out_of_stock)
    bundle.items.row_of(bundle.items.item(0).item_id)  # makes the look-up, which a search without history never asks
    bundle.suggestions.warm()
    task = SearchTask(
        query=bundle.items.item(0).title, retrieval_depth=config.retrieval_depth, rerank_depth=config.rerank_depth
    )
    pipeline.search(task, Run(deadline=float("inf")))
    return pipeline
