"""The way to an engine: the connection, what the engine holds, and what its refusals mean."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import httpx2
import orjson
from pydantic import TypeAdapter, ValidationError

from memory.errors import BusyError, ForbiddenError, InvalidInputError, LetheError, UnavailableError
from memory.values import Space
from service.connection import BUSY, CONNECT_SECONDS, REPLY_SECONDS, Connection, Server

MODELS_ROUTE = "/v1/models"
WAIT_SECONDS = 60.0
PAUSE_SECONDS = 0.2

ENGINE = Server("engine", "LETHE_ENGINE_URL", "http://127.0.0.1:8710", "start it with: lethe engine")


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


class EngineConnection(Connection):
    """Implements ``memory.ports.Engine`` over an engine of Lethe; safe to share between threads."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        super().__init__(ENGINE, url, key, connect_seconds=connect_seconds, reply_seconds=reply_seconds)

    def wait(self, timeout_seconds: float = WAIT_SECONDS) -> Models:
        """Return what the engine holds, as soon as it is up.

        Raises ``UnavailableError`` when it is not by then, ``ForbiddenError`` when it does not take the key,
        ``InvalidInputError`` when what answers is no engine.
        """
        return self._await(self._models, timeout_seconds, PAUSE_SECONDS)

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
                where=ENGINE.setting,
            )
        self._was_taken = True  # the engine asks for its key here, too
        return Models(space, reader)

    def _error_of(self, response: httpx2.Response) -> LetheError:
        """Return the error of a refusal.

        A key that is refused once the engine had taken it is a change under way, and tried again; what the
        engine finds wrong with the input stays the input's; what failed inside it is told in its log.
        """
        status, detail = response.status_code, _detail_of(response)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            family = UnavailableError if self._was_taken else ForbiddenError
            return family(
                f"{self.where} does not take the key: {detail}. "
                "LETHE_ENGINE_KEY_FILE must name the same key there and here"
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            said = response.headers.get("retry-after", "")
            return BusyError(f"{self.where} is busy", retry_in_seconds=float(said) if said.isdecimal() else 1)
        if status in BUSY:
            return UnavailableError(f"{self.where} cannot serve now: {detail}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return LetheError(f"{self.where} failed inside: {detail}")
        return InvalidInputError(f"{self.where} refused the request ({status}): {detail}")


def _detail_of(response: httpx2.Response) -> str:
    try:
        problem = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        problem = None
    if isinstance(problem, dict) and isinstance(problem.get("detail"), str):
        return str(problem["detail"])
    return f"it replied {response.status_code} {response.reason_phrase}"
