"""Readings that share passes get what they get by themselves; nobody is held up, none hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memory.asking import asked_by, while_there
from memory.errors import LeftError, UnavailableError
from reader.attention.function import run, use_slots
from reader.attention.rotary import Rotary
from reader.attention.slots import Segment, Shape, Slots, cut_tiles
from reader.batching import Batch
from reader.compaction.method import Listener
from reader.passages import WholeMemory, read_alone
from reader.placing import Passage, lay_out
from reader.routers.exact import exact
from reader.routing import Anchors, Router, Rule
from tests.reader.families import FAMILIES, build
from tests.reader.test_attention import draw

CLOSE = 1e-5
BAD, WRONG = 13, 14


def lay_readings(model: Any) -> list[Any]:
    """Return readings of several lengths, some over what is remembered of a passage."""
    shape, rotary = use_slots(model), Rotary(model)
    body = draw(70, 3)
    memory = WholeMemory(*read_alone(model, shape, rotary, draw(5, 2), body))
    made = []
    for seed, count in enumerate((3, 40, 101, 18, 150)):
        passages = [Passage(draw(4, 6), body, memory if seed % 2 else None)]
        opening = Passage((), draw(7 + seed, 1), None)
        made.append(lay_out(shape, rotary, opening, passages, draw(count, 20 + seed), again=8, spare=8))
    return made


def decode(step: Callable[[Sequence[int], Segment, int], torch.Tensor], placed: Any) -> list[torch.Tensor]:
    """Return the logits of a prompt's last token and of five steps, each of the likeliest token."""
    told = [step(placed.tokens, placed.segment, 1)]
    for end in range(placed.end, placed.end + 5):
        position = torch.tensor([end])
        segment = Segment(placed.slots, 0, placed.slots.place(position), position, (0, 1))
        told.append(step([int(told[-1][-1].argmax())], segment, 1))
    return told


@pytest.mark.parametrize("family", FAMILIES)
def test_company_changes_nothing(family: str) -> None:
    """Prompts are cut in pieces that fit, and every step shares its pass with whatever else there is."""
    model = build(family)
    expected = [
        decode(lambda tokens, segment, keep: run(model, tokens, [segment], keep=keep), placed)
        for placed in lay_readings(model)
    ]

    batch = Batch(model, most_tokens=48)
    with ThreadPoolExecutor(5) as threads:
        found = list(threads.map(lambda placed: decode(batch.run, placed), lay_readings(model)))

    for told, alone in zip(found, expected, strict=True):
        assert [int(one.argmax()) for one in told] == [int(one.argmax()) for one in alone]
        assert max(float((a - b).abs().max()) for a, b in zip(told, alone, strict=True)) < CLOSE


def test_what_is_chosen_does_not_depend_on_the_pieces() -> None:
    """A long question's tiles each choose for themselves, in one pass or in several."""
    model = build("llama")
    shape, rotary = use_slots(model), Rotary(model)
    bodies = [draw(150, seed) for seed in range(8)]
    memories = [WholeMemory(*read_alone(model, shape, rotary, draw(5, 2), body)) for body in bodies]
    passages = [Passage(draw(4, 6), body, memory) for body, memory in zip(bodies, memories, strict=True)]
    rule = Rule(mass=1.0, least=1, share=0.1, trust=0.0, short=2)
    told = []
    for most in (1 << 20, 32):
        placed = lay_out(shape, rotary, Passage((), draw(7, 1), None), passages, draw(70, 30), spare=8)
        router = Router(exact, Anchors([0]), rule)
        told.append(decode(Batch(model, most_tokens=most, router=router).run, placed))
        assert router.told.chosen < 0.8 * router.told.seen
    assert max(float((a - b).abs().max()) for a, b in zip(*told, strict=True)) < CLOSE


SHAPE = Shape(layers=1, kv_heads=1, dim=1, dtype=torch.float32, device=torch.device("cpu"))


class Passes:
    """A model that notes what its passes were made of, each when it is let."""

    device = SHAPE.device

    def __init__(self) -> None:
        self.seen: list[list[tuple[int, int]]] = []
        """For each pass (first token, tokens) of its parts."""
        self.begun = threading.Semaphore(0)
        self.may = threading.Semaphore(0)

    def __call__(self, input_ids: Any, segments: Any, logits_to_keep: torch.Tensor, **_: Any) -> Any:
        self.begun.release()
        assert self.may.acquire(timeout=10)
        self.seen.append([(int(input_ids[0, one.start]), one.stop - one.start) for one in segments])
        if BAD in input_ids:
            raise RuntimeError("out of memory")
        if WRONG in input_ids:
            raise TypeError("a fault")
        return SimpleNamespace(logits=input_ids[..., None][:, logits_to_keep].float())


