"""Real documents and broken ones: what a user would send, and what an attacker would."""

import io
import json
import time

import pypdfium2
import pytest

from memory.errors import InvalidInputError, LetheError
from memory.values import Passage
from tests.sources.checks import data, parse, texts


def test_wikipedia_keeps_the_article_alone() -> None:
    parsed = parse(data("documents", "html", "wiki_duck.html").read_bytes(), "text/html")

    assert parsed.title == "Duck"
    assert ("Duck", "Behaviour", "Feeding") in [section.heading for section in parsed.sections]
    assert "| Kingdom: | Animalia |" in parsed.text
    assert "The word duck comes from Old English dūce 'diver'" in parsed.text
    for furniture in ("Main menu", "Random article", "Privacy policy", "Jump to content", "Toggle", "Català"):
        assert furniture not in parsed.text


def test_a_rich_table_keeps_its_rows() -> None:
    parsed = parse(data("documents", "html", "html_rich_table_cells.html").read_bytes(), "text/html")

    assert "| Teal | Pond; Marsh; Riverbank | Fly south in winter; Build nest on ground |" in parsed.text


def test_markdown_headings_and_tables_are_found() -> None:
    parsed = parse(data("documents", "md", "duck.md").read_bytes(), "text/markdown")

    last = parsed.passages[-1]
    assert parsed.title == "Swimming in the lake"
    assert last.heading == ("Swimming in the lake", "Let’s eat")
    assert "| Leaves  | Ash, Elm, Maple                  |                     50 |" in texts(parsed)[-1]


def _page(passage: Passage) -> int:
    assert passage.place is not None and passage.place.kind == "page"
    return passage.place.first


def test_a_pdf_has_pages_headings_and_whole_words() -> None:
    parsed = parse(data("documents", "pdf", "multi_page.pdf").read_bytes(), "application/pdf")

    assert [_page(passage) for passage in parsed.passages] == sorted(
        _page(passage) for passage in parsed.passages
    )
    assert {_page(passage) for passage in parsed.passages} == {1, 2, 3, 4, 5}
    rise = next(
        passage
        for passage in parsed.passages
        if passage.heading == ("The Rise of Personal Computers (1980s)",)
    )
    assert _page(rise) == 1
    assert "evolved through several technological milestones." in parsed.text
    assert "• WordStar (1978): Developed for the CP/M operating system, WordStar was one of" in parsed.text


def test_a_pdf_book_loses_its_running_foot_and_keeps_its_contents() -> None:
    parsed = parse(data("documents", "pdf", "redp5110_sampled.pdf").read_bytes(), "application/pdf")

    assert parsed.title == "Row and Column Access Control Support in IBM DB2 for i"
    assert "| 1.1 Security fundamentals | 2 |" in parsed.text
    assert parsed.text.count("Row and Column Access Control Support in IBM DB2 for i") < 8
    assert any(section.heading[-1:] == ("1.1 Security fundamentals",) for section in parsed.sections)


def test_a_scan_is_refused_with_advice() -> None:
    with pytest.raises(InvalidInputError, match=r"only pictures.*OCR"):
        parse(data("documents", "ocr", "ocr_test.pdf").read_bytes(), "application/pdf")


def test_pages_that_are_pictures_are_named() -> None:
    """A report with scanned pages among the typed ones is read, and says which pages are missing."""
    report = pypdfium2.PdfDocument(data("documents", "pdf", "multi_page.pdf").read_bytes())
    scan = pypdfium2.PdfDocument(data("documents", "ocr", "ocr_test.pdf").read_bytes())
    for index in (1, 3, 4):
        report.import_pages(scan, [0], index=index)
    buffer = io.BytesIO()
    report.save(buffer)

    parsed = parse(buffer.getvalue(), "application/pdf")

    assert parsed.warnings == (
        "pages 2, 4-5 are pictures; for their text, run text recognition (OCR) on the PDF and send it again",
    )
    assert {_page(passage) for passage in parsed.passages} == {1, 3, 6, 7, 8}


def test_an_encrypted_pdf_is_refused_with_advice() -> None:
    with pytest.raises(InvalidInputError, match="encrypted"):
        parse(data("bad", "pdf", "enc-XI-R6,V5,U=wwwww,O=wwwww.pdf").read_bytes(), "application/pdf")


def test_every_real_document_parses() -> None:
    for folder, media_type in (("md", "text/markdown"), ("html", "text/html"), ("pdf", "application/pdf")):
        for path in sorted(data("documents", folder).glob(f"*.{folder}")):
            assert parse(path.read_bytes(), media_type, path.name).title, path.name


def test_every_bad_pdf_parses_or_is_refused_within_seconds() -> None:
    for path in sorted(data("bad", "pdf").glob("*.pdf")):
        started = time.monotonic()
        try:
            parse(path.read_bytes(), "application/pdf")
        except LetheError as error:
            assert str(error), path.name
        assert time.monotonic() - started < 5, path.name


def test_every_malformed_snippet_parses_or_is_refused() -> None:
    read = 0
    for path in sorted(data("bad", "html").glob("*.dat")):
        for case in path.read_bytes().split(b"#data\n")[1:]:
            try:
                parse(case.split(b"\n#errors")[0], "text/html")
                read += 1
            except LetheError:
                continue
    assert read > 500


def test_every_naughty_string_parses_or_is_refused() -> None:
    strings = json.loads(data("bad", "strings.json").read_text(encoding="utf-8"))
    assert len(strings) > 400
    for string in strings:
        for media_type in ("text/plain", "text/markdown", "text/html"):
            try:
                parse(string, media_type, title=string)
            except LetheError:
                continue
