"""A client of the service, for programs and for the command line.

Errors are the service's own families, read back from its problem JSON. Requests that change nothing
are tried again while the service cannot be reached; others never are. A request that came too often was not
begun, so it is sent again when the service said, unless that is long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, Unpack, cast

import httpx2
import orjson

from api.client_bodies import (
    AttributeFields,
    DocumentFields,
    MediaFile,
    MessageFields,
    ScopeFields,
    Upload,
    document_body,
    json_body,
    plain,
    text_of,
)
from api.client_errors import BusyError, error_from, error_of
from api.client_streams import CueFields, StreamsClient
from api.client_watches import WatchesClient
from api.node_replies import NodeReply, TopicPage, TopicReply
from api.replies import (
    AnswerReply,
    ClaimEvent,
    ForgetReply,
    JobPage,
    JobReply,
    KeyPage,
    KeyReply,
    NewKeyReply,
    RecallReply,
    RememberedReply,
    SourcePage,
    SourceReply,
    TenantPage,
    TenantReply,
)
from memory.errors import (
    UnavailableError,
)
from service.views import Role

__all__ = [
    "AttributeFields",
    "BusyError",
    "CueFields",
    "DocumentFields",
    "LetheClient",
    "MediaFile",
    "MessageFields",
    "ScopeFields",
    "Upload",
]

DEFAULT_URL = "http://127.0.0.1:8700"
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 0.2
LONGEST_RETRY_AFTER_SECONDS = 30
POLL_SECONDS = 0.1
WAIT_MARGIN_SECONDS = 30
FINISHED_JOBS = frozenset({"done", "failed", "dead", "cancelled"})

Result = TypeVar("Result")


class LetheClient:
    """Talks to one service with one key. Safe to share between threads; close it when done."""

    def __init__(
        self, base_url: str = DEFAULT_URL, key: str | None = None, *, timeout_seconds: float = 120
    ) -> None:
        self._url = base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._http = httpx2.Client(
            base_url=self._url,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=timeout_seconds,
            trust_env=httpx2.URL(self._url).host not in {"127.0.0.1", "::1", "localhost"},
        )

    @property
    def streams(self) -> StreamsClient:
        """What concerns streams."""
        return StreamsClient(self._send, self._iter_pages)

    @property
    def watches(self) -> WatchesClient:
        """What concerns watches."""
        return WatchesClient(self._send, self._iter_pages)

    def __enter__(self) -> LetheClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def remember_document(
        self,
        content: str | Path | Upload,
        *,
        media_type: str | None = None,
        wait: int | None = None,
        **attributes: Unpack[AttributeFields],
    ) -> RememberedReply:
        """Remember a document: a text, or a file (of ``media_type``, else by its name)."""
        body = document_body(content, media_type, attributes)
        return cast(RememberedReply, self._send("POST", "/v1/documents", wait=wait, **body))

    def remember_documents(
        self, documents: Sequence[DocumentFields], *, wait: int | None = None
    ) -> list[RememberedReply]:
        """Remember many texts at once; the replies stand in the same order."""
        content = json_body([dict(document) for document in documents])
        return cast(list[RememberedReply], self._send("POST", "/v1/documents/batch", wait=wait, **content))

    def remember_text(
        self, text: str, *, wait: int | None = None, **attributes: Unpack[AttributeFields]
    ) -> RememberedReply:
        """Remember a short text as a memory."""
        body = json_body({"text": text, **attributes})
        return cast(RememberedReply, self._send("POST", "/v1/memories", wait=wait, **body))

    def remember_messages(
        self,
        messages: Sequence[MessageFields],
        *,
        wait: int | None = None,
        **attributes: Unpack[AttributeFields],
    ) -> RememberedReply:
        """Remember the messages of a chat."""
        body = json_body({"messages": [dict(message) for message in messages], **attributes})
        return cast(RememberedReply, self._send("POST", "/v1/memories", wait=wait, **body))

    def update_document(
        self,
        source_id: str,
        content: str | Path | Upload,
        *,
        media_type: str | None = None,
        wait: int | None = None,
        **attributes: Unpack[AttributeFields],
    ) -> RememberedReply:
        """Remember a new version of a document."""
        body = document_body(content, media_type, attributes)
        return cast(RememberedReply, self._send("PUT", f"/v1/documents/{source_id}", wait=wait, **body))

    def get_document(self, source_id: str, *, as_of: datetime | str | None = None) -> SourceReply:
        """Return a document with its extracted text."""
        found = self._get(f"/v1/documents/{source_id}", as_of=as_of)
        return cast(SourceReply, found)

    def get_frame(self, source_id: str, at_ms: int) -> MediaFile:
        """Return what a video shows at a time, as a JPEG."""
        return self._get_file(f"/v1/sources/{source_id}/frame", at_ms=at_ms)

    def get_clip(self, source_id: str, start_ms: int, end_ms: int) -> MediaFile:
        """Return an excerpt of a video or recording that plays from 0."""
        return self._get_file(f"/v1/sources/{source_id}/clip", start_ms=start_ms, end_ms=end_ms)

    def iter_documents(self, *, page_size: int = 200) -> Iterator[SourceReply]:
        """Yield every document in its newest version, fetching pages as needed."""
        return self._iter_sources("/v1/documents", None, page_size)

    def iter_pending_documents(
        self, filter: Mapping[str, Any], *, page_size: int = 500
    ) -> Iterator[SourceReply]:
        """Yield the documents that a filter selects as last acknowledged, be they indexed yet or not.

        One that is not indexed yet has no ``passages`` and names the ``job`` it waits for.
        """
        chosen = orjson.dumps(plain(filter)).decode()
        return self._iter_sources("/v1/documents", None, page_size, filter=chosen, pending="true")

    def list_documents(self) -> list[SourceReply]:
        """Return every document in its newest version."""
        return list(self.iter_documents())

    def list_memories(self, *, user_id: str | None = None) -> list[SourceReply]:
        """Return every memory, of one user where asked."""
        return list(self._iter_sources("/v1/memories", user_id, 200))

    def recall(
        self,
        query: str,
        *,
        limit: int = 10,
        filter: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
    ) -> RecallReply:
        """Find the passages that a query is about."""
        body = json_body({"query": query, "limit": limit, "filter": filter, "as_of": as_of})
        return cast(RecallReply, self._send("POST", "/v1/recall", idempotent=True, **body))

    def iter_topics(self, *, level: int | None = None) -> Iterator[TopicReply]:
        """Yield the topics of one level, or those at the top, fetching pages as needed."""
        for page in self._iter_pages("/v1/topics", 200, level=level):
            yield from cast(TopicPage, page)["items"]

    def get_node(self, node_id: str, *, limit: int = 50, cursor: str | None = None) -> NodeReply:
        """Return a topic, a source or a section with a page of its children."""
        return cast(NodeReply, self._get(f"/v1/nodes/{node_id}", limit=limit, cursor=cursor))

    def answer(
        self,
        query: str,
        *,
        limit: int = 8,
        filter: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        explain: bool = False,
    ) -> AnswerReply:
        """Answer a question with citations, or abstain; ``explain`` adds how that came about."""
        asked = {"query": query, "limit": limit, "filter": filter, "as_of": as_of, "explain": explain or None}
        return cast(AnswerReply, self._send("POST", "/v1/answer", idempotent=True, **json_body(asked)))

    def iter_answer(
        self,
        query: str,
        *,
        limit: int = 8,
        filter: Mapping[str, Any] | None = None,
        as_of: datetime | str | None = None,
        explain: bool = False,
    ) -> Iterator[tuple[Literal["claim"], ClaimEvent] | tuple[Literal["done"], AnswerReply]]:
        """Yield each checked sentence as ``("claim", …)`` when it is ready, at last ``("done", …)``."""
        asked = {"query": query, "limit": limit, "filter": filter, "as_of": as_of, "explain": explain or None}
        asked["stream"] = True
        with (
            self._reaching(),
            self._http.stream("POST", "/v1/answer", **json_body(asked)) as response,
        ):
            if response.is_error:
                response.read()
                raise error_of(response)
            for event in httpx2.EventSource(response, max_event_size=None):
                data = orjson.loads(event.data)
                if event.event == "error":
                    raise error_from(data, int(data["status"]))
                if event.event == "claim":
                    yield "claim", data
                else:
                    yield "done", data
                    return
        raise UnavailableError(f"the service at {self._url} broke the answer off")

    def forget(self, scope: ScopeFields, *, preview: bool = False, wait: int | None = None) -> ForgetReply:
        """Forget all that a scope selects; with ``preview`` only count it."""
        body = json_body({"scope": dict(scope), "mode": "preview" if preview else "execute"})
        return cast(ForgetReply, self._send("POST", "/v1/forget", wait=wait, **body))

    def forget_document(self, source_id: str, *, wait: int | None = None) -> ForgetReply:
        """Forget one document with all its versions."""
        return cast(ForgetReply, self._send("DELETE", f"/v1/documents/{source_id}", wait=wait))

    def get_forget(self, forget_id: str) -> ForgetReply:
        """Return how far a forget request is."""
        return cast(ForgetReply, self._get(f"/v1/forget/{forget_id}"))

    def get_certificate(self, forget_id: str) -> dict[str, Any]:
        """Return the signed certificate; ``NotFoundError`` until there is one."""
        return cast(dict[str, Any], self._get(f"/v1/forget/{forget_id}/certificate"))

    def get_job(self, job_id: str) -> JobReply:
        """Return a job as it is now."""
        return cast(JobReply, self._get(f"/v1/jobs/{job_id}"))

    def retry_job(self, job_id: str) -> JobReply:
        """Have a job that ended without success done once more."""
        return cast(JobReply, self._send("POST", f"/v1/jobs/{job_id}/retry", idempotent=True))

    def cancel_job(self, job_id: str) -> JobReply:
        """Cancel a job that has not ended; content that was to be ingested is taken back."""
        return cast(JobReply, self._send("POST", f"/v1/jobs/{job_id}/cancel", idempotent=True))

    def wait_job(
        self,
        job_id: str,
        *,
        timeout_seconds: float,
        progress: Callable[[JobReply], None] | None = None,
    ) -> JobReply:
        """Return a job once it has ended, or its latest state when time is up."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            job = self.get_job(job_id)
            if progress is not None:
                progress(job)
            if job["status"] in FINISHED_JOBS or time.monotonic() >= deadline:
                return job
            time.sleep(POLL_SECONDS)

    def list_jobs(self, *, limit: int = 50) -> list[JobReply]:
        """Return the first page of jobs."""
        return cast(JobPage, self._get("/v1/jobs", limit=limit))["items"]

    def stats(self) -> dict[str, Any]:
        """Return counts of what is remembered."""
        return cast(dict[str, Any], self._get("/v1/stats"))

    def rebuild(self) -> JobReply:
        """Have everything folded again from the journal; returns the job."""
        return cast(JobReply, self._send("POST", "/v1/rebuild"))

    def create_key(
        self,
        name: str,
        roles: Sequence[Role],
        *,
        expires_in_seconds: int | None = None,
        tenant: str | None = None,
    ) -> NewKeyReply:
        """Make an API key; the reply is the only place that ever shows it."""
        asked = {"name": name, "roles": roles, "expires_in_seconds": expires_in_seconds, "tenant": tenant}
        return cast(NewKeyReply, self._send("POST", "/v1/keys", **json_body(asked)))

    def list_keys(self) -> list[KeyReply]:
        """Return every key of the tenant, without secrets, newest first."""
        pages = self._iter_pages("/v1/keys", 200)
        return [key for page in pages for key in cast(KeyPage, page)["items"]]

    def rotate_key(
        self, key_id: str, *, overlap_seconds: int, expires_in_seconds: int | None = None
    ) -> NewKeyReply:
        """Replace a key; the old one goes on working for the overlap."""
        asked = {"overlap_seconds": overlap_seconds, "expires_in_seconds": expires_in_seconds}
        return cast(NewKeyReply, self._send("POST", f"/v1/keys/{key_id}/rotate", **json_body(asked)))

    def revoke_key(self, key_id: str) -> KeyReply:
        """End a key at once; ``ConflictError`` for the last admin key."""
        return cast(KeyReply, self._send("DELETE", f"/v1/keys/{key_id}"))

    def create_tenant(self, tenant: str) -> TenantReply:
        """Make a tenant, with an admin key of the tenant that runs the service."""
        return cast(TenantReply, self._send("POST", "/v1/tenants", **json_body({"id": tenant})))

    def list_tenants(self) -> list[TenantReply]:
        """Return every tenant, newest first."""
        pages = self._iter_pages("/v1/tenants", 200)
        return [tenant for page in pages for tenant in cast(TenantPage, page)["items"]]

    def is_ready(self) -> bool:
        """Say whether the service serves requests; never raises because it does not."""
        try:
            return self._http.get("/readyz").is_success
        except httpx2.TransportError:
            return False

    def _iter_sources(
        self, path: str, user_id: str | None, page_size: int, **more: str
    ) -> Iterator[SourceReply]:
        for page in self._iter_pages(path, page_size, user_id=user_id, **more):
            yield from cast(SourcePage, page)["items"]

    def _iter_pages(self, path: str, page_size: int, **parameters: object) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self._get(path, limit=page_size, cursor=cursor, **parameters)
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _get(self, path: str, **parameters: object) -> Any:
        given = {name: text_of(value) for name, value in parameters.items() if value is not None}
        return self._send("GET", path, idempotent=True, params=given)

    def _get_file(self, path: str, **parameters: int) -> MediaFile:
        response = self._exchange("GET", path, idempotent=True, params=parameters)
        start, end = (int(response.headers[name]) for name in ("lethe-start-ms", "lethe-end-ms"))
        return MediaFile(response.content, response.headers["content-type"], start, end)

    def _send(self, method: str, path: str, **request: Any) -> Any:
        return orjson.loads(self._exchange(method, path, **request).content)

    def _exchange(
        self,
        method: str,
        path: str,
        *,
        wait: int | None = None,
        idempotent: bool = False,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx2.Response:
        sent = dict(headers or {})
        timeout = self._timeout_seconds
        if wait is not None:
            sent["prefer"] = f"wait={wait}"
            timeout = max(timeout, wait + WAIT_MARGIN_SECONDS)

        def send() -> httpx2.Response:
            for attempt in range(1, ATTEMPTS + 1):
                with self._reaching():
                    response = self._http.request(method, path, headers=sent, timeout=timeout, **request)
                pause = _retry_after_seconds(response)
                if pause is None or attempt == ATTEMPTS:
                    break
                time.sleep(pause)
            if response.is_error:
                raise error_of(response)
            return response

        return _retrying(send) if idempotent else send()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn failures to reach the service into ``UnavailableError``."""
        try:
            yield
        except httpx2.ConnectError as error:
            raise UnavailableError(
                f"nothing answers at {self._url}; start the service with: lethe serve"
            ) from error
        except httpx2.TimeoutException as error:
            raise UnavailableError(f"the service at {self._url} did not reply in time") from error
        except httpx2.TransportError as error:
            raise UnavailableError(f"the connection to {self._url} broke: {error}") from error


def _retry_after_seconds(response: httpx2.Response) -> int | None:
    """Return how long a request that came too often should wait; None for any other reply, or a long wait."""
    said = response.headers.get("retry-after", "")
    if response.status_code != 429 or not said.isdecimal() or int(said) > LONGEST_RETRY_AFTER_SECONDS:
        return None
    return int(said)


def _retrying(send: Callable[[], Result]) -> Result:
    for attempt in range(ATTEMPTS - 1):
        try:
            return send()
        except UnavailableError:
            time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
    return send()
