"""Bad input, through the guard: each file is read or refused with a reason, in time, and the next one is read.

What is right here stays right when formats are added: a file that today has an unsupported media type may
be read or refused in other words tomorrow.
"""

import io
import json
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError, LetheError
from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content, Parsed
from sources.guard import GuardedParser
from sources.parse import guess_media_type
from tests.sources.checks import check

DATA = Path(__file__).parents[3] / "shared" / "data"
SECONDS = 5
"""What a file may take here; by the clock it is twice that."""
MEBIBYTE = 1024**2
GOOD = Content("document", "text/plain", b"The ferry leaves at nine.\n\nIt returns at noon.")

OFFICE = "application/vnd.openxmlformats-officedocument."
TYPES = {
    "txt": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "messages": MESSAGES_MEDIA_TYPE,
    "pdf": "application/pdf",
    "xml": "application/xml",
    "csv": "text/csv",
    "eml": "message/rfc822",
    "rtf": "application/rtf",
    "vtt": "text/vtt",
    "docx": OFFICE + "wordprocessingml.document",
    "pptx": OFFICE + "presentationml.presentation",
    "xlsx": OFFICE + "spreadsheetml.sheet",
    "epub": "application/epub+zip",
    "odt": "application/vnd.oasis.opendocument.text",
}
TEXTUAL = ("txt", "md", "html", "json", "jsonl", "csv", "xml", "eml", "rtf", "vtt")


@pytest.fixture(scope="module")
def parser() -> Iterator[GuardedParser]:
    opened = GuardedParser(seconds=SECONDS, memory_bytes=1024 * MEBIBYTE)
    yield opened
    opened.close()


def feed(
    parser: GuardedParser, body: bytes, media_type: str, filename: str | None = None
) -> Parsed | LetheError:
    """Return what became of it, which is one of two things, in time, whole and storable."""
    started = time.monotonic()
    outcome: Parsed | LetheError
    try:
        outcome = parser.parse(Content("document", media_type, body, filename=filename))
        check(outcome)
        told = [outcome.title or "", outcome.text, *(passage.context for passage in outcome.passages)]
        assert all("\x00" not in text and text.encode() is not None for text in told)
    except InvalidInputError as error:
        outcome = error
        assert str(error) and len(str(error)) < 4_000
        assert "does not foresee" not in str(error) and "ended the process" not in str(error)
    seconds = SECONDS + 2 * len(body) // MEBIBYTE
    assert time.monotonic() - started < 2 * seconds + 5
    return outcome


def shared(*parts: str) -> list[Path]:
    found = [path for path in sorted(DATA.joinpath(*parts).rglob("*")) if path.is_file()]
    if not found:
        pytest.skip(f"{'/'.join(parts)} is not among the shared data here")
    return found


# Real files


def test_every_bad_pdf_is_read_or_refused(parser: GuardedParser) -> None:
    paths = shared("bad", "pdf")
    outcomes = [feed(parser, path.read_bytes(), "application/pdf", path.name) for path in paths]
    assert len(outcomes) > 100
    assert {type(outcome) for outcome in outcomes} == {Parsed, InvalidInputError}
    assert parser.parse(GOOD)


@pytest.mark.parametrize("kind", ["html", "xml", "txt", "md"])
def test_every_bad_snippet_is_read_or_refused_as_whatever_it_is_sent(
    parser: GuardedParser, kind: str
) -> None:
    for path in shared("bad", "html") + shared("bad", "xml"):
        feed(parser, path.read_bytes(), TYPES[kind], path.name)
    assert parser.parse(GOOD)


def test_every_naughty_string_is_read_or_refused(parser: GuardedParser) -> None:
    path = next(path for path in shared("bad") if path.name == "strings.json")
    strings = json.loads(path.read_bytes())
    for string in strings:
        body = string.encode("utf-8", "surrogatepass")
        content = Content("memory", "text/plain", body, Attributes(title=string), string)
        try:
            check(parser.parse(content))
        except InvalidInputError as error:
            assert str(error)
    messages = json.dumps([{"role": string or "user", "content": string} for string in strings]).encode()
    feed(parser, messages, MESSAGES_MEDIA_TYPE)


def test_every_document_is_read_or_refused_by_its_name_and_by_a_wrong_one(parser: GuardedParser) -> None:
    for path in shared("documents"):
        body = path.read_bytes()
        feed(parser, body, guess_media_type(path.name, body[:4096]), path.name)
        wrong = random.Random(path.name).choice(sorted(TYPES))
        feed(parser, body, TYPES[wrong], f"{path.stem}.{wrong}")
    assert parser.parse(GOOD)


# Generated


