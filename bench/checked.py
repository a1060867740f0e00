"""Are answers carried by what they cite, does Lethe hold back when it should? ``bench/results/checked.json``.

    .venv/bin/python -m bench.checked [--questions 300] [--vectors FOLDER]
    .venv/bin/python -m bench.checked --reader FOLDER_OR_GGUF --questions 60

Questions of the squad13 articles that ``bench.calibrate_abstention`` holds out, each asked of the evidence
that Lethe recalls among all paragraphs, then of the same without the gold paragraph. The picture beside the
figures shows risk against coverage. ALCE (Gao et al. 2023) has a model say whether what is cited carries
what is said; two judges stand in its place here. ``citations``: the set's own marks, so that a quote counts
when it is of the gold paragraph. ``carried``: the rules that the reader checks by, to show that they hold.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.calibrate_abstention import calibration_error, is_right, split_by_article
from bench.figures import Figures, describe_run
from bench.main import keep
from bench.read_squad13 import open_reader
from bench.recalled import RecalledSquad, RememberingEncoder, encoder_folder
from bench.squad13 import Question, Squad, contained
from memory.ports import Encoder, Reader
from memory.sentences import sentence_spans
from memory.values import Evidence, Reading
from reader.alignment import Alignment
from reader.check import check_claim
from reader.extractive import ExtractiveReader
from reader.names import names_in
from reader.numbers import quantities_in
from reader.statement_check import check_sentence
from reader.statements import statements_of
from reader.verbs import AUXILIARIES
from reader.words import words_of

RESULTS = Path(__file__).resolve().parent / "results" / "checked.json"
SEED = 11
REFUSED = "the model found no answer"

Check = Callable[[str, str, Sequence[Evidence]], bool]
"""Takes claim, question and evidence; says whether it lets the claim pass."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, what was shown, what was made of it; ``answers`` is false where the reader abstained."""

    question: Question
    evidence: list[Evidence]
    reading: Reading
    present: bool

    @property
    def right(self) -> bool:
        return self.present and is_right(self.question, self.reading, self.evidence)

    @property
    def answers(self) -> bool:
        return not self.reading.abstained


def ask(reader: Reader, recalled: RecalledSquad, questions: Sequence[Question]) -> list[Answered]:
    """Ask every question with its paragraph among the evidence, and without."""
    asked = []
    for question in questions:
        for gold in (True, False):
            evidence = recalled.evidence(question, gold=gold)
            asked.append(Answered(question, evidence, reader.read(question.text, evidence), gold))
    return asked


def citations(asked: Sequence[Answered]) -> Figures:
    """Return ALCE's figures over the answers whose paragraph was there.

    Recall: share of answers of which a quote from the gold paragraph holds an accepted answer. Precision:
    share of quotes that are of the gold paragraph. The best quote of each answer stands by itself, too.
    """
    answers = [one for one in asked if one.present and one.answers]
    recall, precision, first = [], [], []
    for one in answers:
        cited = [citation for claim in one.reading.claims for citation in claim.citations]
        gold = [one.evidence[citation.index].source_id == one.question.gold for citation in cited]
        holds = [
            is_gold and bool(contained(citation.quote, one.question.answers))
            for is_gold, citation in zip(gold, cited, strict=True)
        ]
        recall.append(float(any(holds)))
        precision.append(statistics.fmean(gold))
        first.append(float(gold[0]))
    return {
        "answers": len(answers),
        "citation_recall": _mean(recall),
        "citation_precision": _mean(precision),
        "first_citation_precision": _mean(first),
        "citations_per_answer": round(
            statistics.fmean(sum(len(c.citations) for c in one.reading.claims) for one in answers), 3
        ),
    }


