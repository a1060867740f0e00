"""How fast are real documents taken in, beside the encoder alone on the same texts?"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.progress import Progress

from api.client import DocumentFields
from bench.figures import Figures, latency, spread
from bench.serving import Service
from bench.texts import read_documents
from embedding.encoder import TextEncoder
from memory.values import Attributes, Content
from service.ingest import embedding_text
from sources.parse import SourceParser


def measure(
    encoder: TextEncoder, *, documents: int, runs: int, singles: int, threads: int, progress: Progress
) -> Figures:
    """Return passages a second over ``/v1/documents/batch``, and the latency of single documents.

    Each run posts other documents. Right before and after it the encoder encodes, in this process and
    with the service idle, the very texts that the service embeds; the share is taken run by run.
    """
    corpus = read_documents()
    warm_up, corpus = corpus[:64], corpus[64:]
    first_single = runs * documents
    task = progress.add_task("ingest", total=runs * 3 + singles)
    rates: list[float] = []
    own: list[float] = []
    shares: list[float] = []
    settled: list[float] = []
    passages: list[float] = []
    with Service(threads=threads) as service:
        service.remember(warm_up)
        encoder.encode(_embedded(warm_up), role="passage")
        service.wait_for()
        for run in range(runs):
            posted = corpus[run * documents : (run + 1) * documents]
            texts = _embedded(posted)
            before = _rate(encoder, texts)
            progress.advance(task)
            held = service.client.stats()["passages"]
            rate = len(texts) / service.remember(posted)
            made = service.client.stats()["passages"] - held
            if made != len(texts):
                raise ValueError(f"the service made {made} passages where {len(texts)} were expected")
            settled.append(service.wait_for())
            progress.advance(task)
            after = _rate(encoder, texts)
            progress.advance(task)
            passages.append(len(texts))
            rates.append(rate)
            own.append((before + after) / 2)
            shares.append(rate / own[-1])
        times = []
        for document in corpus[first_single : first_single + singles]:
            started = time.perf_counter()
            service.client.remember_documents([document], wait=60)
            times.append(time.perf_counter() - started)
            progress.advance(task)
        memory = service.resident_mib()
        service.wait_for()
        disk = service.disk_mib()
    progress.remove_task(task)
    return {
        "documents_per_run": documents,
        "passages_per_run": spread(passages, digits=0),
        "passages_per_second": spread(rates, digits=1),
        "encoder_passages_per_second": spread(own, digits=1),
        "share_of_encoder": spread(shares),
        "seconds_until_folded_after_that": spread(settled, digits=2),
        "single_document_wait": latency([times]),
        "resident_mib": memory,
        "data_folder_mib": disk,
        "threads": threads,
    }


def _embedded(documents: Sequence[DocumentFields]) -> list[str]:
    """Return what the service's encoder is given for these documents."""
    parser = SourceParser()
    texts: list[str] = []
    for document in documents:
        attributes = Attributes(external_id=document["external_id"])
        parsed = parser.parse(Content("document", "text/plain", document["text"].encode(), attributes))
        texts += [embedding_text(parsed, index) for index in range(len(parsed.passages))]
    return texts


def _rate(encoder: TextEncoder, texts: Sequence[str]) -> float:
    started = time.perf_counter()
    encoder.encode(texts, role="passage")
    return len(texts) / (time.perf_counter() - started)
