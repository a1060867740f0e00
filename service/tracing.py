"""OpenTelemetry traces, for those who ask for them: off, and nothing imported, unless ``set_up`` was called.

Spans carry routes, stages, kinds, ids of jobs and requests; never contents, queries, keys, or the words
of an exception. Nothing here knows what is traced.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from memory.errors import UnavailableError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

Attribute = str | int | float | bool

_tracer: Tracer | None = None


def set_up(endpoint: str, *, version: str) -> None:
    """Send traces to a collector (OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces) from now on.

    ``UnavailableError`` when the optional packages are not installed.
    """
    try:
        # Deferred: the SDK is an extra, which a Lethe without traces does not need.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UnavailableError(
            "LETHE_OTEL_ENDPOINT is set, but OpenTelemetry's SDK is not installed; install lethe[otel], "
            "or unset it"
        ) from error
    resource = Resource.create({"service.name": "lethe", "service.version": version})
    # Lethe's own provider, not the process's: what other packages would tell of is not sent.
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    use(provider.get_tracer("lethe", version))


def use(tracer: Tracer | None) -> None:
    """Trace with this tracer from now on, or no more."""
    global _tracer
    _tracer = tracer


@contextmanager
def span(
    name: str, attributes: Mapping[str, Attribute], *, headers: Mapping[str, str] | None = None
) -> Iterator[Span | None]:
    """Trace the block; a request's headers may say which trace it belongs to."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract

    context = None if headers is None else extract(headers)
    with _tracer.start_as_current_span(
        name,
        context=context,
        attributes=dict(attributes),
        record_exception=False,  # its message may quote content
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            opened.set_attribute("error.type", type(error).__name__)
            raise


def record_stages(use_case: str, timings_ms: Mapping[str, float]) -> None:
    """Trace stages that ran one after the other and have just ended."""
    tracer: Any = _tracer
    if tracer is None:
        return
    at = time.time_ns() - round(sum(timings_ms.values()) * 1e6)
    for stage, milliseconds in timings_ms.items():
        opened = tracer.start_span(f"{use_case} {stage}", start_time=at)
        at += round(milliseconds * 1e6)
        opened.end(end_time=at)
