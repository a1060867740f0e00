"""Write with a causal language model of this process.

It decodes greedily over keys and values in slots (``reader.attention``), in passes that it shares with other
readings (``reader.batching``), and guesses ahead (``reader.guessing``).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from memory.errors import UnavailableError
from memory.ledger import Recipe
from memory.ports import Shelf
from memory.values import PassageId
from reader.anchor_files import keep_anchors
from reader.anchor_text import iter_anchor_prompts
from reader.anchors import find_anchors
from reader.attention.function import Attends, use_slots, windows_of
from reader.attention.parallel import Parallel
from reader.attention.rotary import Rotary
from reader.attention.slots import Segment
from reader.batching import PASS_TOKENS, Batch
from reader.blending import blend
from reader.compaction.attention_matching import match_attention
from reader.compaction.method import compact, count_kept
from reader.draft import DraftModel
from reader.guessing import GUESSED_TOKENS, Guess, either
from reader.lookup import look_up
from reader.passages import FORMATS, PassageMemory, WholeMemory, best_bits, compress, from_bytes, take_out
from reader.places import Places
from reader.placing import Passage, Placed, lay_out
from reader.prompt import FIRST_NUMBER, Prompt, build_prompt, draw_mark
from reader.routers.exact import exact
from reader.routing import Anchors, Router, Rule
from reader.writing import Spent

MOST_READINGS = 8
"""So many answers are written at once; each holds keys and values of all its prompt."""

MOST_WAITING = 24
"""So many wait for a place, each with its thread."""

READ_AGAIN = 16
"""So many first tokens of a passage's fence and text are read again where it stands.

On 12 squad13 questions, their paragraph among the three nearest others, the 0.5B model's distributions over
the answer's tokens were .37 nats from those of reading all at once without, .36 with 8, .32 with 16, .26 with
24, .27 with 32, .22 with 48; the right answer's tokens cost 1.14 nats read at once, 1.24 with 16 and 1.22
with 48. Each 16 cost as many tokens of a paragraph's 190.
"""

_SAME_DAY = "{% macro strftime_now(form) %}01 Jan 2026{% endmacro %}"
"""Templates that tell the date tell this: with another each day, what is remembered would last a day."""

_READING = 2
"""Raised where the same model makes other bits of a passage: sums are rounded in another order, say."""

_OPENINGS = 4
"""So many beginnings of prompts are kept: this process's own, that of memories, and a spare or two."""


@dataclass(frozen=True, slots=True)
class Text:
    """A passage's tokens: its number, its text between fences; and what passage it is the whole text of."""

    header: Sequence[int]
    body: Sequence[int]
    of: PassageId | None


@dataclass(frozen=True, slots=True)
class Cut:
    """A prompt's tokens: what all prompts of its mark begin with, passages, and what follows them."""

    opening: Sequence[int]
    texts: Sequence[Text]
    rest: Sequence[int]

    def tokens(self) -> list[int]:
        """Return all of them."""
        between = [token for text in self.texts for token in (*text.header, *text.body)]
        return [*self.opening, *between, *self.rest]