def members(entries: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            archive.writestr(name, body)
    return made.getvalue()


def bomb(size: int) -> bytes:
    text = b"a" * size
    parts = (
        "word/document.xml",
        "xl/workbook.xml",
        "ppt/presentation.xml",
        "content.xml",
        "META-INF/container.xml",
    )
    return members({"[Content_Types].xml": b"<Types/>", **dict.fromkeys(parts, b"<a>" + text + b"</a>")})


ZIPS: dict[str, Callable[[], bytes]] = {
    "high ratio": lambda: bomb(64 * MEBIBYTE),
    "nested": lambda: members({"inner.zip": members({"inner.zip": bomb(8 * MEBIBYTE)})}),
    "many members": lambda: members({f"word/{n}.xml": b"<a/>" for n in range(30_000)}),
    "empty": lambda: members({}),
    "cut off": lambda: bomb(1000)[:-30],
    "only a start": lambda: b"PK\x03\x04",
    "strange names": lambda: members({"../../etc/passwd": b"x", "/abs": b"x", "a\nb": b"x", "word/": b""}),
    "billion laughs": lambda: members(
        {
            part: b'<!DOCTYPE a [<!ENTITY b "'
            + b"x" * 1000
            + b'">'
            + b"".join(
                b'<!ENTITY b%d "%s">' % (n + 1, b"&b%s;" % (str(n).encode() if n else b"") * 20)
                for n in range(9)
            )
            + b"]><a>&b9;</a>"
            for part in ("word/document.xml", "xl/workbook.xml", "content.xml", "META-INF/container.xml")
        }
    ),
}


@pytest.mark.parametrize("name", ZIPS)
def test_hostile_archives_are_read_or_refused(parser: GuardedParser, name: str) -> None:
    body = ZIPS[name]()
    for kind in ("docx", "xlsx", "pptx", "epub", "odt", "txt"):
        feed(parser, body, TYPES[kind], f"a.{kind}")
    assert parser.parse(GOOD)


BODIES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a NUL": lambda: b"\x00",
    "NULs": lambda: b"\x00" * 10_000,
    "NULs in text": lambda: b"The ferry\x00 leaves\x00 at nine.\n" * 100,
    "white space": lambda: b" \t\r\n\x0b\x0c\xc2\x85\xe2\x80\xa8" * 1000,
    "only a mark": lambda: b"\xef\xbb\xbf",
    "half a UTF-16 character": lambda: b"\xff\xfea\x00b",
    "lone surrogates": lambda: "The \ud800 ferry \udfff".encode("utf-8", "surrogatepass") * 50,
    "lone surrogates escaped": lambda: (
        b'[{"role": "\\ud800", "content": "a\\udfff\\u0000b", "id": "\\udc00"}]'
    ),
    "surrogates in UTF-16": lambda: b"\xff\xfe" + b"a\x00\x00\xd8b\x00" * 100,
    "bidirectional controls": lambda: (
        "\u202ethe ferry\u202c \u2066\u2067\u2069\u200f leaves\n\n".encode() * 200
    ),
    "mixed encodings": lambda: (
        "Zürich ".encode()
        + "Zürich ".encode("latin-1")
        + "東京 ".encode("shift_jis")
        + "Привет".encode("koi8-r")
    ),
    "noise": lambda: random.Random(1).randbytes(300_000),
    "high noise": lambda: bytes(random.Random(2).choices(range(128, 256), k=300_000)),
    "combining marks": lambda: ("e" + "\u0301" * 200_000).encode(),
    "joiners": lambda: "\u200d\ufe0f".encode() * 100_000,
    "a long line": lambda: b"word " * 400_000,
    "a long word": lambda: b"a" * 2_000_000,
    "a long wide line": lambda: "湖".encode() * 300_000,
    "many columns": lambda: (
        b",".join(b"c%d" % n for n in range(100_000)) + b"\n" + b",".join(b"%d" % n for n in range(100_000))
    ),
    "many rows": lambda: b"".join(b"%d,x\n" % n for n in range(100_000)),
    "unclosed quotes": lambda: b'"a,"b\n' * 20_000,
    "nested tags": lambda: b"<div>" * 100_000 + b"x",
    "nested tables": lambda: b"<table><tr><td>" * 10_000 + b"x",
    "nested lists": lambda: b"<ul><li>a" * 20_000,
    "nested elements": lambda: b"<?xml version='1.0'?>" + b"<a>" * 50_000 + b"x" + b"</a>" * 50_000,
    "misnested tags": lambda: b"<a><p>" * 2_000 + b"</a>" * 2_000,
    "unclosed attributes": lambda: b"<a href='" * 50_000,
    "unclosed comments": lambda: b"<!--" * 100_000,
    "entities": lambda: b"&amp;&#xD800;&#0;&#x110000;&lt" * 20_000,
    "billion laughs": lambda: (
        b'<!DOCTYPE a [<!ENTITY b "xxxxxxxxxx"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><a>&c;</a>' * 100
    ),
    "a file's entity": lambda: b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "nested arrays": lambda: b"[" * 100_000,
    "nested objects": lambda: b'{"a":' * 100_000,
    "a long number": lambda: b"1" * 300_000,
    "numbers no float holds": lambda: (
        b'{"a": 1e999999, "b": NaN, "c": -Infinity, "d": 123456789012345678901234567890}'
    ),
    "an endless string": lambda: b'"' + b"\\" * 500_000,
    "nested quotes": lambda: b">" * 100_000 + b" x",
    "nested markdown lists": lambda: b"- " * 10_000 + b"x",
    "quoted lists": lambda: b"> - " * 5_000 + b"x",
    "stepping lists": lambda: b"".join(b" " * (2 * n) + b"- x\n" for n in range(500)),
    "brackets": lambda: b"[](" * 50_000,
    "emphasis": lambda: b"*a _b **c " * 30_000,
    "back ticks": lambda: b" ".join(b"`" * n for n in range(800)),
    "bars": lambda: b"|" * 100_000 + b"\n" + b"|-" * 50_000,
    "fences": lambda: b"~~~\n```\n" * 20_000,
    "headings": lambda: b"# a\n\n" * 20_000,
    "underlines": lambda: b"a\n===\n" * 20_000,
    "abbreviations": lambda: b"Mr. Dr. e.g. " * 30_000,
    "spaces": lambda: b" " * 50_000 + b"x" + b" " * 50_000,
    "line ends": lambda: b"\r\n\r" * 100_000,
    "a mail of parts": lambda: (
        b"Content-Type: multipart/mixed; boundary=b\n\n"
        + b"--b\nContent-Type: multipart/mixed; boundary=b\n\n" * 2_000
    ),
    "nested groups": lambda: b"{\\rtf1" + b"{\\b " * 50_000 + b"x",
    "an executable": lambda: b"\x7fELF" + bytes(1000),
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_bodies_are_read_or_refused_as_whatever_they_are_sent(
    parser: GuardedParser, name: str
) -> None:
    body = BODIES[name]()
    for kind in (*TEXTUAL, "messages", "pdf", "docx"):
        feed(parser, body, TYPES[kind], f"a.{kind}")
    assert parser.parse(GOOD)


def test_a_line_of_64_mib_and_a_million_rows_end_in_time(parser: GuardedParser) -> None:
    """Larger than a request may be: what takes too long or too much memory is refused with words."""
    line = b"word " * (64 * MEBIBYTE // 5)
    feed(parser, line, "text/html")
    feed(parser, b'{"a": "' + line + b'"', "application/json")
    feed(parser, b"".join(b"%d,a\n" % n for n in range(1_000_000)), "text/csv", "a.csv")
    assert parser.parse(GOOD)


# Mutations of good files

SMALL: dict[str, bytes] = {
    "txt": b"Time: 20260101\nAda: The ferry leaves at nine.\n\nBo: When does it return?\n",
    "md": b"---\ntitle: A\n---\n# Ferry\n\n- one\n  - two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx\n```\n> q\n",
    "html": b"<!doctype html><title>t</title><h1>Ferry</h1><p>It <b>leaves</b><ul><li>a</ul><table><tr><th>x<td>y</table>",
    "json": b'{"title": "t", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "id": "1"}]}',
    "jsonl": b'{"role": "user", "content": "a", "at": "2026-01-01T00:00:00Z"}\n{"role": "assistant", "content": "b"}\n',
    "csv": b'name,age\n"Ada, Countess",36\nBo,7\n',
    "eml": b"From: a@b.c\nSubject: =?utf-8?q?F=C3=A4hre?=\nContent-Type: text/plain; charset=utf-8\n\nIt leaves.\n",
    "vtt": b"WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ada>It leaves.\n",
    "rtf": b"{\\rtf1\\ansi It {\\b leaves} at nine.\\par}",
    "xml": b"<?xml version='1.0'?><a><b c='d'>It leaves.</b></a>",
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj\n"
    b"4 0 obj<</Length 44>>stream\nBT /F1 12 Tf 20 100 Td (It leaves at 9.) Tj ET\nendstream endobj\n"
    b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
}
SPLICES = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"<",
    b"{",
    b"[",
    b"}",
    b'"',
    b"\\",
    b"\n",
    b"\r\n\r\n",
    b"|",
    b"-1",
    b"99999999999",
    b"%%EOF",
    b"&#0;",
    b"=?",
]


@given(
    kind=st.sampled_from(sorted(SMALL)),
    cuts=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(SPLICES), st.integers(1, 40)),
        max_size=6,
    ),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_small_files_spoilt_anywhere_are_read_or_refused(
    parser: GuardedParser, kind: str, cuts: list[tuple[float, int, bytes, int]]
) -> None:
    body = SMALL[kind]
    for place, removed, spliced, times in cuts:
        at = int(place * len(body))
        body = body[:at] + spliced * times + body[at + removed :]
    feed(parser, body, TYPES[kind], f"a.{kind}")
