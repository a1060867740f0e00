"""Does the running service find the right documents? The four sets over HTTP, each in a store of its own.

Beside it stand Lethe's two parts and their plain rank fusion, built offline over the same passages,
and the floors of the data's README.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from rich.progress import Progress

from api.client import DocumentFields
from bench.figures import Figures
from bench.quality import FLOORS, Offline, QualitySet, Search, evaluate, load_set
from bench.serving import Service
from embedding.encoder import TextEncoder
from memory.values import Attributes, Content

CHATS = "lihua"
RESAMPLES = 2000


def measure(
    encoder: TextEncoder,
    *,
    sets: Sequence[str],
    queries: int | None,
    threads: int,
    vectors: Path | None,
    progress: Progress,
) -> Figures:
    """Return set → contestant → figure → mean, and what Lethe gains over the best of the others.

    ``queries`` takes only so many of each set; ``vectors`` keeps the offline parts' vectors between runs.
    LiHua is asked twice: as chats through ``/v1/memories`` and, as ``lihua text``, as plain documents.
    """
    figures: Figures = {}
    for name in sets:
        quality = load_set(name)
        if queries is not None:
            quality = replace(quality, queries=quality.queries[:queries])
        figures[name] = _compare(quality, encoder, threads, vectors, progress)
        if name == CHATS:
            plain = _as_text(quality)
            figures[f"{name} text"] = _compare(plain, encoder, threads, vectors, progress)
    return figures


def _as_text(quality: QualitySet) -> QualitySet:
    """Return the chats as documents of plain text, with nothing said about their form."""
    documents = {
        name: Content("document", "text/plain", _render(content).encode(), Attributes(external_id=name))
        for name, content in quality.documents.items()
    }
    return replace(quality, documents=documents)


def _render(content: Content) -> str:
    messages = json.loads(content.body)
    lines = [f"{message['name']}: {message['content']}" for message in messages]
    return "\n".join([f"Time: {messages[0]['at']}", *lines])


def _compare(
    quality: QualitySet, encoder: TextEncoder, threads: int, vectors: Path | None, progress: Progress
) -> Figures:
    with Service(threads=threads) as service:
        task = progress.add_task(f"{quality.name}: remember", total=len(quality.documents))
        _remember(service, quality)
        service.wait_for()
        progress.update(task, description=f"{quality.name}: recall", total=len(quality.queries))

        def recall(query: str, limit: int) -> list[str]:
            progress.advance(task)
            return [str(hit["external_id"]) for hit in service.client.recall(query, limit=limit)["hits"]]

        values = {"lethe": evaluate(quality, recall)}
        progress.update(task, description=f"{quality.name}: offline parts")
    with tempfile.TemporaryDirectory() as scratch:
        offline = Offline(quality, encoder, Path(scratch) / "words", vectors=vectors)
        parts: dict[str, Search] = {
            "lexical": offline.lexical,
            "dense": offline.dense,
            "rank fusion": offline.rank_fusion,
        }
        values |= {part: evaluate(quality, search) for part, search in parts.items()}
        offline.words.close()
    progress.remove_task(task)
    return _table(quality, values)


def _remember(service: Service, quality: QualitySet) -> None:
    documents: list[DocumentFields] = []
    for name, content in quality.documents.items():
        if content.kind == "memory":
            service.client.remember_messages(json.loads(content.body), external_id=name)
        else:
            title = content.attributes.title
            documents.append({"text": content.body.decode(), "title": title, "external_id": name})
    service.remember(documents)


def _table(quality: QualitySet, values: dict[str, dict[str, list[float]]]) -> Figures:
    """Return means, and for each figure Lethe's gain over the best contestant, with a paired bootstrap."""
    table: dict[str, Figures] = {
        contestant: {figure: round(float(np.mean(each)), 4) for figure, each in own.items()}
        for contestant, own in values.items()
    }
    gains: Figures = {}
    for figure, own in values["lethe"].items():
        others = {name: each[figure] for name, each in values.items() if name != "lethe"}
        best = max(others, key=lambda name: float(np.mean(others[name])))
        gap = np.array(own) - np.array(others[best])
        draws = np.random.default_rng(5).integers(len(gap), size=(RESAMPLES, len(gap)))
        low, high = np.percentile(gap[draws].mean(axis=1), [2.5, 97.5])
        gains[figure] = {
            "over": best,
            "gain": round(float(gap.mean()), 4),
            "interval_95": [round(float(low), 4), round(float(high), 4)],
        }
    table["gain"] = gains
    floors = cast(Mapping[str, Sequence[float]], FLOORS[quality.name])
    table["floors"] = {part: dict(zip(values["lethe"], floor, strict=True)) for part, floor in floors.items()}
    return {**table, "queries": len(next(iter(values["lethe"].values())))}
