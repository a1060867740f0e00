"""The engine's door: encoder and reader over HTTP, for the API and worker processes of one installation.

It knows no tenants, no journal and no fence: texts come in, vectors and claims go out, nothing is kept.
``docs/engine.md`` describes the routes.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

import anyio.from_thread
import anyio.to_thread
import orjson
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from api import problems
from api.app import MAX_BODY_BYTES, NO_TELEMETRY
from api.bodies import JSON, media_type_of, read_body
from api.fenced import deliver
from api.gate import Gate
from api.leaving import listening
from api.logs import RequestLog
from api.problems import (
    InvalidFieldsError,
    MalformedBodyError,
    UnauthenticatedError,
    instance_of,
    invalid_fields,
    problem_body,
    problem_of,
    problem_response,
)
from embedding.remote import vector_to_base64
from memory.asking import asked_by
from memory.errors import LetheError, NotFoundError, UnsupportedMediaError
from memory.ports import Encoder, Reader
from memory.values import Claim, Reading
from reader.switch import SwitchingReader
from reader.wire import REQUEST, ClaimLine, ErrorLine, Line, ReadingLine, ReadRequest, line_to_json

MAX_TEXTS = 2048
"""In one request for vectors; the same as OpenAI's."""

MAX_EVIDENCE = 256
MAX_QUESTION_CHARACTERS = 32_768
FEW_TEXTS = 8
"""Queries up to so many have a gate of their own, and wait for no ingest."""

PROBE = "ready"
NDJSON = "application/x-ndjson"

_bearer = HTTPBearer(auto_error=False, description="The key of `LETHE_ENGINE_KEY_FILE`.")
_log = structlog.get_logger("lethe.engine")

Asked = TypeVar("Asked")


class EmbeddingsRequest(BaseModel):
    """OpenAI's request for embeddings, and ``role``; other fields are passed over."""

    model_config = ConfigDict(strict=True)

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    role: Literal["passage", "query"] = "passage"


_EMBEDDINGS = TypeAdapter(EmbeddingsRequest)


class Gates:
    """One for each kind of work, so that a bulk load holds up neither a query nor a reading."""

    def __init__(self, readings: int = 33) -> None:
        """``readings`` go on at once: as many as a language model has places and a queue for, and one more,
        so that it is the model that refuses, fairly.
        """
        self.queries = Gate("queries", running=8, waiting=128)
        self.passages = Gate("passages", running=2, waiting=32)
        self.readings = Gate("readings", running=readings, waiting=32)


