"""The errors that a client of the service raises, read back from its problem JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from memory.errors import (
    ConflictError,
    CorruptionError,
    ForbiddenError,
    ForgottenError,
    InvalidInputError,
    LetheError,
    NotFoundError,
    UnavailableError,
)


class BusyError(UnavailableError):
    """The service said to come again later (429 or 503), and perhaps after how many seconds."""

    def __init__(self, what: str, retry_after_seconds: float | None) -> None:
        super().__init__(what)
        self.retry_after_seconds = retry_after_seconds


def error_of(response: httpx2.Response) -> LetheError:
    """Return the error of a reply that is none of success."""
    try:
        problem = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"{response.request.url} replied {response.status_code}"}
    if response.status_code in {429, 503}:
        detail = str(problem.get("detail", problem.get("title", response.status_code)))
        return BusyError(detail, _retry_after(response))
    return error_from(problem, response.status_code)


def _retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds to wait; the header's other form, a date, is not waited for."""
    said = response.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else None


def error_from(problem: Mapping[str, Any], status: int) -> LetheError:
    """Return the error that a problem was made from."""
    detail = str(problem.get("detail", problem.get("title", status)))
    if status == 404:
        return NotFoundError(str(problem.get("kind", "such thing")), str(problem.get("name", detail)))
    if status == 410:
        return ForgottenError(str(problem.get("name", "it")))
    if status in {400, 405, 413, 415, 422, 431}:
        return _invalid(problem, detail)
    families: dict[int, type[LetheError]] = {
        401: ForbiddenError,
        403: ForbiddenError,
        409: ConflictError,
        429: UnavailableError,
        503: UnavailableError,
    }
    return families.get(status, CorruptionError)(detail)


def _invalid(problem: Mapping[str, Any], detail: str) -> InvalidInputError:
    errors = problem.get("errors")
    if errors:
        return InvalidInputError("; ".join(f"{error['pointer']}: {error['detail']}" for error in errors))
    where = problem.get("where")
    if isinstance(where, str):
        return InvalidInputError(detail.removeprefix(f"{where}: "), where=where)
    return InvalidInputError(detail)
