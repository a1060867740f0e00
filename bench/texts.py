"""Real texts to fill a store with: whole documents, and short ones of a sentence each.

The sets hold some tens of thousands of different sentences. Where more are wanted, the first half of a
sentence is joined to the second half of another: still real words at real lengths, and no two alike.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from api.client import DocumentFields
from bench.quality import DATA

SETS = ("cranfield", "hotpot100", "lihua", "musique100", "squad13")
SHORTEST, LONGEST = 20, 300
SHIFTS = (1, 7, 31, 127, 509, 2039)
"""How far from a sentence its new second half is taken."""


def read_documents(data: Path = DATA) -> list[DocumentFields]:
    """Return the documents of all sets, in an order shuffled once and for all."""
    documents: list[DocumentFields] = []
    for name in SETS:
        for line in (data / name / "documents.jsonl").read_text(encoding="utf-8").splitlines():
            document = json.loads(line)
            documents.append({"text": document["text"], "external_id": f"{name}/{document['id']}"})
    random.Random(11).shuffle(documents)
    return documents


def read_questions(count: int, data: Path = DATA) -> list[str]:
    """Return questions of all sets, the same ones every time."""
    questions: list[str] = []
    for name in SETS:
        for line in (data / name / "queries.jsonl").read_text(encoding="utf-8").splitlines():
            questions.append(json.loads(line)["query"])
    return random.Random(12).sample(questions, count)


def read_sentences(data: Path = DATA) -> list[str]:
    """Return the different sentences of all sets, the same ones in the same order every time."""
    return list(
        dict.fromkeys(
            sentence
            for document in read_documents(data)
            for sentence in sentences_of(
                document["text"], by_line=str(document["external_id"]).startswith("lihua/")
            )
        )
    )


def short_documents(count: int, data: Path = DATA) -> list[DocumentFields]:
    """Return that many different one-passage texts; the first ones are sentences as they were written."""
    sentences = read_sentences(data)
    texts = list(islice(dict.fromkeys(_with_shifted(sentences)), count))
    if len(texts) < count:
        raise ValueError(f"{len(sentences)} sentences give {len(texts)} texts, fewer than {count}")
    return [{"text": text, "external_id": f"short/{at}"} for at, text in enumerate(texts)]


def sentences_of(text: str, *, by_line: bool = False) -> list[str]:
    """Return a text's sentences (or a chat's lines) that are of ordinary length, white space made plain."""
    parts = (" ".join(part.split()) for part in re.split(r"\n" if by_line else r"(?<=[.!?])\s+", text))
    return [part for part in parts if SHORTEST <= len(part) <= LONGEST]


def _with_shifted(sentences: list[str]) -> Iterator[str]:
    yield from sentences
    words = [sentence.split() for sentence in sentences]
    for shift in SHIFTS:
        for at, own in enumerate(words):
            other = words[(at + shift) % len(words)]
            yield " ".join([*own[: len(own) // 2], *other[len(other) // 2 :]])
