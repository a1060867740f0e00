"""A memory of many passages: texts of all sets, needles among them, their keys and values in files.

The texts stand in one order, shuffled once and for all, so that a smaller memory is the beginning of a larger
one. In some documents stands a sentence that was made up; what it says is asked for later. Files are plain,
not sealed as a shelf's are: these texts are public.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, takewhile
from pathlib import Path

from rich.progress import Progress

from bench.quality import as_content
from bench.reader_parts import MARK, Bench
from bench.squad13 import Squad
from bench.texts import read_documents
from memory.values import Attributes, Content, Evidence, PassageId
from reader.attention.function import run
from reader.language_model import Cut
from reader.passages import PassageMemory, compress, from_bytes, take_out
from reader.placing import Passage, lay_out
from reader.prompt import build_prompt
from sources.parse import SourceParser

PLANTED_EVERY = 12
"""A needle stands in one of so many documents."""

AT_ONCE = 4
"""So many passages are read in one pass of the model."""

_COLOURS = ("amber", "crimson", "indigo", "ivory", "jade", "ochre", "scarlet", "teal", "umber", "violet")
_THINGS = ("archive", "boathouse", "cellar", "granary", "lighthouse", "observatory", "pantry", "quarry")
_TOWNS = ("Abermoor", "Brackwell", "Corrinth", "Dunsfeld", "Eastmere", "Falkenau", "Gillnock", "Harrowby")


@dataclass(frozen=True, slots=True)
class Needle:
    """A question, its answer, the document that tells it, and words that stand in the passage that does."""

    question: str
    answers: tuple[str, ...]
    document: str
    told: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A passage of the memory."""

    document: str
    title: str | None
    text: str

    @property
    def evidence(self) -> Evidence:
        return Evidence(PassageId(self.document), self.text, self.title, is_whole=True)


@dataclass(frozen=True)
class Corpus:
    """Documents, their passages and how many tokens each has, and the needles that were planted."""

    documents: dict[str, Content]
    passages: list[Remembered]
    lengths: list[int]
    planted: list[Needle]

    @cached_property
    def squad(self) -> list[Needle]:
        """Return questions of squad13 whose paragraphs are in the memory, in a seeded order."""
        found = [
            Needle(question.text, question.answers, f"squad13/{question.gold}", question.answers[0])
            for question in Squad().questions
            if f"squad13/{question.gold}" in self.documents
        ]
        random.Random(18).shuffle(found)
        return found

    def holding(self, needle: Needle) -> set[int]:
        """Return the numbers of the passages that tell a needle's answer."""
        return {
            number
            for number, passage in enumerate(self.passages)
            if passage.document == needle.document and needle.told in passage.text
        }

    def first(self, tokens: int) -> Corpus:
        """Return the first documents that hold at least so many tokens."""
        held, size = 0, 0
        documents: dict[str, Content] = {}
        for name, own in groupby(self.passages, key=lambda passage: passage.document):
            if size >= tokens:
                break
            count = len(list(own))
            size += sum(self.lengths[held : held + count])
            held += count
            documents[name] = self.documents[name]
        planted = [needle for needle in self.planted if needle.document in documents]
        return Corpus(documents, self.passages[:held], self.lengths[:held], planted)


def read_corpus(bench: Bench, tokens: int) -> Corpus:
    """Return documents that hold at least so many tokens, or all there are."""
    corpus = Corpus({}, [], [], [])
    parser, drawn = SourceParser(), random.Random(17)
    names = [f"{c} {t} of {w}" for w in _TOWNS for t in _THINGS for c in _COLOURS]
    drawn.shuffle(names)
    size = 0
    for number, document in enumerate(read_documents()):
        name, text = str(document["external_id"]), document["text"]
        if number % PLANTED_EVERY == 0 and not name.startswith("lihua/"):
            where, code = names.pop(), str(drawn.randrange(10**5, 10**6))
            told = f"The keeper's number of the {where} is {code}."
            text = _plant(text, told)
            question = f"What is the keeper's number of the {where}?"
            corpus.planted.append(Needle(question, (code,), name, told))
        content = corpus.documents[name] = _content(name, text)
        parsed = parser.parse(content)
        for passage in parsed.passages:
            body = parsed.text[passage.start : passage.end]
            corpus.passages.append(Remembered(name, content.attributes.title, body))
            corpus.lengths.append(len(bench.writer.ids(body)))
            size += corpus.lengths[-1]
        if size >= tokens:
            break
    parser.close()
    return corpus


