"""HTTP to a server that holds models: one pool of connections, bounded times, errors of our own families.

What is asked and replied is the organs' matter (``embedding.remote``, ``reader.remote``, ``reader.openai``).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
import structlog

from memory.errors import InvalidInputError, LetheError, UnavailableError

CONNECT_SECONDS = 5.0
REPLY_SECONDS = 120.0
"""Between two pieces of a reply, at most: a busy CPU encodes some thousands of passages in that time."""

IDLE_SECONDS = 2.0
"""Shorter than servers keep a connection, so that none is used just when the other end closes it."""

MOST_LINE_BYTES = 16 << 20
"""No line of a reply is longer; one that does not end would fill the memory."""

BUSY = frozenset({429, 502, 503, 504})

Found = TypeVar("Found")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """How errors speak of the other end: what it is, the setting of its URL, a good one, how to start it."""

    what: str
    setting: str
    example: str
    start: str


class Connection:
    """Implements ``memory.ports.Engine``; safe to share between threads. Subclasses word what is refused.

    No proxy of the environment is used, since what is sent is content; for ``https`` the certificates of the
    system and of ``SSL_CERT_FILE`` count. Redirects are not followed.
    """

    def __init__(
        self,
        server: Server,
        url: str,
        key: str | None = None,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
        whole_seconds: float | None = None,
        reuses: bool = True,
    ) -> None:
        """``reply_seconds`` bounds each wait for a piece of a reply, ``whole_seconds`` a streamed reply.

        ``reuses``: whether a connection serves several requests.
        """
        self._server = server
        self._url = url.rstrip("/")
        self._whole_seconds = whole_seconds
        self._was_taken = False
        _check_url(server, self._url)
        self._http = httpx2.Client(
            base_url=self._url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(reply_seconds, connect=connect_seconds),
            limits=httpx2.Limits(
                keepalive_expiry=IDLE_SECONDS, max_keepalive_connections=None if reuses else 0
            ),
            verify=ssl.create_default_context(),
            trust_env=False,
        )

    @property
    def where(self) -> str:
        """What it is and its URL, for people."""
        return f"the {self._server.what} at {self._url}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, route: str, body: bytes | None = None) -> bytes:
        """Return the JSON that is replied; see ``_error_of`` for what may be refused."""
        with self._reaching(), self._open(route, body) as response:
            return response.read()

    def iter_lines(self, route: str, body: bytes) -> Generator[bytes, None, None]:
        """Yield the lines of a reply as they come, without their ends; closing this ends the request."""
        began = time.monotonic()
        with self._reaching(), self._open(route, body) as response:
            rest = b""
            for piece in response.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
                if self._whole_seconds is not None and time.monotonic() - began > self._whole_seconds:
                    raise UnavailableError(f"{self.where} did not end its reply in time")
                if len(rest) > MOST_LINE_BYTES:
                    raise UnavailableError(f"{self.where} replies with a line that does not end")
            if rest:
                yield rest

    def _await(self, look: Callable[[], Found], timeout_seconds: float, pause_seconds: float) -> Found:
        """Return what ``look`` finds, as soon as the server can be reached; its other errors are raised."""
        deadline = time.monotonic() + timeout_seconds
        told = False
        while True:
            try:
                return look()
            except UnavailableError as error:
                if time.monotonic() >= deadline:
                    raise UnavailableError(f"{error} (waited {timeout_seconds:g} s)") from error
                if not told:
                    log.info(f"waiting for the {self._server.what}", url=self._url, reason=str(error))
                    told = True
            time.sleep(pause_seconds)

    @contextmanager
    def _open(self, route: str, body: bytes | None) -> Iterator[httpx2.Response]:
        method, headers = ("GET", {}) if body is None else ("POST", {"content-type": "application/json"})
        with self._http.stream(method, route, content=body, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise self._error_of(response)
            # Lists may be open to all: only who may send something has the right key.
            self._was_taken = self._was_taken or body is not None
            yield response

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn failures to reach the server into ``UnavailableError``."""
        try:
            yield
        except httpx2.ConnectError as error:
            raise UnavailableError(
                f"no {self._server.what} answers at {self._url} ({error}); {self._server.start}"
            ) from error
        except httpx2.TimeoutException as error:
            raise UnavailableError(f"{self.where} did not reply in time") from error
        except httpx2.RequestError as error:
            raise UnavailableError(
                f"the connection to {self.where} broke: {error or type(error).__name__}"
            ) from error

    def _error_of(self, response: httpx2.Response) -> LetheError:
        """Return the error of a refusal, whose body has been read."""
        raise NotImplementedError


def _check_url(server: Server, url: str) -> None:
    """Raise ``InvalidInputError`` for what cannot be asked; a URL that holds a password is not repeated."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and httpx2.URL(url).is_absolute_url
    except (ValueError, httpx2.InvalidURL):
        raise InvalidInputError(f"this is not like {server.example}", where=server.setting) from None
    if "@" in url or parts.query or parts.fragment:
        raise InvalidInputError(
            f"it should hold no password and no parameters, only what {server.example} does",
            where=server.setting,
        )
    if not good:
        raise InvalidInputError(f"{url!r} is not like {server.example}", where=server.setting)
