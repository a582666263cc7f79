"""What Prometheus reads: how much, how fast, how well. No texts and no ids; every label has few values.

Names follow Prometheus's habits: base units (seconds), ``_total`` for what only grows.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from indexer.manifest import BundleManifest
from server.calls.admission import Admission
from server.calls.observing import FinishedCall
from server.inference.breaker import Breaker, Breakers
from server.inference.model_runtime import ModelRuntime
from server.processes.listening import cannot_listen, split_address
from server.rankings.kept_rankings import KeptRankings
from server.stages.ranking import DegradationReason

# a stage takes tenths of a millisecond or, at worst, the default budget of a call; a call with embedding a minute
STAGE_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CALL_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # texts or pairs; a whole search's are rarely more
DEPTH_BUCKETS = (0, 1, 5, 10, 20, 30, 50, 75, 100, 150, 200)
if TYPE_CHECKING:
    from server.telemetry.joint_metrics import JointMetrics

NO_QUEUES: Mapping[str, Admission] = MappingProxyType({})


class Metrics:
    """The figures of one server, with a registry of their own, so that two servers in a process do not mix theirs."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._calls = Counter("tandem_calls", "Calls by method and gRPC code.", ("rpc", "code"), registry=self.registry)
        self._call_s = Histogram(
            "tandem_call_duration_seconds",
            "From the arrival of a call's message to its answer.",
            ("rpc",),
            buckets=CALL_BUCKETS_S,
            registry=self.registry,
        )
        self._stage_s = Histogram(
            "tandem_stage_duration_seconds",
            "Stages of the work for calls; wait is for a thread.",
            ("rpc", "stage"),
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        # finding a series by its labels takes longer than adding to it, and there are few
        self._calls_of, self._call_s_of = cache(self._calls.labels), cache(self._call_s.labels)
        self._stage_s_of = cache(self._stage_s.labels)
        self._depth = Histogram(
            "tandem_rerank_depth",
            "Candidates that a search wanted the cross-encoder to read.",
            buckets=DEPTH_BUCKETS,
            registry=self.registry,
        )
        self._pairs = Counter(
            "tandem_reranked_pairs",
            "Pairs of query and item that the cross-encoder read, or had read before.",
            registry=self.registry,
        )
        self._degraded = Counter(
            "tandem_degraded_answers", "Answers that lack something, by reason.", ("reason",), registry=self.registry
        )
        self._history_errors = Counter(
            "tandem_history_errors", "Failures of the history store.", ("operation",), registry=self.registry
        )
        self._reloads = Counter(
            "tandem_reloads", "Reloads of the current bundle, by outcome.", ("outcome",), registry=self.registry
        )
        self._live_items = Gauge(
            "tandem_live_items",
            "Items that live updates changed since the served bundle was built.",
            registry=self.registry,
        )
        self._busy = Gauge(
            "tandem_model_busy_seconds",
            "For how long the longest of the present searches, and of the models' runs, has been going on.",
            registry=self.registry,
        )
        self._breakers = Gauge(
            "tandem_breaker_open", "1 while a part that failed is left alone.", ("part",), registry=self.registry
        )
        self._state = _State()
        self.registry.register(self._state)
        # a series that is missing until the first failure makes no rate of it
        for reason in DegradationReason:
            self._degraded.labels(reason.value)
        for operation in ("read", "write"):
            self._history_errors.labels(operation)
        for outcome in ("ok", "failed"):
            self._reloads.labels(outcome)
        for part in fields(Breakers):
            self._breakers.labels(part.name)

    def finished(self, call: FinishedCall) -> None:
        """Count a call and the stages of its work."""
        self._calls_of(call.rpc, call.code.name).inc()
        self._call_s_of(call.rpc).observe(call.duration_s)
        for run in call.runs:
            for stage, duration_ms in run.timings_ms.items():
                self._stage_s_of(call.rpc, stage).observe(duration_ms / 1000)
            for reason in {degradation.reason for degradation in run.degraded}:
                self._degraded.labels(reason.value).inc()
            for operation in run.history_errors:
                self._history_errors.labels(operation).inc()
            if run.rerank_depth is not None:
                self._depth.observe(run.rerank_depth)
                self._pairs.inc(run.n_reranked)

    def reloaded(self, *, ok: bool) -> None:
        """Count a reload."""
        self._reloads.labels("ok" if ok else "failed").inc()

    def watch(
        self,
        *,
        queues: Mapping[str, Admission],
        manifest: Callable[[], BundleManifest],
        n_live: Callable[[], int],
        runtime: ModelRuntime,
        rankings: KeptRankings,
        expires: Callable[[], datetime | None],
    ) -> None:
        """Read what a server knows of itself whenever somebody asks.

        Args:
            queues: Places for calls, by what they are for.
            manifest: Tells which bundle answers new calls.
            n_live: Counts the items that differ from it.
            runtime: The models' owners, and what is kept of what the models said.
            rankings: What is kept of whole searches.
            expires: Tells when the certificate ends; None without one.
        """
        self._state.queues, self._state.manifest, self._state.expires = queues, manifest, expires
        self.registry.register(_Models(runtime, rankings))
        self._live_items.set_function(n_live)
        self._busy.set_function(lambda: runtime.busy_s)

    def watch_breakers(self, breakers: Callable[[], Breakers]) -> None:
        """Read which parts are left alone whenever somebody asks.

        Args:
            breakers: Tells those of the pipeline that answers.
        """

        def is_open(part: str) -> float:
            breaker: Breaker = getattr(breakers(), part)
            return float(breaker.is_open)

        for part in fields(Breakers):
            self._breakers.labels(part.name).set_function(partial(is_open, part.name))


class _State(Collector):
    """What is read from the server when somebody asks."""

    def __init__(self) -> None:
        self.queues = NO_QUEUES
        self.manifest: Callable[[], BundleManifest] | None = None
        self.expires: Callable[[], datetime | None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        inside = GaugeMetricFamily("tandem_queue_calls", "Calls waiting or being answered, by queue.", labels=["queue"])
        limits = GaugeMetricFamily("tandem_queue_limit", "Calls that a queue admits.", labels=["queue"])
        refused = CounterMetricFamily(
            "tandem_queue_refusals", "Calls refused for want of a place or of time.", labels=["queue"]
        )
        for name, queue in self.queues.items():
            inside.add_metric([name], queue.n_inside)
            limits.add_metric([name], queue.limit)
            refused.add_metric([name], queue.n_refused)
        yield from (inside, limits, refused)
        names = ("version", "retriever", "reranker", "blend")
        bundle = GaugeMetricFamily("tandem_bundle_info", "The bundle that answers, and its models.", labels=names)
        n_items = GaugeMetricFamily("tandem_bundle_items", "Items in that bundle as it was built.")
        if self.manifest is not None:
            manifest = self.manifest()
            reranker = manifest.reranker.fingerprint if manifest.reranker else ""
            blend = manifest.blend.fingerprint if manifest.blend else ""
            bundle.add_metric([manifest.version, manifest.retriever.fingerprint, reranker, blend], 1)
            n_items.add_metric([], manifest.n_items)
        ends = GaugeMetricFamily("tandem_certificate_expiry_timestamp_seconds", "When the certificate ends.")
        moment = self.expires()
        if moment is not None:
            ends.add_metric([], moment.timestamp())
        yield from (bundle, n_items, ends)


class _Models(Collector):
    """What the models' owners and the caches know of themselves, read when somebody asks."""

    def __init__(self, runtime: ModelRuntime, rankings: KeptRankings) -> None:
        self._runtime = runtime
        self._rankings = rankings

    def collect(self) -> Iterable[Metric]:
        sizes = HistogramMetricFamily(
            "tandem_model_batch_size", "Texts or pairs that went through a model in one run.", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "tandem_model_waiting", "Searches that wait for a model to have its next run.", labels=["model"]
        )
        dropped = CounterMetricFamily(
            "tandem_model_dropped",
            "What searches asked of a model and was dropped before it cost anything, by reason.",
            labels=["model", "reason"],
        )
        for owner in self._runtime:
            runs = dict(owner.sizes)  # of this moment
            bounds = [(str(float(bound)), bound) for bound in BATCH_BUCKETS] + [("+Inf", math.inf)]
            buckets = [(name, float(sum(n for size, n in runs.items() if size <= bound))) for name, bound in bounds]
            sizes.add_metric([owner.name], buckets, float(sum(size * n for size, n in runs.items())))
            waiting.add_metric([owner.name], owner.n_waiting)
            dropped.add_metric([owner.name, "expired"], owner.n_expired)
            dropped.add_metric([owner.name, "cancelled"], owner.n_cancelled)
        hits = CounterMetricFamily(
            "tandem_cache_hits", "Answers of a model, or whole rankings, that were still known.", labels=["cache"]
        )
        misses = CounterMetricFamily("tandem_cache_misses", "Those that were not.", labels=["cache"])
        size = GaugeMetricFamily("tandem_cache_bytes", "Memory of known answers, about.", labels=["cache"])
        for each in (*self._runtime.caches, self._rankings):
            hits.add_metric([each.name], each.n_hits)
            misses.add_metric([each.name], each.n_misses)
            size.add_metric([each.name], each.size_bytes)
        yield from (sizes, waiting, dropped, hits, misses, size)


class MetricsEndpoint:
    """Answers Prometheus over HTTP, in threads of its own."""

    def __init__(self, http: WSGIServer, thread: threading.Thread, host: str) -> None:
        """Hold what ``listen`` started."""
        self._http = http
        self._thread = thread
        self.address = f"{host}:{http.server_port}"

    @classmethod
    def listen(cls, address: str, metrics: "Metrics | JointMetrics") -> Self:
        """Answer on an address.

        Args:
            address: host:port; port 0 picks a free one.
            metrics: What to tell.
        Raises:
            ConfigError: If the address cannot be listened on.
        """
        host, port = split_address(address, "server.metrics_address")
        try:
            http, thread = start_http_server(port, addr=host.strip("[]"), registry=metrics.registry)
        except OSError as exc:
            raise cannot_listen(address, exc.strerror or str(exc), "server.metrics_address") from exc
        return cls(http, thread, host)

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
