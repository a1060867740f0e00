"""Every error as problem JSON (RFC 9457): the one table from error families to HTTP statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from memory.errors import (
    BusyError,
    ConflictError,
    CorruptionError,
    ForbiddenError,
    ForgottenError,
    InvalidInputError,
    LeftError,
    LetheError,
    NotFoundError,
    UnavailableError,
    UnsupportedMediaError,
)

PROBLEM_MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
MAX_ERRORS_SHOWN = 20

_log = structlog.get_logger("lethe.api")


class UnauthenticatedError(ForbiddenError):
    """The request carries no key, or one that nobody knows."""


class MalformedBodyError(InvalidInputError):
    """The body is not what its content type says."""


class BodyTooLargeError(InvalidInputError):
    """The body is larger than the service takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class TooManyRequestsError(BusyError):
    """A rate limit is used up for now."""


class InvalidFieldsError(InvalidInputError):
    """Fields of the body break their rules; ``fields`` are pairs of JSON pointer and reason."""

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        pointer, reason = fields[0]
        super().__init__(reason, where=pointer or "the body")
        self.fields = tuple(fields)


class Family(NamedTuple):
    """One row of the table."""

    error: type[LetheError]
    status: int
    slug: str
    title: str


FAMILIES = (
    Family(MalformedBodyError, 400, "malformed-body", "The body cannot be parsed"),
    Family(BodyTooLargeError, 413, "body-too-large", "The body is too large"),
    Family(UnsupportedMediaError, 415, "unsupported-media", "This media type cannot be read"),
    Family(InvalidInputError, 422, "invalid-input", "The input cannot be used"),
    Family(UnauthenticatedError, 401, "unauthenticated", "A valid key is needed"),
    Family(ForbiddenError, 403, "forbidden", "The key lacks the role for this"),
    Family(NotFoundError, 404, "not-found", "There is no such thing"),
    Family(ForgottenError, 410, "forgotten", "It was forgotten"),
    Family(ConflictError, 409, "conflict", "The request contradicts what is there"),
    Family(TooManyRequestsError, 429, "too-many-requests", "Asked too often"),
    Family(BusyError, 429, "busy", "More is asked than can be done"),
    Family(UnavailableError, 503, "unavailable", "Something needed cannot be reached now"),
    Family(LeftError, 499, "left", "Whoever asked has gone"),
    Family(CorruptionError, 500, "corruption", "Stored data is damaged"),
    Family(LetheError, 500, "internal", "Something went wrong inside"),
)
"""Most specific first; the first row whose error matches is taken."""

NOT_FOUND = next(family for family in FAMILIES if family.error is NotFoundError)


def family_of(error: LetheError) -> Family:
    """Return the first row of the table that the error belongs to."""
    return next(family for family in FAMILIES if isinstance(error, family.error))


def problem_type(slug: str) -> str:
    """Return the URI that names a kind of problem."""
    return f"urn:lethe:problem:{slug}"


def problem_body(
    status: int, slug: str, title: str, detail: str, *, instance: str, **extensions: object
) -> dict[str, Any]:
    """Return the members of one problem, standard ones first."""
    return {
        "type": problem_type(slug),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": instance,
        **extensions,
    }


def problem_of(error: LetheError, *, instance: str, sees_forgotten: bool = False) -> dict[str, Any]:
    """Return the problem for an error.

    What was forgotten looks as if it had never been, except to those who may forget.
    """
    if isinstance(error, ForgottenError) and not sees_forgotten:
        error = NotFoundError("entry", error.name)
    family = family_of(error)
    detail = str(error) if family.status != 500 else "the request failed inside the service; see its log"
    extensions: dict[str, object] = {}
    if isinstance(error, NotFoundError):
        extensions = {"kind": error.kind, "name": error.name}
    elif isinstance(error, ForgottenError):
        extensions = {"name": error.name}
    elif isinstance(error, InvalidFieldsError):
        shown = error.fields[:MAX_ERRORS_SHOWN]
        extensions = {"errors": [{"pointer": pointer, "detail": reason} for pointer, reason in shown]}
    elif isinstance(error, InvalidInputError) and error.where is not None:
        extensions = {"where": error.where}
    return problem_body(family.status, family.slug, family.title, detail, instance=instance, **extensions)


def invalid_fields(error: ValidationError | RequestValidationError) -> InvalidFieldsError:
    """Turn pydantic's findings into pointers and reasons, without repeating what was sent."""
    return InvalidFieldsError(
        [
            (
                "".join(f"/{_pointer_part(part)}" for part in found["loc"]),
                str(found["msg"]).removeprefix("Value error, "),
            )
            for found in error.errors()
        ]
    )


def _pointer_part(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def problem_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Render a problem, with the headers its status calls for."""
    status = int(body["status"])
    extra = {"cache-control": "no-store", **(headers or {})}
    if status == HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = 'Bearer realm="lethe"'
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["retry-after"] = str(RETRY_AFTER_SECONDS)
    elif status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        extra["connection"] = "close"
    return Response(
        orjson.dumps(body, default=str), status_code=status, headers=extra, media_type=PROBLEM_MEDIA_TYPE
    )


def instance_of(request: Request) -> str:
    """Return the request's path; never its query, which may hold what a user said."""
    return quote(request.scope["path"])


async def lethe_error(request: Request, error: Exception) -> Response:
    """Answer an error raised on purpose."""
    assert isinstance(error, LetheError)
    body = problem_of(
        error,
        instance=instance_of(request),
        sees_forgotten=getattr(request.state, "sees_forgotten", False),
    )
    if body["status"] == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("corruption" if isinstance(error, CorruptionError) else "failed", error=str(error))
    if isinstance(error, BusyError):
        return problem_response(body, {"retry-after": str(error.retry_after_seconds)})
    return problem_response(body)


async def validation_error(request: Request, error: Exception) -> Response:
    """Answer a path or query parameter that breaks its rules."""
    assert isinstance(error, RequestValidationError)
    return problem_response(problem_of(invalid_fields(error), instance=instance_of(request)))


async def http_error(request: Request, error: Exception) -> Response:
    """Answer what the router itself refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    instance = instance_of(request)
    if status == HTTPStatus.NOT_FOUND:
        body = problem_of(NotFoundError("route", instance), instance=instance)
    else:
        slug = status.phrase.lower().replace(" ", "-")
        body = problem_body(status.value, slug, status.phrase, status.description, instance=instance)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods_of(request))
    return problem_response(body, headers)


def _methods_of(request: Request) -> list[str]:
    """Return all methods of the path; the router itself knows only those of one of its routes."""
    template = getattr(request.scope.get("route"), "path", "")
    return sorted(method.upper() for method in request.app.openapi()["paths"].get(template, ()))


def internal_problem(path: str) -> Response:
    """Answer a fault nobody foresaw; says nothing about it."""
    family = FAMILIES[-1]
    detail = "the request failed inside the service; see its log"
    return problem_response(
        problem_body(family.status, family.slug, family.title, detail, instance=quote(path))
    )


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.add_exception_handler(LetheError, lethe_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
