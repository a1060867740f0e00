"""A memory of many passages: texts of all sets, needles among them, what is kept of them in files.

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
from itertools import groupby
from pathlib import Path

from rich.progress import Progress
from safetensors.torch import load_file, save

from bench.quality import as_content
from bench.reader_parts import MARK, Bench
from bench.squad13 import Squad
from bench.texts import read_documents
from memory.values import Attributes, Content, Evidence, PassageId
from reader.attention.function import run
from reader.beyond import Summary, lay_out_all, summarise_unread
from reader.language_model import Cut
from reader.passages import PassageMemory, compress, from_bytes, take_out
from reader.placing import Passage
from reader.prompt import FIRST_NUMBER, build_prompt
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
    """What is kept of a corpus' passages: summaries, a file each, and keys and values of those ever chosen.

    ``build`` makes summaries, for which a passage is read up to ``layer``; keys and values are made when a
    passage is first loaded, as those of a service are made when it is first read.
    """

    def __init__(self, bench: Bench, corpus: Corpus, folder: Path, layer: int) -> None:
        self.bench, self.corpus, self.layer = bench, corpus, layer
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

    def make(self, numbers: Iterable[int]) -> None:
        """Read those passages whole that were not read before."""
        bench = self.bench
        for some in _cut([number for number in numbers if not self._paths[number].exists()]):
            tokens, laid = lay_out_all(
                bench.shape, bench.rotary, self._before, self._header, self._texts(some)
            )
            run(bench.model, tokens, [one.segment for one in laid], keep=1)
            for number, placed, text in zip(some, laid, self._texts(some), strict=True):
                places = placed.segment.places[-len(text) :]
                memory = compress(*take_out(placed.slots, bench.rotary, places))
                _write(self._paths[number], memory.to_bytes())

    def load(self, number: int) -> PassageMemory:
        """Return a passage's memory from its file."""
        return from_bytes(self._paths[number].read_bytes(), self.bench.shape.device)

    def size(self, numbers: Iterable[int]) -> int:
        """Return how many bytes the files of passages that were read whole hold."""
        return sum(path.stat().st_size for path in (self._paths[at] for at in numbers) if path.exists())

    def summary(self, number: int) -> Summary:
        """Return a passage's keys at the layer that is looked at, from their file."""
        parts = load_file(self._summary_path(number))
        return Summary(parts["keys"], parts["low"], parts["step"])

    def build(self, progress: Progress) -> None:
        """Make summaries that are missing; what is there stays: this may be stopped and begun again."""
        bench, lengths = self.bench, self.corpus.lengths
        task = progress.add_task("memory", total=sum(lengths))
        missing = [at for at in range(len(lengths)) if not self._summary_path(at).exists()]
        progress.advance(task, sum(lengths) - sum(lengths[at] for at in missing))
        for numbers in _cut(missing):
            texts = self._texts(numbers)
            found = summarise_unread(
                bench.model, bench.shape, bench.rotary, self._before, self._header, texts, self.layer
            )
            for number, one in zip(numbers, found, strict=True):
                parts = {"keys": one.keys, "low": one.low, "step": one.step}
                _write(self._summary_path(number), save(parts))
                progress.advance(task, lengths[number])
        progress.remove_task(task)

    def _summary_path(self, number: int) -> Path:
        return self._paths[number].with_suffix(f".{self.layer}")

    def _texts(self, numbers: Sequence[int]) -> list[Sequence[int]]:
        """Return the tokens of passages with their fences."""
        return [cut_passages(self.bench, "", [self.corpus.passages[at]]).texts[0].body for at in numbers]

    @cached_property
    def _header(self) -> Sequence[int]:
        return self.bench.writer.ids(FIRST_NUMBER)


def _cut(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[at : at + AT_ONCE] for at in range(0, len(numbers), AT_ONCE))


def _write(path: Path, payload: bytes) -> None:
    half = path.with_name(f"{path.name}.half")
    half.write_bytes(payload)
    half.rename(path)


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
