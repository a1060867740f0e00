"""What holds of everything the parser returns."""

from pathlib import Path

import pytest

from memory.values import Attributes, Content, Parsed
from sources.parse import SourceParser
from sources.passages import MAX_SIZE, measure

DATA = Path(__file__).parents[3] / "shared" / "data"


def data(*parts: str) -> Path:
    """The path of shared test data; without it the test is skipped by name."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not among the shared data here")
    return path


def parse(
    body: str | bytes, media_type: str = "text/plain", filename: str | None = None, **attributes: object
) -> Parsed:
    raw = body.encode() if isinstance(body, str) else body
    content = Content("document", media_type, raw, Attributes(**attributes), filename)  # type: ignore[arg-type]
    parsed = SourceParser().parse(content)
    check(parsed)
    return parsed


def check(parsed: Parsed) -> None:
    """Spans lie inside text and section, in order, without overlap, and leave no word out."""
    text = parsed.text
    assert (parsed.sections[0].start, parsed.sections[0].end) == (0, len(text))
    assert parsed.sections[0].parent is None
    for index, section in enumerate(parsed.sections[1:], start=1):
        assert section.parent is not None and section.parent < index
        around = parsed.sections[section.parent]
        assert around.start <= section.start <= section.end <= around.end
        assert section.heading[:-1] == around.heading
    position = 0
    for passage in parsed.passages:
        assert position <= passage.start < passage.end <= len(text)
        piece = text[passage.start : passage.end]
        assert piece == piece.strip()
        assert not text[position : passage.start].strip()
        assert measure(piece) <= MAX_SIZE
        section = parsed.sections[passage.section]
        assert section.start <= passage.start and passage.end <= section.end
        position = passage.end
    assert not text[position:].strip()


def texts(parsed: Parsed) -> list[str]:
    return [parsed.text[passage.start : passage.end] for passage in parsed.passages]