class Files:
    """Keys and values of a corpus' passages, a file each; made when they are missing."""

    def __init__(self, bench: Bench, corpus: Corpus, folder: Path) -> None:
        self.bench, self.corpus = bench, corpus
        opening = bench.cut("", ()).opening
        self._before = Passage((), opening, bench.open(Cut(opening, (), ())))
        made_by = f"{bench.writer.name} {bench.shape.dtype} {list(opening)}"
        self._paths = [
            folder / f"{hashlib.sha256(f'{made_by} {one.title} {one.text}'.encode()).hexdigest()[:40]}.kv"
            for one in corpus.passages
        ]
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def opening(self) -> Passage:
        """What all readings begin with."""
        return self._before

    def load(self, number: int) -> PassageMemory:
        """Return a passage's memory from its file."""
        return from_bytes(self._paths[number].read_bytes(), self.bench.shape.device)

    def size(self, numbers: Iterable[int]) -> int:
        """Return how many bytes the files of passages hold."""
        return sum(self._paths[number].stat().st_size for number in numbers)

    def count(self) -> int:
        """Return how many tokens the first passages hold, up to one whose file is missing."""
        there = takewhile(lambda pair: pair[0].exists(), zip(self._paths, self.corpus.lengths, strict=True))
        return sum(length for _, length in there)

    def build(self, progress: Progress) -> None:
        """Make what is missing; what is there stays, so this may be stopped and begun again."""
        task = progress.add_task("memory", total=sum(self.corpus.lengths))
        missing = [number for number, path in enumerate(self._paths) if not path.exists()]
        progress.advance(task, sum(self.corpus.lengths) - sum(self.corpus.lengths[at] for at in missing))
        for at in range(0, len(missing), AT_ONCE):
            numbers = missing[at : at + AT_ONCE]
            for number, memory in zip(numbers, self._remember(numbers), strict=True):
                half = self._paths[number].with_suffix(".half")
                half.write_bytes(memory.to_bytes())
                half.rename(self._paths[number])
                progress.advance(task, self.corpus.lengths[number])
        progress.remove_task(task)

    def _remember(self, numbers: Sequence[int]) -> Iterator[PassageMemory]:
        """Read passages behind the opening, all in one pass, each in slots of its own."""
        bench, opening = self.bench, self._before
        tokens: list[int] = []
        laid, segments = [], []
        for number in numbers:
            text = cut_passages(bench, "", [self.corpus.passages[number]]).texts[0]
            placed = lay_out(bench.shape, bench.rotary, opening, [], [*text.header, *text.body])
            laid.append((placed, len(text.body)))
            segments.append(placed.segment.moved(len(tokens)))
            tokens += placed.tokens
        run(bench.model, tokens, segments, keep=1)
        for placed, length in laid:
            yield compress(*take_out(placed.slots, bench.rotary, placed.segment.places[-length:]))


def cut_passages(bench: Bench, question: str, passages: Sequence[Remembered]) -> Cut:
    """Return the tokens of the prompt that a reader would make of passages."""
    evidence = [passage.evidence for passage in passages]
    return bench.writer.cut(build_prompt(question, evidence, lambda: MARK, bench.writer.reserved, mark=MARK))


def _plant(text: str, told: str) -> str:
    """Put a sentence behind one in the midst of a text, or at its end."""
    ends = [found.end() for found in re.finditer(r"[.!?] ", text)]
    at = min(ends, key=lambda end: abs(end - len(text) // 2), default=len(text))
    return f"{text[:at].rstrip()} {told} {text[at:]}".rstrip()


def _content(name: str, text: str) -> Content:
    kind, _, document = name.partition("/")
    if kind != "squad13":
        return as_content(kind, document, text)
    title = document.rpartition(":")[0].replace("_", " ")
    return Content("document", "text/plain", text.encode(), Attributes(title=title, external_id=document))
