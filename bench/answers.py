"""Answers over HTTP on squad13: are they right, cited and verbatim, and does Lethe abstain when it should?

Some articles are left out at first, and questions about them asked of what cannot hold the answer;
then all are there, and questions about any of them are asked.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.progress import Progress

from api.client import DocumentFields, LetheClient
from api.replies import AnswerReply
from bench.figures import Figures, percentile
from bench.serving import Service
from bench.squad13 import Question, Squad, contained, exact_match, f1
from memory.errors import UnavailableError

LEFT_OUT = 3
LOADING_SECONDS = 1800
SEED = 7


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the reply to it."""

    question: Question
    reply: AnswerReply
    seconds: float


def measure(
    *, reader: str, questions: int, paragraphs: int | None, threads: int, progress: Progress
) -> Figures:
    """Return the figures of one reader; ``paragraphs`` takes only so many of each article."""
    squad = Squad()
    rng = random.Random(SEED)
    kept = {name for name in squad.texts if paragraphs is None or int(name.rpartition(":")[2]) < paragraphs}
    posed = [question for question in squad.questions if question.gold in kept]
    articles = sorted({question.article for question in posed})
    left_out = set(rng.sample(articles, LEFT_OUT))
    documents = [document_of(name, squad.texts[name]) for name in squad.texts if name in kept]
    later = [document for document in documents if article_of(document) in left_out]
    unknown = rng.sample([question for question in posed if question.article in left_out], questions // 2)
    known = rng.sample(posed, questions)
    task = progress.add_task(f"answers ({reader})", total=len(unknown) + len(known))
    with Service(reader=reader, threads=threads) as service:
        service.remember([document for document in documents if document not in later])
        service.wait_for()
        _wait_for_reader(service.client, reader)

        def told() -> None:
            progress.advance(task)

        unanswerable = _ask(service.client, unknown, told)
        service.remember(later)
        service.wait_for()
        answerable = _ask(service.client, known, told)
        quotes = _count_verbatim(service.client, [*answerable])
        memory = service.resident_mib()
    progress.remove_task(task)
    return {
        "reader": reader,
        "paragraphs": len(documents),
        "questions": len(known),
        **judge(answerable),
        "quotes": quotes[1],
        "quotes_verbatim": quotes[0],
        "without_the_article": {
            "questions": len(unknown),
            "articles": sorted(left_out),
            "answered": _share(not asked.reply["abstained"] for asked in unanswerable),
        },
        "resident_mib": memory,
        "threads": threads,
    }


def judge(asked: Sequence[Asked]) -> Figures:
    """Return what can be said of the replies by themselves; an abstention counts as a wrong answer."""
    answers = [one.reply["answer"] or "" for one in asked]
    accepted = [one.question.answers for one in asked]
    figures: Figures = {
        metric.__name__: round(
            statistics.fmean(metric(answer, gold) for answer, gold in zip(answers, accepted, strict=True)), 4
        )
        for metric in (exact_match, f1, contained)
    }
    spent: dict[str, list[float]] = {}
    for one in asked:
        for stage, milliseconds in one.reply["timings_ms"].items():
            spent.setdefault(stage, []).append(milliseconds)
    times = [one.seconds for one in asked]
    return figures | {
        "gold_paragraph_cited": _share(
            one.question.gold in {citation["external_id"] for citation in one.reply["citations"]}
            for one in asked
        ),
        "abstained": _share(one.reply["abstained"] for one in asked),
        "seconds_per_answer": {
            "mean": round(statistics.fmean(times), 3),
            "p50": round(percentile(times, 0.5), 3),
            "p95": round(percentile(times, 0.95), 3),
        },
        "stages_mean_ms": {stage: round(statistics.fmean(each), 1) for stage, each in spent.items()},
    }


def document_of(name: str, text: str) -> DocumentFields:
    """Return a paragraph as it is posted: under its article's title."""
    return {"text": text, "title": name.rpartition(":")[0].replace("_", " "), "external_id": name}


def article_of(document: DocumentFields) -> str:
    """Return the article that a posted paragraph is of."""
    return str(document["external_id"]).rpartition(":")[0]


def _ask(client: LetheClient, questions: Sequence[Question], told: Callable[[], None]) -> list[Asked]:
    asked = []
    for question in questions:
        started = time.perf_counter()
        reply = client.answer(question.text)
        asked.append(Asked(question, reply, time.perf_counter() - started))
        told()
    return asked


def _count_verbatim(client: LetheClient, asked: Sequence[Asked]) -> tuple[int, int]:
    """Return how many quotes stand in their documents at the very span cited, and how many there are."""
    texts: dict[str, str] = {}
    same = total = 0
    for one in asked:
        for citation in one.reply["citations"]:
            source_id, span = citation["source_id"], citation["span"]
            if source_id not in texts:
                texts[source_id] = client.get_document(source_id)["text"]
            total += 1
            same += texts[source_id][span["start"] : span["end"]] == citation["quote"] != ""
    return same, total


def _wait_for_reader(client: LetheClient, reader: str) -> None:
    """Wait until the language model has taken over from the extractive reader."""
    deadline = time.monotonic() + LOADING_SECONDS
    while (current := client.stats()["reader"]) != reader:
        if time.monotonic() > deadline:
            raise UnavailableError(f"{current} still answers instead of {reader}")
        time.sleep(0.5)


def _share(marks: Iterable[bool]) -> float:
    return round(statistics.fmean(bool(mark) for mark in marks), 4)
