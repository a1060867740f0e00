"""Keys and values in float8: near what they were made of, and never taken for integers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from memory.errors import CorruptionError
from reader.attention.function import run, use_slots
from reader.attention.rotary import Rotary
from reader.passages import FORMATS, PassageMemory, WholeMemory, best_bits, compress, from_bytes, read_alone
from tests.reader.families import build
from tests.reader.test_attention import PASSAGES, QUESTION, place_all
from tests.reader.test_language_model import WHOLE, DictShelf, remembering, said

FLOAT8 = torch.float8_e4m3fn
CPU = torch.device("cpu")


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys whose channels stand far from zero, as those of models with biases do, and values."""
    rows = torch.randn(2, 3, 2, 90, 16, generator=torch.Generator().manual_seed(0))
    return rows[0] + 40 * rows[1, :, :, :1], rows[1]


def same(one: PassageMemory, other: PassageMemory) -> bool:
    """Say whether two memories are equal bit for bit; torch compares no float8."""
    return one.to_bytes() == other.to_bytes()


def test_each_number_is_within_half_a_step() -> None:
    """A step is an eighth of a number's power of two, around its channel's mean; near zero, 2^-9 of a unit."""
    keys, values = draw()
    memory = compress(keys, values, FLOAT8)
    assert memory.keys.dtype == memory.values.dtype == FLOAT8
    for near, rows, step in zip(
        memory.restore(), (keys, values), (memory.key_step, memory.value_step), strict=True
    ):
        around = (rows - rows.mean(2, keepdim=True)).abs()
        assert ((near - rows).abs() <= torch.maximum(around / 16, step / 1024) + 1e-5).all()


@pytest.mark.parametrize(("bits", "nearest"), [(torch.uint8, 0.01), (FLOAT8, 0.03)])
def test_what_tokens_differ_in_is_kept(bits: torch.dtype, nearest: float) -> None:
    """However far from zero a channel stands: with a plain scale more than that would be lost."""
    for near, rows in zip(compress(*draw(), bits).restore(), draw(), strict=True):
        assert (near - rows).pow(2).mean().sqrt() < nearest * rows.std(2).mean()
    keys, _ = draw()
    step = keys.abs().amax(2, keepdim=True) / 448
    assert ((keys / step).to(FLOAT8).float() * step - keys).pow(2).mean().sqrt() > 0.5 * keys.std(2).mean()


def test_a_channel_that_never_changes_is_exact() -> None:
    keys = torch.full((1, 1, 5, 4), 3.0)
    near, zero = compress(keys, torch.zeros(1, 1, 5, 4), FLOAT8).restore()
    assert near.equal(keys) and not zero.any()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_model_reads_on_behind_it_as_behind_integers(family: str) -> None:
    """Distributions are .01 nats from those behind float32 at most, of integers .001."""
    model = build(family)
    shape, rotary = use_slots(model), Rotary(model)
    read = [read_alone(model, shape, rotary, [], body) for _, body in PASSAGES]

    def ask(memories: list[Any]) -> torch.Tensor:
        placed = place_all(model, memories, again=8)
        return run(model, placed.tokens, [placed.segment], keep=len(QUESTION)).log_softmax(-1)

    exact = ask([WholeMemory(*one) for one in read])
    for bits, most in ((torch.uint8, 1e-3), (FLOAT8, 1e-2)):
        near = ask([from_bytes(compress(*one, bits).to_bytes(), CPU) for one in read])
        assert 0 < (exact.exp() * (exact - near)).sum(-1).max() < most


def test_bytes_come_back_equal_and_say_what_they_are() -> None:
    memory = compress(*draw(), FLOAT8)
    assert same(from_bytes(memory.to_bytes(), CPU), memory)
    assert len(memory.to_bytes()) <= len(compress(*draw()).to_bytes())


@pytest.mark.parametrize("bits", FORMATS)
def test_one_format_is_not_read_as_the_other(bits: torch.dtype) -> None:
    """A payload whose numbers are not what its format says is torn."""
    parts = load(compress(*draw(), bits).to_bytes())
    (other,) = FORMATS.keys() - {bits}
    for name in ("keys", "values"):
        with pytest.raises(CorruptionError):
            from_bytes(save({**parts, name: parts[name].view(other)}), CPU)
    parts["length"][1] = FORMATS[other]
    with pytest.raises(CorruptionError):
        from_bytes(save(parts), CPU)


def test_readers_of_one_kind_find_nothing_of_the_other() -> None:
    """Each has memories of its own on the same shelf, and answers from them as it did before they lay there."""
    shelf = DictShelf()
    for number, bits in enumerate(FORMATS, start=1):
        first = said(remembering(bits=bits), WHOLE, shelf)
        assert len(shelf.payloads) == number * len(WHOLE)
        assert said(remembering(bits=bits), WHOLE, shelf) == first
    kinds = {load(payload)["keys"].dtype for payload in shelf.payloads.values()}
    assert kinds == FORMATS.keys()
    assert {recipe for recipe, _ in shelf.payloads} == {
        remembering(bits=bits)._writer.recipe.digest for bits in FORMATS
    }


def test_a_share_of_a_passage_is_kept_in_it_too() -> None:
    shelf = DictShelf()
    first = said(remembering(kept=0.5, bits=FLOAT8), WHOLE, shelf)
    assert said(remembering(kept=0.5, bits=FLOAT8), WHOLE, shelf) == first
    for payload in shelf.payloads.values():
        memory = from_bytes(payload, CPU)
        assert memory.keys.dtype == FLOAT8 and memory.kept < memory.length


@pytest.mark.parametrize(
    ("capability", "bits"), [((8, 0), torch.uint8), ((8, 6), torch.uint8), ((8, 9), FLOAT8), ((9, 0), FLOAT8)]
)
def test_it_is_kept_where_the_device_computes_in_it(
    capability: tuple[int, int], bits: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert best_bits(torch.device("cuda")) == bits
    assert best_bits(CPU) == torch.uint8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("bits", FORMATS)
def test_a_gpu_unpacks_what_a_cpu_packed(bits: torch.dtype) -> None:
    memory = compress(*draw(), bits)
    moved = from_bytes(memory.to_bytes(), torch.device("cuda"))
    assert same(moved, memory)
    for here, there in zip(memory.restore(), moved.restore(), strict=True):
        assert torch.allclose(there.cpu(), here, rtol=1e-6)
    made = compress(*(rows.cuda() for rows in draw()), bits)
    for rows, here, there in zip(draw(), memory.restore(), made.restore(), strict=True):
        assert (there.cpu() - rows).pow(2).mean() < 1.05 * (here - rows).pow(2).mean()
