"""The dashboard asks for what a server tells, by the labels that it tells it with."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.admission import Admission
from server.config import ServerConfig
from server.metrics import Metrics
from server.observing import FinishedCall
from server.ranking import Run
from server.searching import Searching

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "tandem.json"
PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
AGGREGATIONS = {"sum", "max", "min", "by", "le", "ignoring", "group_left"}
FUNCTIONS = AGGREGATIONS | {"rate", "increase", "histogram_quantile", "time"}
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SCRAPED = {"instance"}  # labels that Prometheus adds


@pytest.fixture(scope="module")
def known(bundle) -> dict[str, set[str]]:
    """Names of samples with their labels, after one search."""
    import grpc

    metrics = Metrics()
    searching = Searching(ServerConfig())
    searching.close()
    metrics.watch(
        queues={"search": Admission(1)},
        manifest=lambda: bundle.manifest,
        n_live=lambda: 0,
        searching=searching,
        expires=lambda: NOW,
    )
    run = Run(deadline=0.0, rerank_depth=1)
    with run.stage("retrieve"):
        pass
    call = FinishedCall(
        rpc="SearchService.Search", code=grpc.StatusCode.OK, started_ns=0, duration_s=1.0, runs=[run], metadata=()
    )
    metrics.finished(call)
    labels: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[f"{title}-{n}" for n, (title, _) in enumerate(QUERIES)])
def test_every_query_names_metrics_and_labels_that_exist(known, title, query):
    bare = re.sub(r'"[^"]*"|\[\w+\]', "", query)
    words = set(re.findall(r"[a-z_][a-z_0-9]*", bare)) - FUNCTIONS
    metrics = {word for word in words if word in known}
    assert metrics
    labels = set().union(*(known[name] for name in metrics)) | SCRAPED
    assert words - metrics <= labels


def test_every_family_of_ours_is_shown(known):
    asked = " ".join(query for _, query in QUERIES)
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in known if name.startswith("tandem_")}
    assert [name for name in sorted(families) if name.removesuffix("_total") not in asked] == []
