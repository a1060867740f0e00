"""Small valid files of every format, made here: what the tests of formats read, and what they damage."""

import io
import zipfile
from datetime import datetime

import xlsxwriter
from docx import Document
from pptx import Presentation
from pptx.util import Inches

from sources import media_types

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{space}:1.0"'
    for name, space in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("draw", "drawing"),
        ("presentation", "presentation"),
        ("style", "style"),
    )
)


def zipped(members: dict[str, str | bytes]) -> bytes:
    """A zip file; ``mimetype`` comes first and unpacked, as its formats want it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            method = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(name, data, compress_type=method)
    return buffer.getvalue()


def members(body: bytes) -> dict[str, str | bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def docx() -> bytes:
    document = Document()
    document.add_heading("Harbour rules", 1)
    document.add_paragraph("Boats moor at the east quay.")
    document.add_heading("Fees", 2)
    for item in ("Dinghies pay two crowns.", "Yachts pay nine crowns."):
        document.add_paragraph(item, style="List Number")
    table = document.add_table(rows=3, cols=3)
    for row, cells in enumerate((("Berth", "Length", "Owner"), ("A1", "8 m", "Ada"), ("A2", "9 m", ""))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    table.cell(1, 2).merge(table.cell(2, 2))
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def docx_of(body: str, **parts: str) -> bytes:
    """A DOCX whose body is the given XML; ``parts`` (footnotes, numbering, styles) are roots of their own."""
    kinds = "".join(
        f'<Relationship Id="r{name}" Type="http://x/relationships/{name}" Target="{name}.xml"/>'
        for name in parts
    )
    files: dict[str, str | bytes] = {
        "_rels/.rels": "<Relationships><Relationship Id='d' Type='http://x/relationships/officeDocument' "
        "Target='word/document.xml'/></Relationships>",
        "word/_rels/document.xml.rels": f"<Relationships>{kinds}</Relationships>",
        "word/document.xml": f'<w:document xmlns:w="{W}" xmlns:mc="urn:mc"><w:body>{body}</w:body></w:document>',
    }
    files |= {f"word/{name}.xml": f'<w:{name} xmlns:w="{W}">{xml}</w:{name}>' for name, xml in parts.items()}
    return zipped(files)


def pptx() -> bytes:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Lighthouse plan"
    slide.placeholders[1].text = "Paint the tower\nMend the lamp"
    slide.notes_slide.notes_text_frame.text = "Ask for three offers."
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Costs"
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for row, cells in enumerate((("Item", "Crowns"), ("Paint", "120"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "In a group"
    buffer = io.BytesIO()
    deck.save(buffer)
    return buffer.getvalue()


def xlsx(rows: int = 3) -> bytes:
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        sheet = book.add_worksheet("Catches")
        sheet.write_row(0, 0, ["Boat", "Day", "Weight", "Sold"])
        for row in range(1, rows + 1):
            sheet.write(row, 0, f"Boat {row}")
            sheet.write_datetime(row, 1, datetime(2024, 3, row % 28 + 1), day)
            sheet.write(row, 2, row * 1.5)
            sheet.write_boolean(row, 3, row % 2 == 0)
        book.add_worksheet("Empty")
        sheet = book.add_worksheet("Crew")
        sheet.write(4, 2, "Names")
        sheet.write(6, 2, "Kim")
    return buffer.getvalue()


def opendocument(kind: str, content: str) -> bytes:
    """An OpenDocument file; ``kind`` is text, presentation or spreadsheet."""
    return zipped(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": f"<office:document-content {ODF}><office:body><office:{kind}>{content}"
            f"</office:{kind}></office:body></office:document-content>",
        }
    )


def odt() -> bytes:
    return opendocument(
        "text",
        '<text:h text:outline-level="1">Tides</text:h><text:tracked-changes><text:p>gone</text:p>'
        "</text:tracked-changes><text:p>High<text:s/>water at<text:tab/>noon.<text:note><text:note-citation>1"
        "</text:note-citation><text:note-body><text:p>By the old clock.</text:p></text:note-body></text:note>"
        "</text:p><text:list><text:list-item><text:p>Ebb</text:p><text:list><text:list-item><text:p>slow</text:p>"
        "</text:list-item></text:list></text:list-item></text:list><table:table><table:table-row><table:table-cell>"
        "<text:p>Day</text:p></table:table-cell><table:table-cell><text:p>Hour</text:p></table:table-cell>"
        "</table:table-row><table:table-row><table:table-cell><text:p>Monday</text:p></table:table-cell>"
        "<table:table-cell><text:p>12</text:p></table:table-cell></table:table-row></table:table>",
    )


def odp() -> bytes:
    page = (
        '<draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>{}</text:p></draw:text-box>'
        "</draw:frame><draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
        "<presentation:notes><draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
        "</presentation:notes></draw:page>"
    )
    return opendocument(
        "presentation", page.format("Buoys", "Red to port.", "") + page.format("", "Bells", "Ring")
    )


def ods() -> bytes:
    row = "<table:table-row>{}</table:table-row>"
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    header = row.format(cell.format("Day") + cell.format("Level"))
    dated = row.format(
        '<table:table-cell office:value-type="date" office:date-value="2024-05-06"><text:p>6/5/24</text:p>'
        "</table:table-cell>" + cell.format("3.4")
    )
    gap = '<table:table-row table:number-rows-repeated="1000000"><table:table-cell/></table:table-row>'
    return opendocument("spreadsheet", f'<table:table table:name="Levels">{header}{dated}{gap}</table:table>')


def epub(chapters: int = 2) -> bytes:
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(chapters)
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(chapters)))
    links = "".join(f'<li><a href="c{n}.xhtml">Chapter {n}</a></li>' for n in range(chapters))
    pages: dict[str, str | bytes] = {
        f"OPS/c{n}.xhtml": f"<html><body><p>Text of chapter {n}, about the sea.</p><h2>Part</h2><p>More.</p></body></html>"
        for n in range(chapters)
    }
    return zipped(
        {
            "mimetype": media_types.EPUB,
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>',
            "OPS/book.opf": '<package><metadata><title>The Sea</title></metadata><manifest><item id="nav" href="nav.xhtml" '
            f'properties="nav" media-type="application/xhtml+xml"/>{items}</manifest><spine>{spine}</spine></package>',
            "OPS/nav.xhtml": f'<html><body><nav epub:type="toc"><ol>{links}</ol></nav></body></html>',
            **pages,
        }
    )


RTF = rb"""{\rtf1\ansi\ansicpg1252{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial;}}
{\stylesheet{\s0 Normal;}{\s1\outlinelevel0 heading 1;}}{\info{\title Ropes}}{\header left out}
\pard\s1 Knots\par\pard A bowline holds \'96 well\u8230? and {\f1\'cf\'f0\'e8}{\v hidden}{\deleted gone}.{\footnote Old saying.}\par
{\listtext 1.\tab}First turn\par{\listtext 2.\tab}Second turn\par
\trowd\intbl Name\cell Use\cell\row\trowd\intbl Hitch\cell Post\cell\row\pard Done.\par}"""

MAIL = b"""From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>
To: kim@example.org
Date: Mon, 6 May 2024 10:00:00 +0200
Subject: =?utf-8?b?R3LDvMOfZQ==?=
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=outer

