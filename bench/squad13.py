"""The squad13 questions with evidence for a reader, and the usual answer metrics.

Evidence is the gold paragraph among the nearest others by BM25, or those others alone ("removed").
"""

from __future__ import annotations

import json
import math
import random
import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from memory.values import Evidence, PassageId
from reader.words import content_stems, words_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "squad13"


@dataclass(frozen=True, slots=True)
class Question:
    """One question, the id of its paragraph, its article and the accepted answers."""

    text: str
    gold: str
    article: str
    answers: tuple[str, ...]


class Bm25:
    """Ranks texts by the stems of a question's words (k1 1.2, b .75)."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._postings: dict[str, dict[str, int]] = {}
        self._lengths: dict[str, int] = {}
        for name, text in texts.items():
            counts = Counter(word.stem for word in words_of(text) if word.is_content)
            self._lengths[name] = sum(counts.values())
            for stem, count in counts.items():
                self._postings.setdefault(stem, {})[name] = count
        self._mean = sum(self._lengths.values()) / len(self._lengths)

    def nearest(self, question: str, limit: int) -> list[str]:
        """Return the names of the best texts."""
        scores: Counter[str] = Counter()
        for stem in sorted(content_stems(question)):
            holding = self._postings.get(stem, {})
            rarity = math.log(1 + (len(self._lengths) - len(holding) + 0.5) / (len(holding) + 0.5))
            for name, count in holding.items():
                norm = 1.2 * (0.25 + 0.75 * self._lengths[name] / self._mean)
                scores[name] += rarity * count * 2.2 / (count + norm)
        return [name for name, _ in scores.most_common(limit)]


class Squad:
    """Paragraphs and questions; paragraphs are ranked by BM25."""

    def __init__(self, folder: Path = DATA) -> None:
        self.texts: dict[str, str] = {}
        for line in (folder / "documents.jsonl").read_text().splitlines():
            document = json.loads(line)
            self.texts[document["id"]] = document["text"]
        self.questions = [
            Question(q["query"], q["relevant"][0], q["kind"], tuple(q["answers"]))
            for q in map(json.loads, (folder / "queries.jsonl").read_text().splitlines())
        ]
        self._ranking = Bm25(self.texts)

    def nearest(self, question: str, limit: int) -> list[str]:
        """Return the ids of the best paragraphs."""
        return self._ranking.nearest(question, limit)

    def evidence(self, question: Question, *, gold: bool, size: int = 5, seed: int = 0) -> list[Evidence]:
        """Return ``size`` paragraphs in random order, with the gold one or without it."""
        names = [name for name in self.nearest(question.text, size + 1) if name != question.gold]
        names = [question.gold, *names[: size - 1]] if gold else names[:size]
        random.Random(f"{seed} {question.text}").shuffle(names)
        return [
            Evidence(PassageId(name), self.texts[name], title=name.split(":")[0].replace("_", " "))
            for name in names
        ]


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces (as SQuAD's own script does)."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(answer: str, accepted: tuple[str, ...]) -> float:
    """Return 1 when the answer is one of those accepted."""
    return float(any(normalised(answer) == normalised(gold) for gold in accepted))


def contained(answer: str, accepted: tuple[str, ...]) -> float:
    """Return 1 when an accepted answer stands in the answer."""
    return float(any(normalised(gold) and normalised(gold) in normalised(answer) for gold in accepted))


def f1(answer: str, accepted: tuple[str, ...]) -> float:
    """Return the best overlap of words with an accepted answer."""
    best = 0.0
    mine = normalised(answer).split()
    for gold in accepted:
        theirs = normalised(gold).split()
        same = sum((Counter(mine) & Counter(theirs)).values())
        if same:
            best = max(best, 2 * same / (len(mine) + len(theirs)))
    return best
