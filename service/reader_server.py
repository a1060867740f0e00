"""The way to a server that speaks as OpenAI's (vLLM, SGLang, llama.cpp): which model it serves, and what its
refusals mean.

Its own words are not passed on: they may quote what it was sent, which is content, or the key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf

import httpx2
from pydantic import TypeAdapter, ValidationError

from memory.errors import ForbiddenError, InvalidInputError, LetheError, UnavailableError
from service.connection import BUSY, CONNECT_SECONDS, REPLY_SECONDS, Connection, Found, Server

MODELS_ROUTE = "/v1/models"
WHOLE_SECONDS = 600.0
PAUSE_SECONDS = 2.0

READER_SERVER = Server(
    "reader's server", "LETHE_READER_URL", "http://127.0.0.1:8000", "start it, or mend LETHE_READER_URL"
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server lists; ``context_tokens`` where it says how many it reads and writes at most."""

    id: str
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class _Meta:
    """What llama.cpp tells of a model."""

    n_ctx: int | None = None


@dataclass(frozen=True, slots=True)
class _Listed:
    """One of OpenAI's list; vLLM and SGLang tell ``max_model_len``."""

    id: str
    max_model_len: int | None = None
    meta: _Meta | None = None


@dataclass(frozen=True, slots=True)
class _ModelList:
    data: tuple[_Listed, ...] = field()


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The error's kind in one word, as servers write it: ``code`` (OpenAI), ``type`` (llama.cpp, vLLM)."""

    code: str | int | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class _Refused:
    error: _Refusal


_MODELS: TypeAdapter[_ModelList] = TypeAdapter(_ModelList)
_REFUSED: TypeAdapter[_Refused | _Refusal] = TypeAdapter(_Refused | _Refusal)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_VERSION = re.compile(r"/v1/*$")


class ReaderServer(Connection):
    """Implements ``memory.ports.Engine`` over an OpenAI-compatible server; safe to share between threads."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
        whole_seconds: float = WHOLE_SECONDS,
    ) -> None:
        """``url`` may end in ``/v1`` or not."""
        super().__init__(
            READER_SERVER,
            _VERSION.sub("", url),
            key,
            connect_seconds=connect_seconds,
            reply_seconds=reply_seconds,
            whole_seconds=whole_seconds,
            # llama.cpp's server at times closes a connection right after a stream, without having said so,
            # and the next request on it is lost. A new one costs little beside a reading.
            reuses=False,
        )

    def wait(self, look: Callable[[], Found], timeout_seconds: float = inf) -> Found:
        """Return what ``look`` finds, as soon as the server is up; mistakes in settings raise at once."""
        return self._await(look, timeout_seconds, PAUSE_SECONDS)

    def find_model(self, name: str | None) -> ServedModel:
        """Return the model of this name, or the only one there is; else ``InvalidInputError``."""
        try:
            listed = _MODELS.validate_json(self.ask(MODELS_ROUTE)).data
        except ValidationError as error:
            raise InvalidInputError(
                f"what answers at {self._url} lists no models as OpenAI's servers do",
                where="LETHE_READER_URL",
            ) from error
        found = [one for one in listed if name is None or one.id == name]
        if len(found) != 1:
            ids = ", ".join(sorted(one.id for one in listed)) or "none"
            wanted = "name one of its models" if name is None else f"it has no model {name!r}"
            raise InvalidInputError(f"{self.where}: {wanted}; it has: {ids}", where="LETHE_READER_MODEL")
        one = found[0]
        return ServedModel(one.id, one.max_model_len or (one.meta.n_ctx if one.meta else None))

    def _error_of(self, response: httpx2.Response) -> LetheError:
        """Return the error of a refusal.

        Before the server has served anything, a refused key, model or route is a mistake in the settings;
        afterwards it is a change under way there, and no fault of who asks a question.
        """
        status, why = response.status_code, _reason_of(response)
        if status in BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return UnavailableError(f"{self.where} cannot serve now: it replied {why}")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            said = f"{self.where} does not take the key ({why}); set LETHE_READER_KEY to one that it knows"
            return UnavailableError(said) if self._was_taken else ForbiddenError(said)
        said = f"{self.where} refused the request ({why})"
        if self._was_taken:
            return UnavailableError(said)
        if response.request.url.path.endswith(MODELS_ROUTE):
            return InvalidInputError(
                f"{said}; is it an OpenAI-compatible server's, like {READER_SERVER.example}?",
                where="LETHE_READER_URL",
            )
        return InvalidInputError(f"{said}; does it serve this model for chat?", where="LETHE_READER_MODEL")


def _reason_of(response: httpx2.Response) -> str:
    """Return the status and, where there is one, the word for it."""
    try:
        told = _REFUSED.validate_json(response.content)
    except ValidationError:
        return f"{response.status_code} {response.reason_phrase}".strip()
    refusal = told.error if isinstance(told, _Refused) else told
    words = [word for word in (refusal.code, refusal.type) if isinstance(word, str) and _WORD.fullmatch(word)]
    return " ".join([str(response.status_code), *(words or [response.reason_phrase])[:1]]).strip()