def carried(asked: Sequence[Answered]) -> Figures:
    """Return ALCE's recall and precision over the claims of all answers, the reader's rules as the judge.

    Recall: share of claims that their quotes carry, read alone. Precision: share of quotes that carry their
    claim by themselves, or without which the others do not; none of a claim that falls counts.
    """
    recall, precision = [], []
    for one in asked:
        for claim in one.reading.claims:
            if not claim.supported:
                continue
            quotes = [replace(one.evidence[c.index], text=c.quote) for c in claim.citations]
            stands = _carry(one.question, claim.text, quotes)
            recall.append(float(stands))
            for quote in quotes:
                others = [other for other in quotes if other is not quote]
                is_precise = _carry(one.question, claim.text, [quote]) or not _carry(
                    one.question, claim.text, others
                )
                precision.append(float(stands and is_precise))
    return {"claims": len(recall), "recall": _mean(recall), "precision": _mean(precision)}


def _carry(question: Question, claim: str, quotes: Sequence[Evidence]) -> bool:
    return check_sentence(claim, question.text, quotes).claim.supported


def summary(section: Mapping[str, Any]) -> Figures:
    """Return the figures that a reader is judged by."""
    cited, claims, abstained = section["citations"], section["claims"], section["abstention"]
    return {
        "citation_recall": cited["citation_recall"],
        "citation_precision": cited["citation_precision"],
        "unsupported_rate_before": claims["unsupported_before"],
        "unsupported_rate": claims["unsupported_after"],
        "answered_without_evidence": abstained["answered_without_evidence"],
        "ece": abstained["ece"],
    }


def unsupported(asked: Sequence[Answered], free: Sequence[Answered]) -> Figures:
    """Return how many of the claims that were drafted, and of those that were let through, are not so.

    A claim is taken to be so when it shares an accepted answer and the paragraph was there. Of a reader
    that quotes, every claim is carried by its quote: drafted are what it would quote without a bound
    (``free``), and this says how many do not answer.
    """
    drafted = [(one, claim) for one in free for claim in one.reading.claims if claim.reason != REFUSED]
    passed = [(one, claim) for one in asked for claim in one.reading.claims if claim.supported]
    figures: Figures = {}
    for name, told in (("before", drafted), ("after", passed)):
        wrong = [not (one.present and _shares(claim.text, one.question.answers)) for one, claim in told]
        present = [is_wrong for is_wrong, (one, _) in zip(wrong, told, strict=True) if one.present]
        figures[f"claims_{name}"] = len(told)
        figures[f"unsupported_{name}"] = _mean(map(float, wrong))
        figures[f"unsupported_{name}_with_evidence"] = _mean(map(float, present))
    return figures


def abstention(asked: Sequence[Answered], free: Sequence[Answered]) -> Figures:
    """Return how often was answered, and risk against coverage as the least confidence rises.

    ``free`` are the same questions put to the reader without a bound, so that the curve covers all.
    """
    chance = np.array([one.reading.confidence for one in free])
    right = np.array([float(one.right) for one in free])
    order = np.argsort(-chance, kind="stable")
    risks = 1 - np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    coverage = np.arange(1, len(order) + 1) / len(order)
    answered = [one for one in asked if one.answers]
    own = np.array([one.reading.confidence for one in answered])
    marks = np.array([float(one.right) for one in answered])
    present = np.array([one.present for one in answered])
    shown = [max(0, round(share * len(order)) - 1) for share in np.linspace(0.05, 1, 20)]
    return {
        "answered_with_evidence": _mean(float(one.answers) for one in asked if one.present),
        "answered_without_evidence": _mean(float(one.answers) for one in asked if not one.present),
        "right_of_answered": round(float(marks.mean()), 4),
        "right_of_answered_with_evidence": round(float(marks[present].mean()), 4),
        "ece": round(calibration_error(own, marks), 4),
        "ece_with_evidence": round(calibration_error(own[present], marks[present]), 4),
        "area_under_risk_coverage": round(float(risks.mean()), 4),
        "least_area_possible": round(_least_area(right), 4),
        "operating_point": {
            "coverage": _mean(float(one.answers) for one in asked),
            "risk": round(1 - float(marks.mean()), 4),
        },
        "risk_coverage": [[round(float(coverage[at]), 3), round(float(risks[at]), 4)] for at in shown],
    }


