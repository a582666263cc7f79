"""Traces by OpenTelemetry: a span for each call, beneath the caller's own, and one for each stage: names and times.

Imported only where ``server.otlp_endpoint`` is set: the libraries are those of the ``otel`` extra.
"""

from importlib.metadata import version

import grpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.calls.observing import FinishedCall

EXPORT_TIMEOUT_S = 5.0  # of one attempt, and so of how much longer a stop takes without a collector
HEADERS = frozenset({"traceparent", "tracestate"})
# what is the server's fault; the others are the caller's
FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class Tracing:
    """Sends spans of finished calls to a collector, from a thread of its own and a bounded queue."""

    def __init__(self, endpoint: str, *, share: float) -> None:
        """Begin.

        Args:
            endpoint: URL that takes OTLP by HTTP, such as ``http://127.0.0.1:4318/v1/traces``.
            share: Of the calls whose callers do not say whether to trace, how many are traced.
        """
        resource = Resource.create({"service.name": "tandem", "service.version": version("tandem-search")})
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S))
        )
        self._tracer = self._provider.get_tracer("tandem")
        self._propagator = TraceContextTextMapPropagator()

    def finished(self, call: FinishedCall) -> None:
        """Make the spans of a call, with the times that it had."""
        carrier = {name: value for name, value in call.metadata() or () if name in HEADERS and isinstance(value, str)}
        service, _, method = call.rpc.partition(".")
        span = self._tracer.start_span(
            call.rpc,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            start_time=call.started_ns,
        )
        if not span.is_recording():
            return
        span.set_attribute("rpc.grpc.status_code", call.code.value[0])
        if call.code in FAULTS:
            span.set_status(Status(StatusCode.ERROR, call.code.name))
        parent = set_span_in_context(span)
        for run in call.runs:
            for stage, begun_ns in run.begun_ns.items():
                child = self._tracer.start_span(stage, context=parent, start_time=begun_ns)
                child.end(begun_ns + round(run.timings_ms[stage] * 1e6))
            if run.degraded:
                span.set_attribute("tandem.degraded", sorted({each.reason.value for each in run.degraded}))
        span.end(call.started_ns + round(call.duration_s * 1e9))

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()