class LanguageModelWriter:
    """Implements ``reader.writing.Writer`` over a transformers causal model and its tokenizer.

    What prompts begin with is read once, and a passage's text once for all questions where a shelf keeps it.
    Several threads may write at once: their steps share passes of the model, fairly between those who ask
    (``memory.asking``), and a slow taker of a stream blocks nobody. So many write, so many wait, and the rest
    is refused.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        digest: str = "",
        mark: str | None = None,
        most_prompt_tokens: int = 3072,
        most_new_tokens: int = 128,
        routed: bool = False,
        anchors_folder: Path | None = None,
        whole: int = 0,
        kept: float = 1.0,
        blended: float = 0.0,
        temperature: float = 1.0,
        scale: float = 1.0,
        places: Places | None = None,
        pass_tokens: int = PASS_TOKENS,
        draft: DraftModel | None = None,
        bits: torch.dtype | None = None,
    ) -> None:
        """``digest`` names the weights and ``mark`` what fences passages, drawn if it is ``None``: what is
        kept of passages is of use to these alone. ``routed``: of long readings only those blocks are looked
        at that draw attention; which layers choose is kept in ``anchors_folder``, or found here, in the time
        of reading some 2,400 tokens. ``draft`` guesses where the prompt has no words to look up;
        ``InvalidInputError`` when its tokens are not this model's. ``places`` may be those of another writer
        too: then so many write, and so many wait, with either.

        The last passages, as many as ``whole`` says, are read anew where they stand, and only the others
        remembered. Of a passage's tokens each head keeps a share ``kept``; all where layers have sliding
        windows. Of what is remembered a share ``blended`` is read again where it stands
        (``reader.blending``), and it is looked at with a ``temperature`` and ``scale``
        (``reader.attention.parallel``). Raises ``ValueError`` for what excludes each other: blended and kept
        in part, routed and looked at with either.
        ``bits``, of ``reader.passages.FORMATS``: what keys and values are kept in; ``None``: the device's.
        """
        if blended and kept < 1.0:
            raise ValueError("a compacted passage lacks tokens that might be read again")
        if routed and (temperature, scale) != (1.0, 1.0):
            raise ValueError("what is routed is looked at as it is")
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._digest = digest
        context = int(model.config.max_position_embeddings)
        self._most_new_tokens = min(most_new_tokens, context // 2)
        self._most_prompt_tokens = min(most_prompt_tokens, context - self._most_new_tokens)
        self._ends = end_tokens(model, tokenizer)
        self._reserved = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()})
        if draft is not None:
            draft.check_tokens(tokenizer)
        self._draft = draft
        self._places = places or Places(MOST_READINGS, waiting=MOST_WAITING)
        self._shape = use_slots(model)
        self._rotary = Rotary(model)
        self._numeric_class = f"{_kind_of(self._shape.device)} {self._shape.dtype}"
        router: Attends = Parallel(temperature=temperature, scale=scale)
        if routed:
            router = Router(exact, self.get_anchors(anchors_folder), Rule())
        self._batch = Batch(model, most_tokens=pass_tokens, router=router)
        self._openings: OrderedDict[tuple[int, ...], WholeMemory] = OrderedDict()
        self._guard = threading.Lock()
        self._compacting = threading.Lock()
        self._mark = mark or draw_mark()
        self._opening = self.cut(build_prompt("", (), draw_mark, self._reserved, mark=self._mark)).opening
        has_windows = any(window is not None for window in windows_of(model))
        self._kept = 1.0 if has_windows else kept
        self._whole = whole
        self._blended = blended
        self._bits = bits or best_bits(self._shape.device)
        self._recipe = Recipe(
            "key/value memory",
            FORMATS[self._bits],
            {
                "model": digest,
                "numeric class": self._numeric_class,
                "reading": _READING,
                "opening": _digest_of(self._opening),
                "kept": "all" if self._kept == 1.0 else f"{self._kept} by attention matching, solved",
            },
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def mark(self) -> str:
        """One mark for all prompts: what they begin with is read once, and memories hold it."""
        return self._mark

    @property
    def recipe(self) -> Recipe:
        """What memories of passages are made by."""
        return self._recipe

    @property
    def most_prompt_tokens(self) -> int:
        """The end of a longer prompt is read."""
        return self._most_prompt_tokens

    @property
    def reserved(self) -> Sequence[str]:
        """The tokenizer's special and added tokens."""
        return self._reserved

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens the prompt has, those of the chat template among them."""
        return len(self.cut(prompt).tokens())

    def place(self) -> AbstractContextManager[None]:
        """Hold one of the places of those who write, for as many texts as one likes, one after another.

        Raises ``BusyError`` when too many wait for one, ``LeftError`` when who asked is no longer there.
        """
        return self._places.take()

    def iter_text(
        self, prompt: Prompt, spent: Spent, shelf: Shelf | None = None
    ) -> Generator[str, None, None]:
        """Yield all the text written so far after each step of the model.

        To be called while a ``place`` is held. Whole passages are taken from the shelf, or read once and put
        there. Raises ``UnavailableError`` when the model cannot run (out of memory), and ``LeftError`` when
        who asked is no longer there.
        """
        cut = self.cut(prompt)
        if len(cut.tokens()) > self._most_prompt_tokens:
            cut = Cut((), (), cut.tokens()[-self._most_prompt_tokens :])
        tokens: list[int] = []
        for new in self._iter_tokens(cut, spent, shelf):
            tokens += new
            yield self._tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")

    def cut(self, prompt: Prompt) -> Cut:
        """Return a prompt's tokens, in the parts that are read and remembered each by itself."""
        before, after = self._frame(prompt)
        texts = [Text(self.ids(one.number), self.ids(one.text), one.of) for one in prompt.passages]
        return Cut(self.ids(before, first=True), texts, self.ids(prompt.ask + after))

    def _frame(self, prompt: Prompt) -> tuple[str, str]:
        """Return what the chat template puts before and after what the last message says."""
        stand_in = 4 * prompt.mark  # no text holds the mark
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        messages[-1]["content"] = stand_in
        if self._tokenizer.chat_template is None:
            whole = "\n\n".join(message["content"] for message in messages) + "\n\n"
        else:
            template = _SAME_DAY + self._tokenizer.get_chat_template()
            whole = self._tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        before, _, after = whole.rpartition(stand_in)
        return before, after

    def ids(self, text: str, *, first: bool = False) -> list[int]:
        """Return a text's tokens, with those that a text begins with where no template has put them there."""
        special = first and self._tokenizer.chat_template is None
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def get_anchors(self, folder: Path | None = None) -> Anchors:
        """Return the layers that choose where readings are routed, found on a text of this package.

        As many of its passages are read as the model takes. What was found is kept in ``folder`` and taken
        from there. Raises as ``weigh`` does.
        """
        for prompt in iter_anchor_prompts(self._reserved):
            cut = self.cut(prompt)
            if len(cut.tokens()) <= self._most_prompt_tokens:
                break
        else:
            return Anchors(())
        passages = [Passage(text.header, text.body, None) for text in cut.texts]

        def find() -> Anchors:
            with _running():
                before = Passage((), cut.opening, None)
                return find_anchors(
                    self._model, lay_out(self._shape, self._rotary, before, passages, cut.rest)
                )

        read = {"numeric class": self._numeric_class, "text": _digest_of(cut.tokens())}
        return keep_anchors(folder, self._digest, read, find)

    def weigh(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the logits of the token after ``tokens``, shape (words,). Raises as ``iter_text`` does."""
        placed = lay_out(self._shape, self._rotary, Passage((), (), None), [], tokens)
        return self._batch.run(placed.tokens, placed.segment, 1)[-1]

    def _read_opening(self, tokens: Sequence[int]) -> WholeMemory | None:
        """Return what is made of a prompt's beginning; it is read when it is not one of the last few."""
        if not tokens:
            return None
        key = tuple(tokens)
        with self._guard:
            known = self._openings.get(key)
        if known is None:
            known = WholeMemory(*self._read(Passage((), tokens, None), (), ()))
        with self._guard:
            self._openings[key] = known
            self._openings.move_to_end(key)
            while len(self._openings) > _OPENINGS:
                self._openings.popitem(last=False)
        return known

    def _read(
        self, opening: Passage, header: Sequence[int], body: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys, before they are turned, and values of the last part that is not empty."""
        with _running():
            placed = lay_out(self._shape, self._rotary, opening, [], [*header, *body])
        # What is remembered is the same bits whatever else goes on.
        self._batch.run(placed.tokens, placed.segment, 1, alone=True)
        count = len(body) or len(opening.body)
        return take_out(placed.slots, self._rotary, placed.segment.places[-count:])

    def _recall(self, texts: Sequence[Text], shelf: Shelf) -> dict[PassageId, PassageMemory]:
        """Return what is remembered of whole passages, reading those that are not on the shelf."""
        wanted = {text.of: text for text in texts if text.of is not None}
        held = shelf.find(self._recipe, list(wanted), partial(from_bytes, device=self._shape.device))
        found: dict[PassageId, PassageMemory] = {}
        for passage, text in wanted.items():
            memory = held.get(passage)
            if memory is None or memory.length != len(text.body):
                behind = Passage((), self._opening, self._read_opening(self._opening))
                memory = self._remember(behind, self.ids(FIRST_NUMBER), text.body)
                shelf.keep(self._recipe, passage, memory.to_bytes())
            found[passage] = memory
        return found

    def _remember(self, behind: Passage, header: Sequence[int], body: Sequence[int]) -> PassageMemory:
        """Return what is kept of a passage's text, read behind an opening and a header."""
        kept = count_kept(len(body), self._kept)
        if kept == len(body):
            return compress(*self._read(behind, header, body), self._bits)
        # One at a time: what is made of the pass takes much memory.
        with self._compacting, _running():
            return compact(
                self._model,
                self._shape,
                self._rotary,
                behind,
                header,
                body,
                body,
                method=match_attention,
                kept=kept,
                bits=self._bits,
                passing=self._run_alone,
            )

    def _run_alone(self, placed: Placed, router: Attends) -> torch.Tensor:
        """Run a pass in which something else attends, when it is its turn."""
        return self._batch.run(placed.tokens, placed.segment, 1, alone=True, router=router)

    def _lay_out(self, cut: Cut, shelf: Shelf | None) -> Placed:
        # Memories hold this reader's mark: behind another they are of no use.
        is_own = shelf is not None and list(cut.opening) == list(self._opening)
        recalled = cut.texts[: max(0, len(cut.texts) - self._whole)]
        remembered = self._recall(recalled, shelf) if shelf is not None and is_own else {}
        passages = [
            Passage(text.header, text.body, remembered.get(text.of) if text.of else None)
            for text in cut.texts
        ]
        opening = Passage((), cut.opening, self._read_opening(cut.opening))
        if self._blended and remembered:
            passages = blend(
                self._model,
                self._shape,
                self._rotary,
                opening,
                passages,
                share=self._blended,
                passing=self._run_alone,
            )
        return lay_out(
            self._shape,
            self._rotary,
            opening,
            passages,
            cut.rest,
            again=READ_AGAIN,
            spare=self._most_new_tokens + GUESSED_TOKENS + 1,
        )

    def _iter_tokens(self, cut: Cut, spent: Spent, shelf: Shelf | None) -> Iterator[list[int]]:
        """Decode greedily; yield the tokens that each step of the model settled, without the end token.

        A step tries tokens that are guessed, from the prompt or by a draft model: an answer in the evidence's
        own words costs few steps, and no other tokens come out (speculative decoding, Leviathan et al. 2023).
        """
        history = cut.tokens()
        guess_next: Guess = look_up
        if self._draft is not None:
            guess_next = either(look_up, self._draft.begin(self._most_new_tokens))
        spent.prompt_tokens = len(history)
        written = 0
        started = time.perf_counter()
        with _running():
            placed = self._lay_out(cut, shelf)
        spent.read_tokens = len(placed.tokens)
        new = _likeliest(self._batch.run(placed.tokens, placed.segment, 1))
        spent.prefill_ms = _since(started)
        slots, end = placed.slots, placed.end
        while True:
            room = self._most_new_tokens - written
            ends = [place for place, token in enumerate(new) if token in self._ends]
            settled = new[: min([room, *ends])]
            written += len(settled)
            spent.completion_tokens = written
            if settled:
                yield settled
            if ends or written >= self._most_new_tokens:
                return
            started = time.perf_counter()
            history += new
            guess = guess_next(history)
            tried = [history[-1], *guess]
            used = slots.used
            positions = torch.arange(end, end + len(tried), device=self._shape.device)
            segment = Segment(slots, 0, slots.place(positions), positions, (0, len(tried)))
            best = _likeliest(self._batch.run(tried, segment, len(tried)))
            right = 0
            while right < len(guess) and guess[right] == best[right]:
                right += 1
            slots.forget_after(used + 1 + right)
            end += 1 + right
            new = best[: right + 1]
            spent.decode_ms += _since(started)


@contextmanager
def _running() -> Iterator[None]:
    """Raise ``UnavailableError`` where torch says "out of memory", which it does with either error."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise UnavailableError(f"the language model cannot run: {type(error).__name__}") from error


def _kind_of(device: torch.device) -> str:
    """Return what kind of processor computes: others give other bits."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _digest_of(tokens: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(tokens)).encode()).hexdigest()


def _likeliest(logits: torch.Tensor) -> list[int]:
    return [int(token) for token in logits.argmax(dim=-1)]


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer, as tokenizer, configuration and generation configuration say."""
    ends: set[int] = set()
    for declared in (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id):
        if isinstance(declared, int):
            ends.add(declared)
        elif declared is not None:
            ends.update(declared)
    return frozenset(ends)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
