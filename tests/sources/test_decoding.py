"""Decoding: what a file says is read, whatever its character set; what is not text is refused."""

import pytest

from memory.errors import InvalidInputError, UnsupportedMediaError
from sources.decoding import decode_text
from sources.parse import guess_media_type
from tests.sources.checks import parse, texts

GREETING = "Grüße aus Köln – 20 €"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_read(encoding: str) -> None:
    assert decode_text(GREETING.encode(encoding)) == (GREETING, [])


def test_other_encodings_fall_back_with_a_warning() -> None:
    text, warnings = decode_text(GREETING.encode("cp1252"))

    assert text == GREETING
    assert warnings == ["the text is not UTF-8; it was read as Windows-1252"]


def test_a_declared_charset_is_used() -> None:
    assert texts(parse("Привет, мир".encode("koi8-r"), "text/plain; charset=KOI8-R")) == ["Привет, мир"]


def test_a_damaged_byte_does_not_spoil_the_rest() -> None:
    text, warnings = decode_text("Größe, Übung, Straße, Öl: ".encode() + b"\xff")

    assert text == "Größe, Übung, Straße, Öl: \ufffd"
    assert warnings == ["1 damaged characters were replaced while reading UTF-8"]


def test_nul_and_newlines_are_normalised() -> None:
    assert decode_text(b"a\x00b c d e f g h\r\ni\rj")[0] == "ab c d e f g h\ni\nj"


@pytest.mark.parametrize(
    "body", [b"PK\x03\x04....", b"\x89PNG\r\n", bytes(range(256)), b"\x00\x01\x02" * 50, b"", b" \n"]
)
def test_binary_and_empty_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse(body)


def test_an_unknown_media_type_is_named() -> None:
    with pytest.raises(UnsupportedMediaError, match="image/x-xcf"):
        parse(b"x", "image/x-xcf")


@pytest.mark.parametrize(
    ("filename", "head", "expected"),
    [
        ("notes.MD", b"x", "text/markdown"),
        ("page.htm", b"x", "text/html"),
        ("report.log", b"plain words", "text/plain"),
        (None, b"%PDF-1.7", "application/pdf"),
        (None, b"\n<!DOCTYPE html><p>", "text/html"),
        (None, b'[{"role": "user"}]', "application/json"),
        (None, b'{"role": "user"}\n{"role": "user"}\n', "application/jsonl"),
        ("photo", b"\x89PNG\r\n\x1a\n", "image/png"),
    ],
)
def test_media_types_are_guessed(filename: str | None, head: bytes, expected: str) -> None:
    assert guess_media_type(filename, head) == expected
