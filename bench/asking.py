"""The requests of a load test: each route as a client would ask it, and every reply held against the books.

For what was forgotten 404 and 410 are good replies. All that was not expected is an error, named without
contents.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx2
import orjson

from bench.books import Books, Document

TIMEOUT_SECONDS = 120
FORGET_AT_ONCE = 9
PAGE = 100
LISTED_AT_ONCE = 200
AUDITORS = 4
GONE = (404, 410)
FAILED = ("failed", "dead")

Reply = Any
"""What a JSON reply holds."""


class RefusedError(Exception):
    """A reply that was not expected, or none."""


class Asker:
    """Performs requests against one service and keeps the books; one event loop's."""

    def __init__(self, url: str, key: str, books: Books, questions: Sequence[str], *, seed: int = 19) -> None:
        self.books = books
        self.resurrected: dict[Document, str] = {}
        self.vanished: set[Document] = set()
        self.forgets: list[str] = []
        self._cursor: str | None = None
        self._questions = questions
        self._random = random.Random(seed)
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
        )
        self._routes: Mapping[str, Callable[[], Awaitable[None]]] = {
            "recall": self._recall,
            "answer": self._answer,
            "ingest": self._ingest,
            "forget": self._forget,
            "get": self._get,
            "list": self._list,
        }

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def perform(self, route: str) -> str | None:
        """Do one request of a route; return what went wrong, None when nothing did."""
        try:
            await self._routes[route]()
        except RefusedError as error:
            return str(error)
        return None

    async def _recall(self) -> None:
        """Ask a question half of the time, else for the word of a document that is kept, or was forgotten."""
        document = self._random.choice((None, None, self.books.any_kept(), self.books.any_gone()))
        if document is None:
            await self._found(self._random.choice(self._questions))
            return
        found = await self._found(document.word)
        if self.books.has_vanished(document, found):
            self.vanished.add(document)

    async def _found(self, query: str) -> list[str]:
        """Return the source ids that a recall finds."""
        reply = await self._send("POST", "/v1/recall", {"query": query, "limit": 10}, _hit_sources)
        return _hit_sources(reply)

    async def _answer(self) -> None:
        asked = {"query": self._random.choice(self._questions)}
        await self._send("POST", "/v1/answer", asked, _cited_sources)

    async def _ingest(self) -> None:
        await self.remember([self.books.write()])

    async def remember(self, documents: Sequence[Document]) -> None:
        """Send documents, one by itself or several as a batch, and note that they were acknowledged."""
        sent = [{"text": document.text, "external_id": document.external_id} for document in documents]
        if len(sent) == 1:
            replies = [await self._send("POST", "/v1/documents", sent[0])]
        else:
            replies = await self._send("POST", "/v1/documents/batch", sent)
        for document, reply in zip(documents, replies, strict=True):
            self.books.acknowledge(document, reply["id"])

    async def _forget(self) -> None:
        leaving = self.books.choose_leaving(FORGET_AT_ONCE)
        if not leaving:
            return
        scope = {"external_ids": [document.external_id for document in leaving]}
        reply = await self._send("POST", "/v1/forget", {"scope": scope, "mode": "execute"})
        self.books.forget(leaving, time.monotonic())
        self.forgets.append(reply["id"])
        if reply["counts"]["sources"] != len(leaving):
            raise RefusedError(
                f"{reply['counts']['sources']} of {len(leaving)} documents were found to forget"
            )

    async def _get(self) -> None:
        """Read a document: one that is kept, or one that was forgotten."""
        document = self._random.choice((self.books.any_kept(), self.books.any_gone()))
        if document is not None and await self._read(document) is None and not document.is_leaving:
            self.vanished.add(document)

    async def _read(self, document: Document) -> str | None:
        """Return a document's text empty until it is parsed; None when it is not there."""
        reply = await self._send(
            "GET",
            f"/v1/documents/{document.source_id}",
            sources=lambda reply: [reply["id"]] if "id" in reply else [],
            expected=(200, *GONE),
        )
        return reply.get("text") or "" if "id" in reply else None

    async def _list(self) -> None:
        """Read the next page, from the first one again after the last."""
        self._cursor = (await self._page(PAGE, self._cursor))["next_cursor"]

    async def _page(self, limit: int, cursor: str | None) -> Reply:
        at = f"/v1/documents?limit={limit}" + (f"&cursor={cursor}" if cursor else "")
        return await self._send("GET", at, sources=_listed_sources)

    async def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        sources: Callable[[Reply], Iterable[str]] = lambda reply: (),
        *,
        expected: Sequence[int] = (200, 202),
    ) -> Reply:
        """Return a reply that was expected, after a look for what it should not show."""
        content = None if body is None else orjson.dumps(body)
        sent_at = time.monotonic()
        try:
            response = await self._http.request(
                method, path, content=content, headers={"content-type": "application/json"} if content else {}
            )
        except httpx2.TransportError as error:
            raise RefusedError(type(error).__name__) from error
        if response.status_code not in expected:
            raise RefusedError(f"status {response.status_code}")
        reply = orjson.loads(response.content)
        where = f"{method} {path.partition('?')[0]}" if method == "POST" else f"{method} /v1/documents"
        for document in self.books.list_resurrected(response.text, sources(reply), sent_at):
            self.resurrected.setdefault(document, where)
        return reply

    # The audit, once all work is done.

    async def audit(self) -> tuple[set[Document], list[str]]:
        """Look for every document in the books; return those lost, and what went wrong meanwhile.

        Kept ones are to be in the listing, readable with their text, and found by recall by their word;
        of those forgotten whatever still shows is noted as in any other reply.
        """
        errors: list[str] = []
        listed = await self._list_all(errors)
        lost = {document for document in self.books.kept if document.source_id not in listed}

        async def look(document: Document) -> None:
            text = await self._read(document)
            found = document.source_id in await self._found(document.word)
            if document.forgotten_at is None and not (text and document.word in text and found):
                lost.add(document)

        waiting = iter([*self.books.kept, *self.books.gone])

        async def auditor() -> None:
            for document in waiting:
                try:
                    await look(document)
                except RefusedError as error:
                    errors.append(f"audit: {error}")

        await asyncio.gather(*(auditor() for _ in range(AUDITORS)))
        return lost, errors

    async def count_failed_jobs(self) -> Counter[str]:
        """Return how many jobs ended without success, by kind and status."""
        failed: Counter[str] = Counter()
        at = f"/v1/jobs?limit={LISTED_AT_ONCE}"
        cursor = ""
        while cursor is not None:
            page = await self._send("GET", at + (f"&cursor={cursor}" if cursor else ""))
            failed.update(
                f"job {job['kind']}: {job['status']}" for job in page["items"] if job["status"] in FAILED
            )
            cursor = page["next_cursor"]
        return failed

    async def _list_all(self, errors: list[str]) -> set[str]:
        listed: set[str] = set()
        cursor: str | None = None
        while True:
            try:
                page = await self._page(LISTED_AT_ONCE, cursor)
            except RefusedError as error:
                errors.append(f"audit: {error}")
                return listed
            listed.update(_listed_sources(page))
            cursor = page["next_cursor"]
            if cursor is None:
                return listed


def _hit_sources(reply: Reply) -> list[str]:
    return [hit["source_id"] for hit in reply["hits"]]


def _cited_sources(reply: Reply) -> list[str]:
    return [citation["source_id"] for citation in reply["citations"]]


def _listed_sources(reply: Reply) -> list[str]:
    return [item["id"] for item in reply["items"]]
