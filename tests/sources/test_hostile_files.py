"""Whatever bytes come under whatever media type: they parse, or are refused with words. Nothing else."""

import io
import time
import zipfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError, LetheError
from sources import containers, media_types
from sources.parse import SUPPORTED_MEDIA_TYPES, guess_media_type
from tests.sources import samples
from tests.sources.checks import data, parse

ZIPPED = [kind for kind, body in samples.SAMPLES.items() if body.startswith(b"PK")]


def damaged(body: bytes, damage: list[tuple[int, bytes]], keep: float) -> bytes:
    """``body`` with some bytes replaced, and cut off after the part to keep."""
    told = bytearray(body)
    for position, patch in damage:
        at = position % max(1, len(told))
        told[at : at + len(patch)] = patch
    return bytes(told[: int(len(told) * keep)])


PATCHES = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=4) | st.sampled_from([b"<", b'"', b"\x00", b"&a;", b"9999999", b"-1"]),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SUPPORTED_MEDIA_TYPES), st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(media_type: str, body: bytes) -> None:
    with suppress(LetheError):
        parse(body, media_type)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(samples.SAMPLES)), PATCHES, st.sampled_from([1.0, 1.0, 0.9, 0.4]))
def test_damaged_files_parse_or_are_refused(
    media_type: str, patches: list[tuple[int, bytes]], keep: float
) -> None:
    with suppress(LetheError):
        parse(damaged(samples.SAMPLES[media_type], patches, keep), media_type)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(st.sampled_from(ZIPPED), st.data())
def test_damage_inside_a_container_is_no_crash(media_type: str, draw: st.DataObject) -> None:
    """Damage to a packed file is caught by its checksum; here the members themselves are damaged."""
    inside = samples.members(samples.SAMPLES[media_type])
    name = draw.draw(st.sampled_from(sorted(inside)))
    inside[name] = damaged(
        bytes(inside[name]), draw.draw(PATCHES), draw.draw(st.sampled_from([1.0, 1.0, 0.5]))
    )
    with suppress(LetheError):
        parse(samples.zipped(inside), media_type)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ZIPPED), st.integers(0, 1 << 16), st.sampled_from(["9999999", "-5", "", "1e9", "²"]))
def test_numbers_in_attributes_may_say_anything(media_type: str, pick: int, value: str) -> None:
    inside = samples.members(samples.SAMPLES[media_type])
    parts = sorted(name for name in inside if name.endswith((".xml", ".rels", ".opf")))
    name = parts[pick % len(parts)]
    pieces = bytes(inside[name]).split(b'="')
    at = 1 + pick % max(1, len(pieces) - 1)
    if at < len(pieces):
        pieces[at] = value.encode() + b'"' + pieces[at].partition(b'"')[2]
    inside[name] = b'="'.join(pieces)
    with suppress(LetheError):
        parse(samples.zipped(inside), media_type)


@pytest.mark.parametrize("media_type", ZIPPED)
def test_a_zip_that_unpacks_to_too_much_is_refused_at_once(media_type: str) -> None:
    inside = samples.members(samples.SAMPLES[media_type])
    inside["word/media/bomb.bin"] = bytes(64 * 1024 * 1024)
    body = samples.zipped(inside)
    started = time.monotonic()
    with pytest.raises(InvalidInputError, match="unpack"):
        parse(body, media_type)
    assert time.monotonic() - started < 2


def test_a_member_larger_than_its_header_says_is_refused() -> None:
    body = bytearray(samples.zipped({"content.xml": b"x" * 100_000}))
    size = (100_000).to_bytes(4, "little")
    while (at := bytes(body).find(size)) >= 0:
        body[at : at + 4] = (10).to_bytes(4, "little")
    opened = containers.open_container(bytes(body), "ODT document")
    with pytest.raises(InvalidInputError, match="damaged"):
        opened.get("content.xml")


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBERS", 3)
    with pytest.raises(InvalidInputError, match="members"):
        parse(samples.docx(), media_types.DOCX)


def test_an_encrypted_member_is_refused() -> None:
    body = bytearray(samples.docx())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = bytes(body).find(mark)
        while at >= 0:
            body[at + offset] |= 1
            at = bytes(body).find(mark, at + 4)
    with pytest.raises(InvalidInputError, match="encrypted"):
        parse(bytes(body), media_types.DOCX)


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;">]>'
    '<w:document xmlns:w="w"><w:body><w:p><w:r><w:t>&c;</w:t></w:r></w:p></w:body></w:document>'
)
OUTSIDE = BOMB.replace(
    BOMB[BOMB.index("[") : BOMB.index("]") + 1], '[<!ENTITY c SYSTEM "file:///etc/hostname">]'
)