def create_engine(
    encoder: Encoder,
    reader: Reader,
    loader: SwitchingReader | None = None,
    *,
    key: str | None = None,
    gates: Gates | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """Return the application; it starts ``loader`` with itself. With a ``key``, ``/v1`` asks for it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # So many threads that readings, which hold theirs for long, leave room for all else.
        anyio.to_thread.current_default_thread_limiter().total_tokens += used.readings.running
        if loader is not None:
            loader.start()
        yield

    used = gates or Gates()
    app = FastAPI(
        telemetry=NO_TELEMETRY,
        title="Lethe's engine",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.encoder = encoder
    app.state.stopping = threading.Event()
    app.state.drain = app.state.stopping.set
    app.state.reader = reader
    app.state.loader = loader
    app.state.key = key
    app.state.gates = used
    app.state.max_body_bytes = max_body_bytes
    problems.install(app)
    app.include_router(_open)
    app.include_router(_kept)
    app.add_middleware(RequestLog)
    return app


def check_key(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let in who has the key, or everyone where there is none."""
    key: str | None = request.app.state.key
    if key is None:
        return
    if credentials is None:
        raise UnauthenticatedError("send the engine's key as 'Authorization: Bearer KEY'")
    if not hmac.compare_digest(credentials.credentials.encode(), key.encode()):
        raise UnauthenticatedError("this is not the engine's key")


_open = APIRouter()
_kept = APIRouter(prefix="/v1", dependencies=[Depends(check_key)])


@_open.get("/healthz")
async def healthz() -> Response:
    """Say that the process lives."""
    return _json({"status": "ok"})


@_open.get("/readyz")
async def readyz(request: Request) -> Response:
    """Say whether texts are encoded, by encoding one, and what else is missing.

    A language model that is not there, or not yet, is named but no obstacle: the extractive reader reads.
    No key is asked for, so that no failure is told in its own words, which may hold addresses and paths.
    """
    missing = _missing_reader(request.app.state.loader)
    encoder: Encoder = request.app.state.encoder
    try:
        async with request.app.state.gates.queries.enter():
            await anyio.to_thread.run_sync(lambda: encoder.encode([PROBE], role="query"))
    except (LetheError, RuntimeError, MemoryError) as error:  # torch raises the latter when a device fails
        _log.error("the encoder fails", error=type(error).__name__)
        missing["encoder"] = f"it fails with {type(error).__name__}; see the engine's log"
    if request.app.state.stopping.is_set():
        missing["engine"] = "stopping"
    if not missing.keys() & {"encoder", "engine"}:
        return _json({"status": "ready", "missing": missing})
    detail = "; ".join(f"{what}: {why}" for what, why in sorted(missing.items()))
    return problem_response(
        problem_body(503, "not-ready", "Not ready", detail, instance=instance_of(request), missing=missing)
    )


def _missing_reader(loader: SwitchingReader | None) -> dict[str, str]:
    if loader is None or loader.wait(0):
        return {}
    if loader.failure is not None:
        kind = type(loader.failure).__name__
        return {"reader": f"not loaded, {kind}: see the engine's log; {loader.name} reads"}
    return {"reader": f"the language model is being loaded, or waited for; {loader.name} reads until then"}


@_open.get("/metrics")
async def metrics() -> Response:
    """Return counters for Prometheus; they hold no content."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@_kept.get("/models")
async def models(request: Request) -> Response:
    """List the encoder and the reader, as OpenAI lists models; ``lethe`` says what they are to Lethe."""
    encoder: Encoder = request.app.state.encoder
    reader: Reader = request.app.state.reader
    return _json(
        {
            "object": "list",
            "data": [
                _model(encoder.space.model, space=asdict(encoder.space)),
                _model(reader.name, reader=reader.name),
            ],
        }
    )


def _model(name: str, **lethe: object) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "lethe", "lethe": lethe}


@_kept.post("/embeddings")
async def embeddings(request: Request) -> Response:
    """Encode texts, as OpenAI's route of this name does."""
    asked = await _read(request, _EMBEDDINGS)
    encoder: Encoder = request.app.state.encoder
    gates: Gates = request.app.state.gates
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if len(texts) > MAX_TEXTS:
        raise InvalidFieldsError([("/input", f"at most {MAX_TEXTS} texts in one request")])
    if asked.model not in {None, encoder.space.model}:
        raise NotFoundError("model", str(asked.model))
    if asked.dimensions not in {None, encoder.space.dimension}:
        raise InvalidFieldsError([("/dimensions", f"this model has {encoder.space.dimension}")])
    gate = gates.queries if asked.role == "query" and len(texts) <= FEW_TEXTS else gates.passages

    def encode() -> bytes:
        vectors = encoder.encode(texts, role=asked.role)
        shown = vector_to_base64 if asked.encoding_format == "base64" else _numbers
        data = [
            {"object": "embedding", "index": index, "embedding": shown(vector)}
            for index, vector in enumerate(vectors)
        ]
        return orjson.dumps(
            {
                "object": "list",
                "data": data,
                "model": encoder.space.model,
                "usage": {"prompt_tokens": 0, "total_tokens": 0},
                "lethe": asdict(encoder.space),
            }
        )

    async with gate.enter():
        if await request.is_disconnected():  # whoever asked has gone while it waited
            return Response(status_code=499)
        return Response(await anyio.to_thread.run_sync(encode), media_type=JSON)


def _numbers(vector: Any) -> list[float]:
    """Return a vector's numbers; JSON's doubles hold every float32."""
    numbers: list[float] = vector.tolist()
    return numbers


@_kept.post("/read")
async def read(request: Request) -> Response:
    """Read: each claim as a line of JSON when it is ready, last the whole reading."""
    asked = await _read(request, REQUEST)
    wrong = []
    if len(asked.question) > MAX_QUESTION_CHARACTERS:
        wrong.append(("/question", f"at most {MAX_QUESTION_CHARACTERS} characters"))
    if len(asked.evidence) > MAX_EVIDENCE:
        wrong.append(("/evidence", f"at most {MAX_EVIDENCE} pieces"))
    if wrong:
        raise InvalidFieldsError(wrong)
    return ReadingLines(request.app.state, asked)


class ReadingLines(Response):
    """A reading as lines of JSON. The client's going ends it after the claim that is being written.

    Nothing is sent before the first claim is ready, so that an early error still gets its status; a later
    one becomes the last line.
    """

    media_type = NDJSON

    def __init__(self, state: Any, asked: ReadRequest) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._reader: Reader = state.reader
        self._gate: Gate = state.gates.readings
        self._asked = asked
        self._gone = threading.Event()
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a turn, then send lines until the reading is whole or the client has gone."""
        async with listening(receive) as self._gone, self._gate.enter():
            await anyio.to_thread.run_sync(self._read, scope, send)

    def _read(self, scope: Scope, send: Send) -> None:
        if self._gone.is_set():
            return
        try:
            asked = self._asked
            with (
                asked_by(asked.party),
                closing(
                    self._reader.iter_claims(asked.question, asked.evidence, explain=asked.explain)
                ) as claims,
            ):
                reading = self._send_claims(claims, scope, send)
        except LetheError as error:
            if not self._started:
                raise
            self._send(scope, send, ErrorLine(problem_of(error, instance=scope["path"])))
        else:
            if reading is not None:
                self._send(scope, send, ReadingLine(reading))
        if not self._gone.is_set():
            end: Message = {"type": "http.response.body", "body": b"", "more_body": False}
            anyio.from_thread.run(deliver, scope, send, [end])

    def _send_claims(
        self, claims: Generator[Claim, None, Reading], scope: Scope, send: Send
    ) -> Reading | None:
        while not self._gone.is_set():
            try:
                claim = next(claims)
            except StopIteration as end:
                reading: Reading = end.value
                return reading
            self._send(scope, send, ClaimLine(claim))
        return None

    def _send(self, scope: Scope, send: Send, line: Line) -> None:
        if self._gone.is_set():
            return
        messages: list[Message] = []
        if not self._started:
            messages.append(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
        self._started = True
        messages.append({"type": "http.response.body", "body": line_to_json(line) + b"\n", "more_body": True})
        messages.append({"type": "http.response.body", "body": b"", "more_body": True})
        if not anyio.from_thread.run(deliver, scope, send, messages):
            self._gone.set()


async def _read(request: Request, shape: TypeAdapter[Asked]) -> Asked:
    """Return a JSON body as ``shape``, every field that is wrong named.

    Unlike the API's bodies these are not kept, so what a text holds is the encoder's matter.
    """
    media_type = media_type_of(request)
    if media_type != JSON:
        raise UnsupportedMediaError(media_type, (JSON,))
    body = await read_body(request)
    try:
        return await anyio.to_thread.run_sync(lambda: shape.validate_json(body, strict=True))
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise MalformedBodyError(str(error.errors()[0]["msg"])) from error
        raise invalid_fields(error) from error


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type=JSON)
