"""The way to an engine: HTTP with one pool of connections, bounded times, and errors of our own families.

What is asked and replied is the organs' matter (``embedding.remote``, ``reader.remote``).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx2
import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from memory.errors import ForbiddenError, InvalidInputError, LetheError, UnavailableError
from memory.values import Space

MODELS_ROUTE = "/v1/models"
CONNECT_SECONDS = 5.0
REPLY_SECONDS = 120.0
"""Between two pieces of a reply, at most: a busy CPU encodes some thousands of passages in that time."""

IDLE_SECONDS = 2.0
"""Shorter than servers keep a connection, so that none is used just when the other end closes it."""

WAIT_SECONDS = 60.0
PAUSE_SECONDS = 0.2
BUSY = frozenset({429, 502, 503, 504})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """What an engine says it holds: its encoder's space, and the reader that reads now."""

    space: Space
    reader: str


@dataclass(frozen=True, slots=True)
class _Told:
    """What one model says of itself beside what OpenAI's list has."""

    space: Space | None = None
    reader: str | None = None


@dataclass(frozen=True, slots=True)
class _Model:
    lethe: _Told


@dataclass(frozen=True, slots=True)
class _ModelList:
    data: tuple[_Model, ...]


_MODELS: TypeAdapter[_ModelList] = TypeAdapter(_ModelList)


class EngineConnection:
    """Implements ``memory.ports.Engine``; safe to share between threads.

    No proxy of the environment is used, since what is sent is content; for ``https`` the certificates of the
    system and of ``SSL_CERT_FILE`` count.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        self._url = url.rstrip("/")
        self._was_reached = False
        parts = urlsplit(self._url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidInputError(f"{url!r} is not like http://127.0.0.1:8710", where="LETHE_ENGINE_URL")
        self._http = httpx2.Client(
            base_url=self._url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(reply_seconds, connect=connect_seconds),
            limits=httpx2.Limits(keepalive_expiry=IDLE_SECONDS),
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def wait(self, timeout_seconds: float = WAIT_SECONDS) -> Models:
        """Return what the engine holds, as soon as it is up.

        Raises ``UnavailableError`` when it is not by then, ``ForbiddenError`` when it does not take the key,
        ``InvalidInputError`` when what answers is no engine.
        """
        deadline = time.monotonic() + timeout_seconds
        told = False
        while True:
            try:
                models = self._models()
                break
            except UnavailableError as error:
                if time.monotonic() >= deadline:
                    raise UnavailableError(f"{error} (waited {timeout_seconds:g} s)") from error
            if not told:
                log.info("waiting for the engine", url=self._url)
                told = True
            time.sleep(PAUSE_SECONDS)
        self._was_reached = True
        return models

    def _models(self) -> Models:
        reply = self.ask(MODELS_ROUTE)
        try:
            told = [model.lethe for model in _MODELS.validate_json(reply).data]
        except ValidationError:
            told = []
        space = next((one.space for one in told if one.space is not None), None)
        reader = next((one.reader for one in told if one.reader is not None), None)
        if space is None or reader is None:
            raise InvalidInputError(
                f"what answers at {self._url} is no engine of Lethe; start one with: lethe engine",
                where="LETHE_ENGINE_URL",
            )
        return Models(space, reader)

    def ask(self, route: str, body: bytes | None = None) -> bytes:
        """Return the JSON that the engine replies; see ``_error_of`` for what it may refuse."""
        with self._reaching(), self._open(route, body) as response:
            return response.read()

    def iter_lines(self, route: str, body: bytes) -> Generator[bytes, None, None]:
        """Yield the lines of a reply as they come, without their ends; closing this ends the request."""
        with self._reaching(), self._open(route, body) as response:
            rest = b""
            for piece in response.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
            if rest:
                yield rest

    @contextmanager
    def _open(self, route: str, body: bytes | None) -> Iterator[httpx2.Response]:
        method, headers = ("GET", {}) if body is None else ("POST", {"content-type": "application/json"})
        with self._http.stream(method, route, content=body, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise self._error_of(response)
            yield response

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn failures to reach the engine into ``UnavailableError``."""
        try:
            yield
        except httpx2.ConnectError as error:
            raise UnavailableError(
                f"no engine answers at {self._url} ({error}); start it with: lethe engine"
            ) from error
        except httpx2.TimeoutException as error:
            raise UnavailableError(f"the engine at {self._url} did not reply in time") from error
        except httpx2.TransportError as error:
            raise UnavailableError(f"the connection to the engine at {self._url} broke: {error}") from error

    def _error_of(self, response: httpx2.Response) -> LetheError:
        """Return the error of a refusal.

        A key that is refused once the engine had taken it is a change under way, and tried again; what the
        engine finds wrong with the input stays the input's; what failed inside it is told in its log.
        """
        status, detail = response.status_code, _detail_of(response)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            family = UnavailableError if self._was_reached else ForbiddenError
            return family(
                f"the engine at {self._url} does not take the key: {detail}. "
                "LETHE_ENGINE_KEY_FILE must name the same key there and here"
            )
        if status in BUSY:
            return UnavailableError(f"the engine at {self._url} cannot serve now: {detail}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return LetheError(f"the engine at {self._url} failed inside: {detail}")
        return InvalidInputError(f"the engine at {self._url} refused the request ({status}): {detail}")


def _detail_of(response: httpx2.Response) -> str:
    try:
        problem = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
        return str(problem["detail"])
    return f"it replied {response.status_code} {response.reason_phrase}"
