"""A model that routes has anchors of its own: found on one text, kept in a file, and read at the next start."""

import json
from pathlib import Path

import pytest
import structlog
import torch

from reader import anchors, language_model
from reader.attention.function import windows_of
from reader.language_model import LanguageModelWriter
from reader.routing import Anchors, Router
from tests.reader.families import build
from tests.reader.tiny import tiny_model, tiny_tokenizer


def writer(model=None, **options) -> LanguageModelWriter:
    # A byte is a token: with room for a passage of the text it is read in no time.
    options = {"name": "t", "digest": "d1", "routed": True, "most_prompt_tokens": 2100, **options}
    return LanguageModelWriter(model or build("llama"), tiny_tokenizer(), **options)


@pytest.fixture
def routers(monkeypatch: pytest.MonkeyPatch) -> list[Router]:
    """Return the routers that writers make, the newest last."""
    made: list[Router] = []

    class Noted(Router):
        def __init__(self, *given, **named) -> None:
            super().__init__(*given, **named)
            made.append(self)

    monkeypatch.setattr(language_model, "Router", Noted)
    return made


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many tokens were read each time that anchors were found."""
    counts: list[int] = []

    def noted(model, reading) -> Anchors:
        counts.append(len(reading.tokens))
        return anchors.find_anchors(model, reading)

    monkeypatch.setattr(language_model, "find_anchors", noted)
    return counts


def as_told(found: Anchors) -> tuple[list[int], dict[int, list[int]]]:
    return list(found.layers), {layer: list(own) for layer, own in found.heads.items()}


def test_they_are_found_once_and_used(tmp_path: Path, routers: list[Router], placed: list[int]) -> None:
    with structlog.testing.capture_logs() as logged:
        writer(anchors_folder=tmp_path)
        writer(anchors_folder=tmp_path)

    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("d1-")
    assert len(placed) == 1
    assert [line["event"] for line in logged] == ["anchors found"]
    assert logged[0]["seconds"] >= 0
    first, second = (as_told(router.anchors) for router in routers)
    assert first == second
    assert first[0][0] == 2
    told = json.loads(kept.read_text())["anchors"]
    assert (told["layers"], {int(layer): own for layer, own in told["heads"].items()}) == first


def test_they_are_the_same_for_the_same_model(tmp_path: Path) -> None:
    """Whatever mark a writer draws for its own prompts, and whoever finds them."""
    writer(anchors_folder=tmp_path / "a", mark="m4rk")
    writer(anchors_folder=tmp_path / "b")

    (one,), (other,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()


def test_what_a_model_does_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights have other anchors, or heads that take their choice from others."""
    monkeypatch.setattr(anchors.find_anchors, "__defaults__", (1,))
    models = [build("llama", seed=seed) for seed in (0, 3)]
    one, other = (as_told(writer(model, routed=False).get_anchors()) for model in models)
    assert one[0] == other[0] == [2]
    assert one[1] != other[1]


@pytest.mark.parametrize("damage", ["cut", "changed", "other", "empty", "no mapping", "copied"])
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path, placed: list[int]) -> None:
    writer(anchors_folder=tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    if damage == "copied":  # what other weights have under this name is no more of use
        writer(anchors_folder=tmp_path, digest="d2", model=build("llama", seed=1))
        (kept,) = tmp_path.glob("d2-*")
        other, whole = whole, kept.read_bytes()
        kept.write_bytes(other)
    else:
        told = json.loads(whole)
        told["anchors"]["layers"] = [3]
        kept.write_bytes(
            {
                "cut": whole[:-20],
                "changed": json.dumps(told).encode(),
                "other": b'{"anchors": {"layers": [2], "heads": {}}}',
                "empty": b"\xff",
                "no mapping": b"[]",
            }[damage]
        )
    found = len(placed)

    digest = kept.name.partition("-")[0]
    model = build("llama", seed=1 if damage == "copied" else 0)
    with structlog.testing.capture_logs() as logged:
        writer(model, digest=digest, anchors_folder=tmp_path)

    assert len(placed) == found + 1
    assert kept.read_bytes() == whole
    assert [line["event"] for line in logged] == ["kept anchors cannot be read", "anchors found"]


def test_other_weights_and_precisions_have_others(tmp_path: Path) -> None:
    writer(anchors_folder=tmp_path)
    writer(anchors_folder=tmp_path, digest="d2")
    writer(build("llama").to(torch.bfloat16), anchors_folder=tmp_path)
    assert sorted(path.name[:3] for path in tmp_path.iterdir()) == ["d1-", "d1-", "d2-"]


def test_weights_without_a_name_are_not_kept(tmp_path: Path) -> None:
    writer(anchors_folder=tmp_path, digest="")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_read(
    tmp_path: Path, routers: list[Router]
) -> None:
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    with structlog.testing.capture_logs() as logged:
        writer(anchors_folder=folder)
    assert routers[-1].anchors.layers
    assert logged[-1]["event"] == "anchors not kept"


@pytest.mark.parametrize(
    ("family", "layers"), [("mistral", set()), ("gemma3_text", {2}), ("qwen3", {2, 3, 4})]
)
def test_only_layers_that_see_everything_choose(
    family: str, layers: set[int], tmp_path: Path, routers: list[Router]
) -> None:
    model = build(family)
    writer(model, anchors_folder=tmp_path)
    found = routers[-1].anchors
    assert set(found.layers) <= layers
    assert bool(found.layers) == bool(layers)
    assert all(windows_of(model)[layer] is None for layer in (*found.layers, *found.heads))


def test_a_model_of_two_layers_has_none(routers: list[Router]) -> None:
    writer(tiny_model())
    assert not routers[-1].anchors.layers


def test_a_small_model_reads_as_much_as_it_takes(placed: list[int]) -> None:
    """Of the text as many passages as fit; a byte is a token here."""
    for context in (2300, 3000):
        writer(build("llama", context=context), most_new_tokens=10, most_prompt_tokens=5000)
    assert 1500 < placed[0] <= 2290 < placed[1] <= 2990


def test_readers_that_do_not_route_find_none(tmp_path: Path, placed: list[int]) -> None:
    writer(routed=False, anchors_folder=tmp_path)
    assert not placed
    assert not list(tmp_path.iterdir())
