"""What all sections of the reader's bench share: a model, and what it remembers of passages.

What a prompt is made of, and how its passages are remembered and placed, is said here alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from bench.reader_readings import WRITTEN, Read, SlotReading
from bench.squad13 import Question, Squad
from embedding.models import ModelStore
from memory.values import Evidence, PassageId
from reader.attention.function import run, use_slots, windows_of
from reader.attention.rotary import Rotary
from reader.compaction.attention_matching import match_attention
from reader.compaction.expected_attention import expect_attention
from reader.compaction.method import Method, compact
from reader.compaction.most_attended import keep_most_attended
from reader.compaction.reconstruction import keep_for_reconstruction
from reader.drafts import DraftSplitter
from reader.language_model import GUESSED_TOKENS, READ_AGAIN, Cut, LanguageModelWriter, Text, end_tokens
from reader.loading import load_language_model
from reader.passages import Memory, WholeMemory, best_bits, compress, read_alone, take_out
from reader.placing import Passage, Placed, lay_out
from reader.prompt import FIRST_NUMBER, Prompt, before_fence, build_prompt
from reader.routers.exact import exact
from reader.routing import Anchors, Router, Rule
from service.models import find_weights
from service.settings import Settings

MARK = "5eed1e55"
KEPT = 0.5
SPARE = WRITTEN + 1 + GUESSED_TOKENS
WHOLE = "whole"
METHODS: Mapping[str, Method] = {
    "attention matching": match_attention,
    "expected attention": expect_attention,
    "most attended": keep_most_attended,
    "reconstruction": keep_for_reconstruction,
}


@dataclass(frozen=True, slots=True)
class Made:
    """What is remembered of a passage, whole or by a method, and what that took."""

    memory: Memory
    tokens: int
    seconds: float


class Bench:
    """A model, passages by name, and what the model remembers of them."""

    def __init__(self, model: Any, tokenizer: Any, name: str, squad: Squad) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.writer = LanguageModelWriter(model, tokenizer, name=name, mark=MARK, most_prompt_tokens=1 << 20)
        self.shape, self.rotary = use_slots(model), Rotary(model)
        self.windows = windows_of(model)
        self.ends = end_tokens(model, tokenizer)
        self.squad = squad
        self.shown = {
            name: Evidence(PassageId(name), text, name.split(":")[0].replace("_", " "), is_whole=True)
            for name, text in squad.texts.items()
        }
        self.made: dict[tuple[str, str], Made] = {}
        self.openings: dict[tuple[int, ...], WholeMemory] = {}

    @cached_property
    def anchors(self) -> Anchors:
        """The layers that choose, as for answers."""
        return self.writer.get_anchors()

    def prompt(self, question: str, names: Sequence[str]) -> Prompt:
        """Return the prompt that a reader would make."""
        evidence = [self.shown[name] for name in names]
        return build_prompt(question, evidence, lambda: MARK, self.writer.reserved, mark=MARK)

    def cut(self, question: str, names: Sequence[str]) -> Cut:
        """Return its tokens."""
        return self.writer.cut(self.prompt(question, names))

    def open(self, cut: Cut) -> WholeMemory:
        """Return what is made of a prompt's beginning, read once."""
        key = tuple(cut.opening)
        if key not in self.openings:
            read = read_alone(self.model, self.shape, self.rotary, (), cut.opening)
            self.openings[key] = WholeMemory(*read)
        return self.openings[key]

    def remember(self, cut: Cut, names: Sequence[str], opening: Memory, how: str = WHOLE) -> list[Memory]:
        """Return memories of passages, each made once: whole, or compacted by a method."""
        self.make(cut, names, opening, [how])
        return [self.made[name, how].memory for name in names]

    def make(self, cut: Cut, names: Sequence[str], opening: Memory, ways: Sequence[str]) -> None:
        """Make memories of passages in several ways, where there are none; for all ways a text is read once.

        What it takes to read it is part of the time of the first way that is made.
        """
        before = Passage((), cut.opening, opening)
        for name, text in zip(names, cut.texts, strict=True):
            wanted = [how for how in ways if (name, how) not in self.made]
            if not wanted:
                continue
            started = time.perf_counter()
            whole = self._read_whole(before, text)
            for how in wanted:
                memory = self._make(before, text, whole, how)
                ended = time.perf_counter()
                self.made[name, how] = Made(memory, len(text.body), ended - started)
                started = ended

    def _read_whole(self, before: Passage, text: Text) -> WholeMemory:
        """Return a text's keys and values as they are; whatever its number is, it is read as the first."""
        placed = lay_out(self.shape, self.rotary, before, [], [*self.writer.ids(FIRST_NUMBER), *text.body])
        run(self.model, placed.tokens, [placed.segment], keep=1)
        return WholeMemory(*take_out(placed.slots, self.rotary, placed.segment.places[-len(text.body) :]))

    def _make(self, before: Passage, text: Text, whole: WholeMemory, how: str) -> Memory:
        """Return what the reader would."""
        kept = max(17, round(KEPT * len(text.body)))
        if how == WHOLE or kept >= len(text.body):
            return compress(whole.keys, whole.values, best_bits(self.shape.device))
        return compact(
            self.model,
            self.shape,
            self.rotary,
            before,
            self.writer.ids(FIRST_NUMBER),
            text.body,
            text.body,
            method=METHODS[how],
            kept=kept,
            whole=whole,
            bits=best_bits(self.shape.device),
        )

    def place(
        self,
        cut: Cut,
        memories: Sequence[Memory | None],
        opening: Memory,
        *,
        again: int = READ_AGAIN,
        more: Sequence[int] = (),
        spare: int = 0,
    ) -> Placed:
        """Return a reading with what is remembered in its place."""
        passages = [
            Passage(text.header, text.body, memory) for text, memory in zip(cut.texts, memories, strict=True)
        ]
        before = Passage((), cut.opening, opening)
        return lay_out(
            self.shape, self.rotary, before, passages, [*cut.rest, *more], again=again, spare=spare
        )

    def read(self, placed: Placed, router: Router | None = None) -> SlotReading:
        """Read what is new in its place; place it with room to go on (``SPARE``)."""
        return SlotReading(self.model, placed, router)

    def answer(self, placed: Placed, answer: Sequence[int], router: Router | None = None) -> Read:
        """Return the distributions over the answer's tokens, which stand at the end of what is read."""
        count = len(answer)
        logits = run(self.model, placed.tokens, [placed.segment], keep=count + 1, router=router)[:count]
        return Read(logits.float().log_softmax(-1), torch.tensor(list(answer)))

    def text(self, tokens: Sequence[int]) -> str:
        """Return what an answer says, without the numbers of passages that it names."""
        written = before_fence(self.tokenizer.decode(list(tokens), skip_special_tokens=True), MARK)
        drafts = DraftSplitter()
        return " ".join(draft.text for draft in (*drafts.feed(written), *drafts.finish()))


