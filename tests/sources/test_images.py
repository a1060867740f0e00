"""Images become stills, drawings their words; what is damaged or too large is refused in words."""

import struct
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError, NothingToReadError
from memory.values import Content, TextLine
from sources.images import look_at_image
from sources.layout import order_lines
from sources.media_types import EXTENSIONS, IMAGES
from sources.parse import SourceParser, guess_media_type, parse_lines
from sources.stills import Looked
from tests.sources.checks import check, parse
from tests.sources.painted import draw_page
from tests.sources.test_hostile_files import PATCHES, damaged

PAGE = draw_page("The ferry leaves at nine")
KINDS = [".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff"]


def encode(pixels: np.ndarray, extension: str = ".png") -> bytes:
    channels = [2, 1, 0, 3][: pixels.shape[2]]
    done, made = cv2.imencode(extension, np.ascontiguousarray(pixels[:, :, channels]))
    assert done
    return bytes(made.tobytes())


def pixels_of(looked: Looked) -> np.ndarray:
    (still,) = looked.stills
    assert still.place is None
    return np.frombuffer(still.pixels, np.uint8).reshape(still.height, still.width, 3).astype(int)


@pytest.mark.parametrize("extension", KINDS)
def test_each_kind_is_known_by_its_bytes_and_decoded(extension: str) -> None:
    body = encode(PAGE, extension)
    media_type = guess_media_type("photo.txt", body)
    assert media_type == EXTENSIONS[extension] and media_type in IMAGES
    looked = SourceParser().look(Content("document", media_type, body))
    assert np.abs(pixels_of(looked) - PAGE).mean() < (30 if extension == ".gif" else 3)  # of few colours


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0)])
def test_letters_on_no_ground_stay_visible(ink: int, ground: int) -> None:
    drawn = np.zeros((60, 80, 4), np.uint8)
    drawn[20:40, 20:60] = [ink, ink, ink, 255]
    seen = pixels_of(look_at_image(encode(drawn)))
    assert (seen[30, 40] == ink).all() and (seen[5, 5] == ground).all()


def test_large_images_are_scaled_down_and_grey_ones_read() -> None:
    grey = np.full((3000, 1500, 1), 200, np.uint8)
    done, made = cv2.imencode(".png", grey)
    assert done
    (still,) = look_at_image(made.tobytes()).stills
    assert (still.width, still.height) == (1000, 2000)


def test_a_photograph_is_turned_as_its_camera_was_held() -> None:
    body = encode(np.ascontiguousarray(np.rot90(PAGE)), ".jpg")
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    turned = body[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + body[2:]
    assert np.abs(pixels_of(look_at_image(turned)) - PAGE).mean() < 6


def png(width: int, height: int) -> bytes:
    """A file that tells of so many pixels and holds none."""
    told = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = b"IDAT" + zlib.compress(b"")
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (told, empty)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\x89PNG\r\n\x1a\n", "this is no PNG"),
        (encode(PAGE)[:60], "this is no PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(4000), "this is no PNG"),
        (png(40_000, 40_000), "this is no PNG|too large"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(20), "this is no PNG"),
        (b"GIF89a" + bytes(3), "this is no PNG"),
        (b"a note", "this is no PNG"),
    ],
)
def test_what_is_damaged_or_too_large_is_refused_in_words(body: bytes, what: str) -> None:
    with pytest.raises(InvalidInputError, match=what):
        look_at_image(body)


SMALL = {extension: encode(draw_page("Ferry", size=(160, 90)), extension) for extension in KINDS}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), PATCHES, st.sampled_from([1.0, 1.0, 0.9, 0.4]))
def test_damaged_images_are_decoded_as_far_as_can_be_or_refused(
    extension: str, patches: list[tuple[int, bytes]], keep: float
) -> None:
    with suppress(InvalidInputError):
        for still in look_at_image(damaged(SMALL[extension], patches, keep)).stills:
            assert len(still.pixels) == still.width * still.height * 3 <= 2000 * 2000 * 3


def test_without_text_recognition_an_image_is_refused_with_the_setting() -> None:
    with pytest.raises(InvalidInputError, match="LETHE_SCREEN_TEXT"):
        parse(encode(PAGE), "image/png")


def line(text: str, left: float, top: float, width: float = 200) -> TextLine:
    return TextLine(text, 0.9, left, top, left + width, top + 20)


def test_lines_become_paragraphs_column_by_column() -> None:
    title = line("Harbour news", 100, 0, 300)
    left = [line("The ferry leaves", 0, 60), line("at nine.", 0, 84, 90), line("Fares rise.", 0, 140)]
    right = [line("A storm is", 260, 62), line("coming.", 260, 86, 80)]
    lines = [title, *left, *right]
    ordered = order_lines(sorted(lines, key=lambda each: -each.left))
    assert [[each.text for each in paragraph] for paragraph in ordered] == [
        ["Harbour news"],
        ["The ferry leaves", "at nine."],
        ["A storm is", "coming."],
        ["Fares rise."],
    ]
    parsed = parse_lines(Content("document", "image/png", b"", filename="board.png"), lines)
    check(parsed)
    assert parsed.title == "board"
    assert "The ferry leaves\nat nine.\n\nA storm is\ncoming." in parsed.text
    with pytest.raises(NothingToReadError):
        parse_lines(Content("document", "image/png", b""), [])


SVG = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><title>Harbour</title>
<desc>How the ferry goes.</desc><style>text { fill: red }</style><script>alert(1)</script>
<g><title>Pier</title><text x="1">North<tspan font-weight="bold">ern</tspan> pier</text>
<text><tspan x="0" y="1">Leaves at nine</tspan><tspan x="0" y="2">returns at noon</tspan></text></g></svg>"""


def test_a_drawing_is_its_words() -> None:
    assert guess_media_type(None, SVG) == guess_media_type("a.svg", SVG) == "image/svg+xml"
    parsed = parse(SVG, "image/svg+xml")
    assert parsed.title == "Harbour"
    assert parsed.text.split("\n\n") == [
        "Harbour",
        "How the ferry goes.",
        "Pier",
        "Northern pier",
        "Leaves at nine\nreturns at noon",
    ]
    with pytest.raises(NothingToReadError):
        parse(b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>', "image/svg+xml")
    with pytest.raises(InvalidInputError, match="entities"):
        parse(b'<!DOCTYPE svg [<!ENTITY a "b">]><svg><text>&a;</text></svg>', "image/svg+xml")
