"""The dashboard asks for what a server tells, by the labels that it tells it with."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.calls.admission import Admission
from server.calls.observing import FinishedCall
from server.config import ServerConfig
from server.inference.model_runtime import ModelRuntime
from server.rankings.kept_rankings import KeptRankings
from server.stages.ranking import Run
from server.telemetry.joint_metrics import JointMetrics
from server.telemetry.metrics import Metrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "tandem.json"
PANELS = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
AGGREGATIONS = {"sum", "max", "min", "by", "le", "ignoring", "group_left"}
FUNCTIONS = AGGREGATIONS | {"rate", "increase", "histogram_quantile", "time"}
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SCRAPED = {"instance"}  # labels that Prometheus adds
NOT_SHOWN = {
    "process_virtual_memory_bytes": "mapped files make it large, and it costs nothing",
    "process_start_time_seconds": "the log tells of every start",
}


@pytest.fixture(scope="module")
def known(bundle) -> dict[str, set[str]]:
    """Names of samples with their labels, of one process after one search and of what joins several."""
    import grpc

    metrics = Metrics()
    runtime = ModelRuntime(ServerConfig())
    runtime.close()
    metrics.watch(
        queues={"search": Admission(1)},
        manifest=lambda: bundle.manifest,
        n_live=lambda: 0,
        runtime=runtime,
        rankings=KeptRankings(page_ttl_s=60.0, repeat_ttl_s=60.0, max_bytes=1 << 20),
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
    for family in (*metrics.registry.collect(), *JointMetrics(1).registry.collect()):
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


def test_every_family_is_shown_or_left_out_for_a_reason(known):
    asked = set(re.findall(r"[a-z_]+", " ".join(query for _, query in QUERIES)))
    families: dict[str, set[str]] = {}  # a family → the samples that it is shown by
    for name in known:
        family = re.sub(r"_(bucket|sum|count|created|total)$", "", name)
        families.setdefault(family, set()).add(name)
    hidden = {family for family, samples in families.items() if not samples & asked}
    assert hidden == set(NOT_SHOWN)