@pytest.mark.parametrize("xml", [BOMB, OUTSIDE])
def test_xml_with_entities_is_refused(xml: str) -> None:
    inside = samples.members(samples.docx_of(""))
    inside["word/document.xml"] = xml
    with pytest.raises(InvalidInputError, match="entit"):
        parse(samples.zipped(inside), media_types.DOCX)


def test_every_bad_xml_is_refused_inside_a_document() -> None:
    inside = samples.members(samples.docx_of(""))
    for path in sorted(data("bad", "xml").iterdir()):
        inside["word/document.xml"] = path.read_bytes()
        with pytest.raises(InvalidInputError):
            parse(samples.zipped(inside), media_types.DOCX)


@pytest.mark.parametrize("depth", [150, 100_000])
def test_deeply_nested_xml_is_no_stack_overflow(depth: int) -> None:
    tables = "<w:tbl><w:tr><w:tc>" * (depth // 3) + "<w:p/>" + "</w:tc></w:tr></w:tbl>" * (depth // 3)
    with pytest.raises(InvalidInputError):
        parse(samples.docx_of(tables), media_types.DOCX)


def test_a_sheet_with_cells_in_far_corners_is_refused() -> None:
    inside = samples.members(samples.xlsx())
    sheet = bytes(inside["xl/worksheets/sheet1.xml"])
    far = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    inside["xl/worksheets/sheet1.xml"] = sheet.replace(b"</sheetData>", far)
    with pytest.raises(InvalidInputError, match=r"sheet1\.xml: its cells reach"):
        parse(samples.zipped(inside), media_types.XLSX)


@pytest.mark.parametrize(
    ("media_type", "body", "words"),
    [
        (media_types.DOCX, b"just text", "no DOCX document"),
        (media_types.DOCX, samples.docx()[:3000], "damaged or cut off"),
        (media_types.DOCX, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "password"),
        (media_types.DOCX, samples.pptx(), "no DOCX"),
        (media_types.PPTX, samples.docx(), "no PPTX"),
        (media_types.XLSX, samples.docx(), "no XLSX"),
        (media_types.XLS, b"a,b\n1,2\n", "no Excel file"),
        (media_types.ODT, samples.ods(), "no ODT"),
        (media_types.EPUB, samples.docx(), "container.xml"),
        (media_types.RTF, b"plain", "no RTF"),
        (media_types.EML, b"no fields\n\nhello", "no mail"),
        ("text/vtt", b"WEBVTT\n\nhello", "no captions"),
        ("text/csv", b'a,b\n"' + b"x" * 200_000, "row 2"),
        (
            media_types.EML,
            b"From: a\n" + b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 200,
            "parts",
        ),
        (media_types.RTF, b"{\\rtf1 " + b"{" * 5000, "groups"),
    ],
)
def test_refusals_say_what_is_wrong(media_type: str, body: bytes, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        parse(body, media_type)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("text/vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\n" + b"<v a" * 300_000),
        ("text/csv", b"a," * 500_000),
        ("text/csv", ",".join(map(str, range(100_000))).encode() + b"\n" + b"1," * 99_999 + b"1"),
        ("text/x-python", (b" " * 390 + b"x\n") * 3000),
        ("text/x-java", (b"export " * 55 + b"\n") * 3000),
        ("text/x-java", b"x" * 2_000_000),
        (media_types.RTF, b"{\\rtf1 " + b"a\\u8364?" * 100_000),
        (media_types.EML, b"From: a\nSubject: " + b"=?" * 300_000 + b"\n\nhello"),
        (media_types.EML, b"From: a\nSubject: " + b"=?utf-8?q?a?= " * 100_000 + b"\n\nhello"),
        ("application/json", b'{"a": [' + b'{"b": "' + b"x" * 1000 + b'"},' * 1 + b'{"c": 1}]}'),
    ],
)
def test_large_and_odd_files_take_seconds(media_type: str, body: bytes) -> None:
    started = time.monotonic()
    with suppress(InvalidInputError):
        parse(body, media_type)
    assert time.monotonic() - started < 15


def test_every_real_document_parses_or_is_refused_with_words() -> None:
    """All files of every format, by the type guessed from name and content."""
    refused = {}
    paths = sorted(path for path in data("documents").rglob("*") if path.is_file())
    assert len(paths) > 100
    for path in paths:
        body = path.read_bytes()
        try:
            assert parse(body, guess_media_type(path.name, body), path.name).title, path.name
        except InvalidInputError as error:
            refused[path.name] = error.what
    assert all("pictures" in what for what in refused.values())
    assert {name.partition(".")[2] for name in refused} == {"pdf"}


def test_zip_entries_of_one_name_are_one_member() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", "first")
        archive.writestr("a", "second")
    assert containers.open_container(buffer.getvalue(), "test").find("A") == b"first"
