"""Text in pictures, read by the weights in the wheel."""

import time
from pathlib import Path

import numpy as np
import pytest

from embedding import screen_text
from embedding.screen_text import RapidScreenText, join_rows
from memory.errors import DigestMismatchError, UnavailableError
from memory.values import TextLine
from tests.sources.painted import draw_page, draw_scene


@pytest.fixture(scope="module")
def reader() -> RapidScreenText:
    return RapidScreenText()


def test_lines_are_read_from_the_top_with_their_places(reader: RapidScreenText) -> None:
    picture = draw_page("The ferry leaves at nine", "from the northern pier")
    lines = reader.read(picture)
    assert [line.text for line in lines] == ["The ferry leaves at nine", "from the northern pier"]
    assert all(line.confidence > 0.9 for line in lines)
    first, second = lines
    assert 20 < first.left < 35 and 330 < first.right < 370
    assert 40 < first.top < 70 < first.bottom < second.top < 140 < second.bottom < 190
    assert reader.read(picture) == lines


def line(text: str, left: float, top: float, right: float, bottom: float) -> TextLine:
    return TextLine(text, 0.9, left, top, right, bottom)


def test_words_close_beside_each_other_are_one_line_columns_are_not() -> None:
    found = [
        line("pier", 120, 51, 180, 70),
        line("northern", 0, 50, 110, 72),
        line("Fares", 400, 50, 480, 70),
    ]
    joined = join_rows([*found, line("below", 0, 75, 60, 95)])
    assert [each.text for each in joined] == ["northern pier", "Fares", "below"]
    assert joined[0] == line("northern pier", 0, 50, 180, 72)


def test_a_picture_without_text_has_no_lines(reader: RapidScreenText) -> None:
    assert reader.read(draw_scene(2)) == ()


@pytest.mark.parametrize("size", [(1, 1), (2, 1500), (1500, 2)])
def test_pictures_of_strange_form_take_no_more_time_or_memory(
    reader: RapidScreenText, size: tuple[int, int]
) -> None:
    begun = time.process_time()
    assert reader.read(np.full((*size, 3), 200, np.uint8)) == ()
    assert time.process_time() - begun < 20


def test_the_digest_names_the_weights_and_others_are_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = next(iter(screen_text._WEIGHTS))
    before = RapidScreenText()
    assert len(before.digest) == 64 and before.digest == RapidScreenText().digest
    monkeypatch.setitem(screen_text._WEIGHTS, name, "0" * 64)
    other = RapidScreenText()
    assert other.digest != before.digest
    with pytest.raises(DigestMismatchError, match=Path(name).stem):
        other.read(draw_scene(1))


def test_what_is_closed_reads_no_more() -> None:
    closed = RapidScreenText()
    closed.close()
    with pytest.raises(UnavailableError):
        closed.read(draw_scene(1))