--outer
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

The boat is ready=2E

See you at the quay.
--inner
Content-Type: text/html

<p>The boat is ready (HTML).</p>
--inner--
--outer
Content-Type: application/pdf; name=plan.pdf
Content-Disposition: attachment; filename=plan.pdf

xxxx
--outer--
"""

VTT = b"""WEBVTT - Watch

NOTE not said

1
00:00:01.000 --> 00:00:03.000
<v Ada>Is the lamp
lit?</v>

2
00:00:03.500 --> 00:00:05.000
<v Bo>It is &amp; bright.

01:00:00.000 --> 01:00:02.000
Gulls cry.
"""

SRT = b"1\n00:00:01,000 --> 00:00:02,500\n<i>Land ahoy,\n\n2\n00:00:02,500 --> 00:00:04,000\ncaptain!</i>\n"

PYTHON = b'''"""A module."""
import os

@cached
def load(path):
    """Read."""
    return os.read(path)


class Boat:
    def sail(self):
        pass


LIMIT = 4
'''

SAMPLES: dict[str, bytes] = {
    media_types.DOCX: docx(),
    media_types.PPTX: pptx(),
    media_types.XLSX: xlsx(),
    media_types.ODT: odt(),
    media_types.ODP: odp(),
    media_types.ODS: ods(),
    media_types.EPUB: epub(),
    media_types.RTF: RTF,
    media_types.EML: MAIL,
    "text/csv": b"name;born\nAda;1815\nKim;1990\n",
    "text/tab-separated-values": b"name\tborn\nAda\t1815\n",
    "text/vtt": VTT,
    "application/x-subrip": SRT,
    "text/x-python": PYTHON,
    "application/json": b'{"a": [{"b": 1}, {"c": [true, null]}]}',
    "text/html": b"<h1>Tide</h1><table><tr><th>a<th>b<tr><td>1<td>2</table>",
    "text/markdown": b"# Tide\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
}
