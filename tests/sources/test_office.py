"""Office files: headings, lists, tables and notes survive, furniture does not, and every passage knows its place."""

import pytest

from memory.errors import InvalidInputError
from memory.values import Parsed, Passage
from sources import media_types
from sources.odf import extract_ods
from tests.sources import samples
from tests.sources.checks import data, parse, texts

RUN = "<w:r><w:t>{}</w:t></w:r>"


def paragraph(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr>{RUN.format(text)}</w:p>"


def holding(parsed: Parsed, words: str) -> Passage:
    return next(
        passage for passage, text in zip(parsed.passages, texts(parsed), strict=True) if words in text
    )


def place(parsed: Parsed, words: str) -> tuple[str, int, int] | None:
    told = holding(parsed, words).place
    return None if told is None else (told.kind, told.first, told.last)


def test_a_word_document_keeps_its_structure() -> None:
    parsed = parse(samples.docx(), media_types.DOCX)

    assert parsed.text == (
        "Harbour rules\n\nBoats moor at the east quay.\n\nFees\n\n1. Dinghies pay two crowns.\n2. Yachts pay nine crowns."
        "\n\n| Berth | Length | Owner |\n| A1 | 8 m | Ada |\n| A2 | 9 m | Ada |"
    )
    assert ("Harbour rules", "Fees") in [section.heading for section in parsed.sections]


def test_a_word_document_reads_with_all_changes_accepted() -> None:
    body = (
        f"<w:p>{RUN.format('The ')}<w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:ins>{RUN.format('new')}</w:ins>"
        f"<w:moveFrom>{RUN.format(' gone')}</w:moveFrom><w:r><w:rPr><w:vanish/></w:rPr><w:t> secret</w:t></w:r>"
        f"{RUN.format(' quay')}</w:p>"
    )
    assert parse(samples.docx_of(body), media_types.DOCX).text == "The new quay"


def test_a_note_follows_the_paragraph_that_refers_to_it() -> None:
    body = f'<w:p>{RUN.format("High water.")}<w:r><w:footnoteReference w:id="7"/></w:r></w:p>{paragraph("Low water.")}'
    notes = f'<w:footnote w:id="-1" w:type="separator"/><w:footnote w:id="7">{paragraph("By the old clock.")}</w:footnote>'

    parsed = parse(samples.docx_of(body, footnotes=notes), media_types.DOCX)

    assert parsed.text == "High water.[1]\n\n[1] By the old clock.\n\nLow water."


def test_numbers_of_lists_are_counted_as_the_program_shows_them() -> None:
    level = '<w:lvl w:ilvl="{}"><w:start w:val="1"/><w:numFmt w:val="{}"/><w:lvlText w:val="{}"/></w:lvl>'
    numbering = (
        f'<w:abstractNum w:abstractNumId="0">{level.format(0, "upperRoman", "%1.")}{level.format(1, "lowerLetter", "(%2)")}'
        '</w:abstractNum><w:num w:numId="3"><w:abstractNumId w:val="0"/></w:num>'
    )
    items = [(0, "one"), (1, "a"), (1, "b"), (0, "two"), (1, "a again")]
    numbered = '<w:numPr><w:ilvl w:val="{}"/><w:numId w:val="3"/></w:numPr>'
    body = "".join(paragraph(text, numbered.format(depth)) for depth, text in items)

    parsed = parse(samples.docx_of(body, numbering=numbering), media_types.DOCX)

    assert parsed.text == "I. one\n  (a) a\n  (b) b\nII. two\n  (a) a again"


def test_a_text_box_is_told_once_and_a_nested_table_stays_in_its_cell() -> None:
    box = f"<w:txbxContent>{paragraph('In the box')}</w:txbxContent>"
    boxed = (
        f"<w:p>{RUN.format('Beside')}<w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
        "</mc:AlternateContent></w:r></w:p>"
    )
    cell = "<w:tc>{}</w:tc>".format
    inner = f"<w:tbl><w:tr>{cell(paragraph('x'))}{cell(paragraph('y'))}</w:tr></w:tbl>"
    table = f"<w:tbl><w:tr>{cell(paragraph('left'))}{cell(inner + paragraph('after'))}</w:tr></w:tbl>"

    parsed = parse(samples.docx_of(boxed + table), media_types.DOCX)

    assert parsed.text == "Beside\n\nIn the box\n\n| left | x, y after |"


def test_a_presentation_has_slides_titles_groups_tables_and_notes() -> None:
    parsed = parse(samples.pptx(), media_types.PPTX)

    assert parsed.text == (
        "Lighthouse plan\n\n- Paint the tower\n- Mend the lamp\n\nNotes: Ask for three offers.\n\nCosts\n\n"
        "| Item | Crowns |\n| Paint | 120 |\n\nIn a group"
    )
    assert [section.heading for section in parsed.sections[1:]] == [
        ("Lighthouse plan",),
        ("Costs",),
        ("Slide 3",),
    ]


def test_a_workbook_has_sheets_rows_and_dates() -> None:
    parsed = parse(samples.xlsx(), media_types.XLSX)

    assert parsed.text == (
        "Catches\n\n| Boat | Day | Weight | Sold |\n| Boat 1 | 2024-03-02 | 1.5 | false |\n"
        "| Boat 2 | 2024-03-03 | 3 | true |\n| Boat 3 | 2024-03-04 | 4.5 | false |\n\nCrew\n\nNames\n\nKim"
    )
    assert place(parsed, "Boat 2") == ("row", 1, 4)
    assert place(parsed, "Kim") == ("row", 5, 7)
    assert holding(parsed, "Kim").heading == ("Crew",)


def test_each_part_of_a_long_sheet_knows_its_rows_and_the_header() -> None:
    parsed = parse(samples.xlsx(500), media_types.XLSX, title="Fish")

    assert len(parsed.passages) > 10
    catches = [passage for passage in parsed.passages if passage.heading == ("Catches",)]
    for passage in catches[1:]:
        assert passage.place is not None
        lines = parsed.text[passage.start : passage.end].split("\n")
        assert lines[0].startswith(f"| Boat {passage.place.first - 1} |")
        assert lines[-1].startswith(f"| Boat {passage.place.last - 1} |")
        assert passage.context == "Fish > Catches\n| Boat | Day | Weight | Sold |"


def test_an_open_document_text_keeps_its_structure() -> None:
    parsed = parse(samples.odt(), media_types.ODT)

    assert parsed.text == (
        "Tides\n\nHigh water at noon.[1]\n\n[1] By the old clock.\n\n- Ebb\n  - slow\n\n| Day | Hour |\n| Monday | 12 |"
    )


def test_an_open_document_presentation_has_slides() -> None:
    parsed = parse(samples.odp(), media_types.ODP)

    assert parsed.text == "Buoys\n\nRed to port.\n\nBells\n\nNotes: Ring"
    assert [section.heading for section in parsed.sections[1:]] == [("Buoys",), ("Slide 2",)]
    assert place(parsed, "Bells") == ("slide", 1, 2)


def test_an_open_document_sheet_ends_where_its_content_does() -> None:
    parsed = parse(samples.ods(), media_types.ODS)

    assert parsed.text == "Levels\n\n| Day | Level |\n| 2024-05-06 | 3.4 |"
    assert place(parsed, "3.4") == ("row", 1, 2)


def test_a_repeated_row_is_believed_only_so_far() -> None:
    cells = '<table:table-cell table:number-columns-repeated="3"><text:p>x</text:p></table:table-cell>'
    row = f'<table:table-row table:number-rows-repeated="999999999">{cells}</table:table-row>'
    body = samples.opendocument("spreadsheet", f'<table:table table:name="s">{row}</table:table>')

    assert extract_ods(body, None).warnings == ("a row said to be there 999999999 times was read 500 times",)


def test_a_book_reads_in_the_order_of_its_spine_under_its_contents() -> None:
    parsed = parse(samples.epub(), media_types.EPUB)

    assert parsed.title == "The Sea"
    assert parsed.text.index("Text of chapter 1") < parsed.text.index("Text of chapter 0")
    assert [section.heading for section in parsed.sections[1:]] == [
        ("Chapter 1",),
        ("Chapter 1", "Part"),
        ("Chapter 0",),
        ("Chapter 0", "Part"),
    ]


def test_a_protected_book_is_refused() -> None:
    inside = samples.members(samples.epub())
    inside["META-INF/encryption.xml"] = (
        '<e><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></e>'
    )
    with pytest.raises(InvalidInputError, match="DRM"):
        parse(samples.zipped(inside), media_types.EPUB)


def test_rich_text_keeps_headings_notes_lists_and_tables() -> None:
    parsed = parse(samples.RTF, media_types.RTF)

    assert parsed.title == "Ropes"
    assert parsed.text == (
        "Knots\n\nA bowline holds – well… and При. [Old saying.]".replace(
            ". [Old saying.]", ". [Old saying.]"
        )
        + "\n\n1. First turn\n2. Second turn\n\n| Name | Use |\n| Hitch | Post |\n\nDone."
    )
    assert ("Knots",) in [section.heading for section in parsed.sections]


# Landmarks in real files: what a reader would look up, and where.


def test_real_word_document() -> None:
    parsed = parse(data("documents", "docx", "word_sample.docx").read_bytes(), media_types.DOCX)

    assert parsed.title == "Swimming in the lake"
    assert holding(parsed, "| Leaves | Ash, Elm, Maple | 50 |").heading == ("Let’s swim!", "Let’s eat")
    assert "1. Wear sunglasses\n2. Don’t forget to drink water" in parsed.text


def test_real_word_document_of_the_strict_kind_and_with_equations() -> None:
    assert parse(data("documents", "docx", "Strict.docx").read_bytes(), media_types.DOCX).text == "Some text"
    equations = parse(data("documents", "docx", "equations.docx").read_bytes(), media_types.DOCX).text
    assert "a^2+b^2=c^2" in equations
    assert "(x+a)^n=∑_(k=0)^n" in equations


def test_real_presentations() -> None:
    parsed = parse(
        data("documents", "pptx", "powerpoint_unrecognized_shape.pptx").read_bytes(), media_types.PPTX
    )
    assert holding(parsed, "Finalize pricing model").heading == ("Next Steps",)
    assert place(parsed, "Finalize pricing model") == ("slide", 3, 3)

    chart = parse(data("documents", "pptx", "pptx_chart.pptx").read_bytes(), media_types.PPTX)
    assert "|  | Freshwater Ducks | Saltwater Ducks |\n| 2019 | 120 | 80 |" in chart.text


def test_real_workbooks() -> None:
    parsed = parse(data("documents", "xlsx", "xlsx_01.xlsx").read_bytes(), media_types.XLSX)
    assert holding(parsed, "first (f)").heading == ("Sheet3",)
    assert place(parsed, "first (f)") == ("row", 1, 13)

    titled = parse(data("documents", "xlsx", "xlsx_05_table_with_title.xlsx").read_bytes(), media_types.XLSX)
    assert "Number of freshwater ducks per year\n\n| Year | Freshwater Ducks |\n| 2019 | 120 |" in titled.text


def test_real_open_document_and_book() -> None:
    rich = parse(data("documents", "odf", "text_document_03.odt").read_bytes(), media_types.ODT)
    assert "| A, B, C; Cell 1, Cell 2, Cell 3 |" in rich.text
    book = parse(data("documents", "epub", "epub_purvis_poetry.epub").read_bytes(), media_types.EPUB)
    assert book.title == "Poetry"
    assert holding(book, "shall we sorrow that death was thy friend").heading == ("The Grave of the Slave",)