def open_bench(
    name: str, settings: Settings, squad: Squad | None = None, *, dtype: torch.dtype | None = None
) -> Bench:
    """Return a bench of a model of the store; ``dtype`` is computed in, ``None`` for that of readers."""
    path, digest = find_weights(ModelStore(settings.models_cache).get(name))
    model, tokenizer = load_language_model(path, digest=digest, converted=settings.models_cache / "converted")
    return Bench(model.to(dtype), tokenizer, name, squad or Squad())


def route(anchors: Anchors, share: float) -> Router:
    """Return a router for one reading, of the reader's own rule but for the share of blocks it may keep."""
    return Router(exact, anchors, Rule(share=share))


def questions(squad: Squad, count: int | None = None) -> list[Question]:
    """Return questions in one seeded order."""
    drawn = list(squad.questions)
    random.Random(5).shuffle(drawn)
    return drawn[:count]


def among(squad: Squad, question: Question, count: int) -> list[str]:
    """Return a question's paragraph among the nearest others, in a seeded order."""
    others = [name for name in squad.nearest(question.text, count) if name != question.gold][: count - 1]
    chosen = [question.gold, *others]
    random.Random(question.text).shuffle(chosen)
    return chosen


def long_prompt(bench: Bench, question: Question, tokens: int) -> tuple[Cut, list[str]]:
    """Return a prompt of about so many tokens, the question's paragraph in the midst of it.

    Longer prompts for the same question hold the paragraphs of shorter ones.
    """
    others = [name for name in bench.squad.texts if name != question.gold]
    random.Random(question.text).shuffle(others)
    low, high = 1, len(others)
    while low < high:  # the most paragraphs that do not go beyond
        middle = (low + high + 1) // 2
        count = len(bench.cut(question.text, [question.gold, *others[:middle]]).tokens())
        low, high = (middle, high) if count <= tokens else (low, middle - 1)
    chosen = others[:low]
    chosen.insert(len(chosen) // 2, question.gold)
    return bench.cut(question.text, chosen), chosen


def means(rows: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, Any]:
    """Return the columns' means by name."""
    return {name: round(sum(row[at] for row in rows) / len(rows), 4) for at, name in enumerate(names)}