class Readers:
    """Threads with one step each; the first one's pass is held until the others wait."""

    def __init__(self, most_tokens: int = 64) -> None:
        self.model = Passes()
        self.batch = Batch(self.model, most_tokens=most_tokens)
        self.threads = ThreadPoolExecutor(20)
        self.begun = 0

    def step(
        self,
        token: int,
        count: int,
        party: str = "",
        *,
        alone: bool = False,
        gone: threading.Event | None = None,
    ) -> Future[torch.Tensor]:
        """Have a step of ``count`` equal tokens wait."""
        slots = Slots(SHAPE, -(-count // 64))
        positions = torch.arange(count)
        segment = Segment(slots, 0, slots.place(positions), positions, cut_tiles([count], 32))

        def take() -> torch.Tensor:
            with asked_by(party), while_there(gone or threading.Event()):
                return self.batch.run([token] * count, segment, 1, alone=alone)

        return self.wait_for(self.threads.submit(take))

    def wait_for(self, future: Future[torch.Tensor]) -> Future[torch.Tensor]:
        self.begun += 1
        deadline = time.monotonic() + 10
        while len(self.batch._waiting) < self.begun:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return future


@contextmanager
def held_readers(**options: Any) -> Any:
    """Yield readers, the first of them in its pass; at the end all passes may run."""
    readers = Readers(**options)
    first = readers.step(1, 1)
    assert readers.model.begun.acquire(timeout=10)
    yield readers
    for _ in range(100):
        readers.model.may.release()
    readers.threads.shutdown()
    assert int(first.result()) == 1
    assert not readers.batch._waiting
    assert not readers.batch._served


def test_who_waits_shares_the_next_pass() -> None:
    """Short steps are never put off, however long a prompt is, which goes on tile by tile beside them."""
    with held_readers() as readers:
        futures = [readers.step(9, 150), readers.step(2, 1), readers.step(3, 7)]

    assert readers.model.seen[0] == [(1, 1)]
    assert sorted(readers.model.seen[1]) == [(2, 1), (3, 7), (9, 64)]
    assert readers.model.seen[2:] == [[(9, 64)], [(9, 22)]]
    assert [int(future.result()) for future in futures] == [9, 2, 3]


def test_prompts_are_read_fairly_between_those_who_ask() -> None:
    """Who asks much gets as many tokens a pass as who asks little, not more."""
    with held_readers() as readers:
        for token in range(20, 26):
            readers.step(token, 64, "many")
        readers.step(30, 96, "one")

    order = [token for parts in readers.model.seen[1:] for token, _ in parts]
    assert order.index(30) == 1
    assert max(at for at, token in enumerate(order) if token == 30) <= 4
    assert set(order) == {*range(20, 26), 30}


def test_what_must_not_depend_on_others_is_run_alone_and_whole() -> None:
    with held_readers() as readers:
        for token in (5, 6):
            readers.step(token, 100, alone=True)
        readers.step(2, 1)

    assert readers.model.seen[1:] == [[(5, 100)], [(2, 1)], [(6, 100)]]


def test_what_is_run_alone_may_have_a_router_of_its_own() -> None:
    """It hears what is run alone, and nothing of the passes of others."""
    model = build("llama")
    batch = Batch(model)
    first, second = lay_readings(model)[:2]
    listener = Listener()
    expected = run(model, first.tokens, [first.segment], keep=1)

    found = batch.run(first.tokens, first.segment, 1, alone=True, router=listener)
    heard = {layer: queries for layer, (queries, _) in listener.heard.items()}
    batch.run(second.tokens, second.segment, 1)

    assert torch.equal(found, expected)
    assert len(heard) == model.config.num_hidden_layers
    assert all(queries.shape[2] == len(first.tokens) for queries in heard.values())
    assert all(listener.heard[layer][0] is queries for layer, queries in heard.items())
    with pytest.raises(ValueError, match="the batch's router"):
        batch.run(second.tokens, second.segment, 1, router=listener)


def test_a_pass_that_fails_fails_for_whom_it_must() -> None:
    """What cannot run alone is unavailable; the others of its pass have their results."""
    with held_readers() as readers:
        bad, good = readers.step(BAD, 3), readers.step(2, 1)

    assert int(good.result()) == 2
    with pytest.raises(UnavailableError, match="cannot run: RuntimeError"):
        bad.result()


def test_a_fault_hangs_nobody() -> None:
    """The step whose fault it is breaks off with it; the others are run again."""
    with held_readers() as readers:
        futures = [readers.step(WRONG, 1), *(readers.step(token, 1) for token in (2, 3))]

    ends = [future.exception() or int(future.result()) for future in futures]
    assert isinstance(ends[0], TypeError)
    assert ends[1:] == [2, 3]


def test_who_has_gone_is_not_worked_for() -> None:
    gone = threading.Event()
    with held_readers() as readers:
        left = readers.step(9, 150, gone=gone)
        gone.set()
        with pytest.raises(LeftError):
            left.result(10)
    assert readers.model.seen == [[(1, 1)]]
