"""One log line per request: id, route, status, id of the key, time; no bodies, queries, keys, paths with ids.

The middleware is also the edge of the process: what nobody foresaw is logged here without its
message, which may quote content, and answered as a problem.
"""

from __future__ import annotations

import re
import time
import traceback
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from api.fenced import cut_off
from api.problems import internal_problem
from service.tracing import span

REQUEST_ID = "x-request-id"

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_log = structlog.get_logger("lethe.api")


class RequestLog:
    """ASGI middleware: gives each request an id, logs it, and answers what nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and log how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else uuid4().hex
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        log = _log.bind(request_id=request_id, method=scope["method"])
        try:
            # What the use cases log meanwhile carries the request's id, in whatever thread.
            with (
                bound_contextvars(request_id=request_id),
                span(
                    scope["method"],
                    {"http.request.method": scope["method"], "lethe.request_id": request_id},
                    headers=Headers(scope=scope),
                ) as traced,
            ):
                await self._app(scope, receive, send_with_id)
                if traced is not None:
                    path = getattr(scope.get("route"), "path", "")
                    traced.update_name(f"{scope['method']} {path}".strip())
                    traced.set_attributes({"http.route": path, "http.response.status_code": status})
        except Exception as error:  # noqa: BLE001 - the edge of the process
            log.error("request failed", error=type(error).__name__, frames=frames_of(error))
            if status:
                await cut_off(scope)
            else:
                await internal_problem(scope["path"])(scope, receive, send_with_id)
        finally:
            route = scope.get("route")
            log.info(
                "request",
                route=getattr(route, "path", None),
                status=status,
                key=scope.get("state", {}).get("key_id"),
                ms=round((time.perf_counter() - started) * 1000, 1),
            )


def frames_of(error: BaseException) -> list[str]:
    """Return where an error came from, outermost first, without its message or any value."""
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