def checks(squad: Squad, recalled: RecalledSquad, questions: Sequence[Question], encoder: Encoder) -> Figures:
    """Return what each way of checking lets pass: true sentences of the gold paragraph, and altered ones."""
    alignment = Alignment(encoder)
    ways: dict[str, Check] = {
        "whole": lambda claim, asked, evidence: check_claim(claim, asked, evidence).supported,
        "statements": lambda claim, asked, evidence: check_sentence(claim, asked, evidence).claim.supported,
        "statements_alignment": lambda claim, asked, evidence: (
            check_sentence(claim, asked, evidence, entailment=alignment).claim.supported
        ),
    }
    passed: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    rng = random.Random(SEED)
    for question in questions:
        evidence = recalled.evidence(question, gold=True)
        for kind, claim in _claims(squad, question, rng):
            for way, check in ways.items():
                passed[way].setdefault(kind, []).append(float(check(claim, question.text, evidence)))
    return {
        way: {kind: {"passed": _mean(marks), "claims": len(marks)} for kind, marks in sorted(kinds.items())}
        for way, kinds in passed.items()
    }


def _claims(squad: Squad, question: Question, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (kind, claim) made of the sentence that holds the answer, and of one with another statement."""
    text = squad.texts[question.gold]
    sentences = [text[start:end] for start, end in sentence_spans(text)]
    held = next((sentence for sentence in sentences if contained(sentence, question.answers)), None)
    if held is None:
        return
    yield "true", held
    other = squad.texts[rng.choice(sorted(squad.texts))]
    for kind, altered in (
        ("number", _other_number(held, rng)),
        ("name", _other_name(held, other, rng)),
        ("negated", _negated(held)),
    ):
        if altered is not None:
            yield kind, altered
    statements = statements_of(held)
    if len(statements) > 1:
        yield "true, several statements", held
        for kind, altered in (
            ("a false item in a list", _false_item(held, other)),
            ("crossed", _crossed(held)),
        ):
            if altered is not None:
                yield kind, altered
    foreign = next(
        (s for s in (other[a:b] for a, b in sentence_spans(other)) if 5 <= len(s.split()) <= 25), None
    )
    if foreign is not None and other != text:
        yield "joined with a foreign sentence", f"{held.rstrip('.')}; {foreign[0].lower()}{foreign[1:]}"


def _other_number(sentence: str, rng: random.Random) -> str | None:
    digits = list(re.finditer(r"\b\d+\b", sentence))
    if not digits or not quantities_in(sentence):
        return None
    chosen = rng.choice(digits)
    return sentence[: chosen.start()] + str(int(chosen.group()) + 3) + sentence[chosen.end() :]


def _other_name(sentence: str, other: str, rng: random.Random) -> str | None:
    mine = [name for name in names_in(sentence) if name.start > 0]
    known = {word.stem for word in words_of(sentence)}
    theirs = [name.text for name in names_in(other) if name.stem not in known and len(name.text) > 3]
    if not mine or not theirs:
        return None
    name = rng.choice(mine)
    return sentence[: name.start] + rng.choice(theirs) + sentence[name.end :]


def _negated(sentence: str) -> str | None:
    for word in words_of(sentence):
        if word.text in AUXILIARIES and word.text in ("is", "was", "are", "were", "can", "will"):
            return f"{sentence[: word.end]} not{sentence[word.end :]}"
    return None


def _false_item(sentence: str, other: str) -> str | None:
    """Return the sentence with one of its last statement's own words exchanged for one of another text."""
    own = statements_of(sentence)[-1].own
    known = {word.stem for word in words_of(sentence)}
    things = [word.text for word in words_of(other) if word.is_content and word.text.islower()]
    fresh = [word for word in things if len(word) > 4 and not {w.stem for w in words_of(word)} & known]
    mine = [
        word for word in words_of(sentence) if word.stem in own and word.text.islower() and len(word.text) > 4
    ]
    if not fresh or not mine or len(own) > _ITEM_STEMS:
        return None
    last = mine[-1]
    return sentence[: last.start] + fresh[0] + sentence[last.end :]


def _crossed(sentence: str) -> str | None:
    """Return a sentence that says of the first statement what the second one says: their names exchanged."""
    first, *rest = statements_of(sentence)
    second = rest[-1]
    mine = [name for name in names_in(first.text) if name.stem in first.own - second.own]
    theirs = [name for name in names_in(second.text) if name.stem in second.own - first.own]
    if not mine or not theirs or len(names_in(first.text)) < 2:
        return None
    name = mine[-1]
    return first.text[: name.start] + theirs[-1].text + first.text[name.end :]


_ITEM_STEMS = 2
"""A statement that has so few stems of its own is an item of a list."""


def _shares(text: str, accepted: tuple[str, ...]) -> bool:
    return bool(contained(text, accepted)) or any(contained(answer, (text,)) for answer in accepted)


def _least_area(right: Any) -> float:
    """Return the area of a confidence that puts every right answer before every wrong one."""
    best = np.sort(right)[::-1]
    return float((1 - np.cumsum(best) / np.arange(1, len(best) + 1)).mean())


def _mean(values: Any) -> float:
    listed = list(values)
    return round(statistics.fmean(listed), 4) if listed else 0.0


def draw(sections: Mapping[str, Any], path: Path) -> None:
    """Write risk against coverage; say so where matplotlib, which comes with the peers, is absent."""
    if find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed (bench/requirements-peers.txt)", file=sys.stderr)
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2))
    for name, section in sections.items():
        told = section["abstention"]
        coverage, risk = zip(*told["risk_coverage"], strict=True)
        (line,) = axes.plot(coverage, risk, marker="o", ms=3, label=name)
        point = told["operating_point"]
        axes.plot([point["coverage"]], [point["risk"]], marker="*", ms=13, color=line.get_color())
    axes.axvline(0.5, color="#999", lw=0.8, ls="--")
    axes.set(
        xlabel="coverage: share of questions answered; half of them lack the paragraph",
        ylabel="risk: share of answers that are not right",
        title="squad13, articles held out; stars: where the readers stand",
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure one reader, keep the figures beside those of the others, and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", help="folder; default: a service's")
    parser.add_argument("--reader", default="extractive")
    parser.add_argument("--name", help="what the figures are kept under; default: the reader's own name")
    parser.add_argument("--converted", default="build/converted")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--vectors", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.encoder = options.encoder or encoder_folder()
    torch.set_num_threads(1)
    squad = Squad()
    train, held = split_by_article(squad, 900, 450)
    questions = held[: options.questions]
    encoder = RememberingEncoder(options.encoder)
    recalled = RecalledSquad(squad, [*train, *held], encoder, vectors=options.vectors)
    section: dict[str, Any] = {"run": describe_run(), "questions": len(questions)}
    began = time.process_time()
    if options.reader == "extractive":
        reader: Reader = ExtractiveReader(encoder)
        free: Reader = ExtractiveReader(encoder, abstain_below=0.0)
        asked = ask(reader, recalled, questions)
        unbound = [
            one if one.answers else replace(one, reading=free.read(one.question.text, one.evidence))
            for one in asked
        ]
    else:
        options.abstain_below = None
        reader = open_reader(options)
        asked = unbound = ask(reader, recalled, questions)
    section["cpu_seconds_per_question"] = round((time.process_time() - began) / len(questions), 2)
    if options.reader == "extractive":
        section["checks"] = checks(squad, recalled, questions, encoder)
    recalled.close()
    section |= {
        "citations": citations(asked),
        "carried": carried(asked),
        "claims": unsupported(asked, unbound),
        "abstention": abstention(asked, unbound),
    }
    section["summary"] = summary(section)
    keep(options.results, options.name or reader.name, section)
    results = json.loads(options.results.read_text(encoding="utf-8"))
    draw(
        {name: told for name, told in results.items() if "abstention" in told},
        options.results.with_suffix(".png"),
    )


if __name__ == "__main__":
    main()
