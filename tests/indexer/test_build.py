import numpy as np

from indexer.bundle import open_bundle
from indexer.verify import verify_bundle


def test_a_built_bundle_opens_and_answers(built_workspace):
    workspace, report = built_workspace
    bundle = open_bundle(workspace.bundles / "v1")
    assert bundle.manifest == report.manifest
    query = "red acme running shoe"
    candidates = bundle.retriever.retrieve(query, 10)
    assert len(candidates) == 10
    reranked = bundle.reranker.rerank(query, (), candidates)
    assert reranked.n_scored == 10
    assert reranked.degraded is None
    assert np.isfinite(reranked.scores).all()
    verify_bundle(workspace.bundles / "v1")
