"""Questions with their passages among others, for the reader's ladder: paragraphs, multi-hop, chats.

The others are the nearest by BM25, so that there is something to mix up; all stand in a seeded order, unless
they are put as answers show them.
Questions of one paragraph are shown the same, so that it is read and remembered once for all of them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.reader_parts import among, questions
from bench.squad13 import DATA, Bm25, Question, Squad
from memory.values import Evidence, PassageId
from reader.ranking import rank_sentences

LONGEST = 4_000
"""Longer texts are left out, in characters, with the questions that need them: some chats fill a window."""

SEED = 5
TOGETHER = 4
"""So many questions of a paragraph are asked at most: nine of ten paragraphs of ``squad13`` have as many."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question, the names of the passages shown in their order, and the accepted answers.

    ``needed`` are the names of those that tell the answer.
    """

    question: str
    names: tuple[str, ...]
    answers: tuple[str, ...]
    needed: tuple[str, ...] = ()

    @property
    def place(self) -> int | None:
        """Where the one passage with the answer stands, from 1; ``None`` where several are needed."""
        return self.names.index(self.needed[0]) + 1 if len(self.needed) == 1 else None


def squad_cases(squad: Squad, count: int, passages: int, together: int = TOGETHER) -> list[Case]:
    """Return questions of ``squad13``, those of a paragraph one after another; no question is likelier drawn.

    All are put in one seeded order: paragraphs come as their first questions do, so that a paragraph's chance
    grows with its questions, and of each the first ``together`` are asked. They are shown their paragraph
    among the nearest to all of them.
    """
    by_paragraph: dict[str, list[Question]] = {}
    for question in questions(squad):
        by_paragraph.setdefault(question.gold, []).append(question)
    cases: list[Case] = []
    for group in by_paragraph.values():
        asked = group[:together]
        all_of_them = replace(asked[0], text=" ".join(question.text for question in asked))
        names = tuple(among(squad, all_of_them, passages))
        cases += [Case(question.text, names, question.answers, (question.gold,)) for question in asked]
        if len(cases) >= count:
            break
    return cases[:count]


def put_best_last(case: Case, shown: Mapping[str, Evidence]) -> Case:
    """Return the question with its passages as a reader shows them, by its ranking of their sentences."""
    ranked = rank_sentences(case.question, [shown[name] for name in case.names])
    found = [case.names[one.sentence.index] for one in ranked]
    return replace(case, names=tuple(dict.fromkeys([*found, *case.names]))[::-1])


def load_cases(
    name: str, count: int, passages: int, data: Path = DATA.parent
) -> tuple[Mapping[str, Evidence], list[Case]]:
    """Return a set's passages by name, and questions, each with all that it needs among the nearest others.

    Questions without an answer in the set are left out. Raises ``FileNotFoundError`` where the set is absent.
    """
    folder = data / name
    texts: dict[str, str] = {}
    for line in (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        if len(document["text"]) <= LONGEST:
            texts[document["id"]] = document["text"]
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    fit = [one for one in asked if one["relevant"] and one["answers"] and set(one["relevant"]) <= set(texts)]
    random.Random(SEED).shuffle(fit)
    ranking = Bm25(texts)
    cases = []
    for one in fit[:count]:
        needed = list(dict.fromkeys(one["relevant"]))
        others = [
            other for other in ranking.nearest(one["query"], passages + len(needed)) if other not in needed
        ]
        shown = [*needed, *others[: max(0, passages - len(needed))]]
        random.Random(one["query"]).shuffle(shown)
        names = tuple(f"{name} {each}" for each in shown)
        told_by = tuple(f"{name} {each}" for each in needed)
        cases.append(Case(one["query"], names, tuple(one["answers"]), told_by))
    return {f"{name} {each}": _show(f"{name} {each}", text) for each, text in texts.items()}, cases


def _show(name: str, text: str) -> Evidence:
    """Return a passage; a short first line that ends no sentence is its title."""
    title, _, rest = text.partition("\n")
    if not rest or len(title) > 120 or title.endswith("."):
        title, rest = "", text
    return Evidence(PassageId(name), rest, title, is_whole=True)
