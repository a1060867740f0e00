"""The HTTP door: the application with all its routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from api import (
    answer,
    documents,
    excerpts,
    forget,
    jobs,
    keys,
    memories,
    nodes,
    openapi,
    operations,
    problems,
    recall,
    stream_events,
    streams,
    tenants,
    watches,
)
from api.limits import Limits, RateFields, make_limits
from api.logs import RequestLog

if TYPE_CHECKING:
    from service.lethe import Lethe

FEATURES = (
    *(documents, memories, streams, stream_events, watches, excerpts, recall, nodes, answer, forget),
    *(jobs, keys, tenants, operations),
)
MAX_BODY_BYTES = 32 * 1024 * 1024
FENCED_THREADS = 64
POLLING_THREADS = 8
WATCHING_THREADS = 4
"""In which streams are looked at for those who listen: apart, so that many of them hold up nothing else."""
MOST_LISTENERS = 64
"""So many listen to streams at once; who comes on top gets 429."""
EXCERPT_THREADS = 4
"""They wait for one process that cuts; all else goes on meanwhile."""
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""Without this FastAPI would tell OpenTelemetry of requests and exceptions, wherever that is set up."""


def create_app(
    lethe: Lethe, *, max_body_bytes: int = MAX_BODY_BYTES, limits: Limits | None = None, readings: int = 0
) -> FastAPI:
    """Return the application over a facade, which it starts and stops with itself.

    ``readings`` may hold a thread each for long; so many are had besides those that all else is served in.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens += readings
        await anyio.to_thread.run_sync(lethe.start)
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(lethe.stop)

    app = FastAPI(
        telemetry=NO_TELEMETRY,
        title="Lethe",
        version=_version(),
        description="Memory for agents: remembers, answers with citations, forgets provably.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.lethe = lethe
    app.state.drain = lethe.drain
    app.state.max_body_bytes = max_body_bytes
    app.state.limits = limits or make_limits()
    app.state.fenced_threads = CapacityLimiter(FENCED_THREADS)
    app.state.polling_threads = CapacityLimiter(POLLING_THREADS)
    app.state.watching_threads = CapacityLimiter(WATCHING_THREADS)
    app.state.listeners = CapacityLimiter(MOST_LISTENERS)
    app.state.excerpt_threads = CapacityLimiter(EXCERPT_THREADS)
    problems.install(app)
    for feature in FEATURES:
        app.include_router(feature.router)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    app.add_middleware(RateFields)
    app.add_middleware(RequestLog)
    return app


def _version() -> str:
    try:
        return version("lethe")
    except PackageNotFoundError:
        return "0"
