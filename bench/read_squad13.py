"""Answers on squad13: exact match, F1, verbatim quotes, abstention, speed.

    .venv/bin/python -m bench.read_squad13 --reader extractive [--encoder FOLDER] [--questions 300]
    .venv/bin/python -m bench.read_squad13 --reader FOLDER_OR_GGUF --converted FOLDER [--questions 60]

Each question is asked with its gold paragraph among five, then with that paragraph taken out (--removed N).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.recalled import RememberingEncoder
from bench.squad13 import Question, Squad, contained, exact_match, f1
from memory.ports import Encoder, Reader
from memory.values import Evidence, Reading
from reader.checked import CheckedReader
from reader.extractive import ExtractiveReader
from reader.language_model import LanguageModelWriter
from reader.loading import load_language_model


def open_reader(options: argparse.Namespace) -> Reader:
    """Return the reader that the command line names."""
    encoder: Encoder | None = RememberingEncoder(options.encoder) if options.encoder else None
    if options.reader == "extractive":
        return ExtractiveReader(encoder)
    path = Path(options.reader)
    digest = ""
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    started = time.perf_counter()
    model, tokenizer = load_language_model(path, digest=digest, converted=Path(options.converted))
    print(f"loaded in {time.perf_counter() - started:.1f} s as {model.dtype}")
    abstain_below = {} if options.abstain_below is None else {"abstain_below": options.abstain_below}
    writer = LanguageModelWriter(model, tokenizer, name=path.name)
    return CheckedReader(writer, encoder=encoder, **abstain_below)


def report(
    questions: Sequence[Question], given: Sequence[Sequence[Evidence]], readings: Sequence[Reading]
) -> None:
    """Print the figures for questions whose gold paragraph was there."""
    answers = [" ".join(claim.text for claim in reading.claims if claim.supported) for reading in readings]
    drafted = [" ".join(claim.text for claim in reading.claims) for reading in readings]
    count = len(questions)
    quotes = [
        (
            evidence[citation.index].text[citation.start : citation.end] == citation.quote,
            evidence[citation.index],
        )
        for evidence, reading in zip(given, readings, strict=True)
        for claim in reading.claims
        for citation in claim.citations
    ]
    gold = [
        any(
            evidence[citation.index].passage_id == question.gold
            for claim in reading.claims
            for citation in claim.citations
        )
        for question, evidence, reading in zip(questions, given, readings, strict=True)
    ]
    for name, texts in (("answers", answers), ("unchecked", drafted)):
        print(
            name,
            {
                metric.__name__: round(
                    sum(metric(text, q.answers) for text, q in zip(texts, questions, strict=True)) / count, 3
                )
                for metric in (exact_match, f1, contained)
            },
        )
    print("gold paragraph cited", sum(gold) / count)
    print("quotes verbatim", sum(same for same, _ in quotes), "of", len(quotes))
    print("abstained", sum(reading.abstained for reading in readings) / count)
    tokens = {
        kind: sum(reading.tokens.get(kind, 0) for reading in readings) for kind in ("prompt", "completion")
    }
    stages = sorted({stage for reading in readings for stage in reading.timings_ms})
    spent = {stage: sum(reading.timings_ms[stage] for reading in readings) for stage in stages}
    print(
        "ms a question", {stage: round(total / count, 1) for stage, total in spent.items()}, "tokens", tokens
    )
    if tokens["completion"]:
        print(
            "prefill tokens/s", round(tokens["prompt"] / spent["prefill"] * 1000, 1),
            "decode tokens/s", round(tokens["completion"] / spent["decode"] * 1000, 1),
        )  # fmt: skip


def main() -> None:
    """Ask and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reader", required=True)
    parser.add_argument("--converted", default="build/converted")
    parser.add_argument("--encoder")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--removed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--abstain-below", type=float)
    parser.add_argument("--show", action="store_true", help="print every answer as a JSON line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    squad = Squad()
    questions = random.Random(options.seed).sample(squad.questions, options.questions)
    reader = open_reader(options)
    given = [squad.evidence(question, gold=True) for question in questions]
    readings = [
        reader.read(question.text, evidence) for question, evidence in zip(questions, given, strict=True)
    ]
    if options.show:
        for question, reading in zip(questions, readings, strict=True):
            said = [(claim.text, claim.supported, claim.reason) for claim in reading.claims]
            print(json.dumps([question.text, question.answers[0], said, round(reading.confidence, 2)]))
    report(questions, given, readings)
    removed = [
        reader.read(question.text, squad.evidence(question, gold=False))
        for question in questions[: options.removed]
    ]
    if removed:
        print("answered although removed", sum(not reading.abstained for reading in removed) / len(removed))


if __name__ == "__main__":
    main()
