"""Tables, mail, captions and code kept as text: rows, times and lines are known, and names are headings."""

import pytest

from sources import media_types
from sources.parse import guess_media_type
from tests.sources import samples
from tests.sources.checks import data, parse, texts


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_whatever_parts_the_cells_is_found(delimiter: str) -> None:
    rows = [["name", "says", "born"], ["Ada", '"a, b; c|d"', "1815"], ["Kim", "", "1990"]]
    body = "\n".join(delimiter.join(row) for row in rows)

    parsed = parse(body, "text/csv")

    assert parsed.text == "| name | says | born |\n| Ada | a, b; c|d | 1815 |\n| Kim |  | 1990 |"


def test_a_long_table_of_text_knows_its_rows_and_header() -> None:
    body = "id,name\n" + "\n".join(f"{n},item {n}" if n % 50 else "" for n in range(1, 2000))

    parsed = parse(body, "text/csv")

    for passage, text in zip(parsed.passages[1:], texts(parsed)[1:], strict=True):
        assert passage.place is not None and passage.place.kind == "row"
        assert text.startswith(f"| {passage.place.first - 1} |")
        assert text.split("\n")[-1].startswith(f"| {passage.place.last - 1} |")
        assert passage.context == "| id | name |"


def test_a_row_too_wide_for_a_line_names_its_columns() -> None:
    header = ",".join(f"measure {n}" for n in range(200))
    parsed = parse(f"{header}\n{','.join(str(n * 7) for n in range(200))}\n", "text/csv")

    passage = next(
        passage
        for passage, text in zip(parsed.passages, texts(parsed), strict=True)
        if "measure 150: 1050" in text
    )
    assert passage.place is not None and (passage.place.first, passage.place.last) == (2, 2)


def test_uneven_rows_are_read_and_named() -> None:
    parsed = parse("a,b\n1,2\n1,2,3\n", "text/csv")

    assert parsed.warnings == ("1 of the rows have more or fewer cells than the first (row 3)",)


def test_columns_beyond_the_limit_are_named_in_a_warning() -> None:
    parsed = parse(",".join(f"c{n}" for n in range(100_000)) + "\n" + "1," * 99_999 + "1", "text/csv")

    assert parsed.warnings == ("the file has 100000 columns; 20000 were read",)


def test_a_mail_has_its_fields_its_plain_text_and_names_what_is_attached() -> None:
    parsed = parse(samples.MAIL, media_types.EML)

    assert parsed.title == "Grüße"
    assert parsed.text == (
        "From: Jürgen <j@example.org>\nTo: kim@example.org\nDate: Mon, 6 May 2024 10:00:00 +0200\nSubject: Grüße\n\n"
        "The boat is ready.\n\nSee you at the quay."
    )
    assert parsed.warnings == (
        "attachments were not read; send each as a file of its own: plan.pdf (application/pdf)",
    )


def test_a_mail_of_html_alone_and_a_forwarded_mail_are_read() -> None:
    html = b"From: a@b.c\nSubject: Hi\nContent-Type: text/html\n\n<p>Only <b>this</b>.</p>"
    assert parse(html, media_types.EML).text == "From: a@b.c\nSubject: Hi\n\nOnly this."

    forwarded = b"From: x@y.z\nSubject: Fwd\nContent-Type: message/rfc822\n\n" + html
    parsed = parse(forwarded, media_types.EML)
    assert parsed.text.endswith("From: a@b.c\nSubject: Hi\n\nOnly this.")
    assert parsed.sections[1].heading == ("Hi",)


def test_captions_are_running_text_with_speakers_and_times() -> None:
    parsed = parse(samples.VTT, "text/vtt")

    assert parsed.title == "Watch"
    assert parsed.text == "Ada: Is the lamp lit?\n\nBo: It is & bright.\n\nGulls cry."
    assert parsed.passages[0].place is not None
    assert (parsed.passages[0].place.kind, parsed.passages[0].place.first) == ("time", 1000)
    assert parsed.passages[-1].place is not None and parsed.passages[-1].place.last == 3_602_000
    assert "Ada, Bo" in parsed.passages[0].context


def test_subrip_captions_join_sentences_over_cues() -> None:
    parsed = parse(samples.SRT, "application/x-subrip")

    assert parsed.text == "Land ahoy, captain!"
    assert parsed.passages[0].place is not None and parsed.passages[0].place.last == 4000


def test_rolling_captions_are_told_once() -> None:
    cues = ["one two", "one two\nthree four", "three four\nfive six"]
    body = "WEBVTT\n\n" + "\n\n".join(f"00:0{n}.000 --> 00:0{n + 1}.000\n{cue}" for n, cue in enumerate(cues))

    assert parse(body, "text/vtt").text == "one two three four five six"


def test_captions_without_marks_are_parted_by_time() -> None:
    """Nothing says where a sentence ends: a quote of one would be all that is said without a pause."""
    words = [f"word{n} and more of it" for n in range(12)]
    body = "WEBVTT\n\n" + "\n\n".join(
        f"00:{3 * n:02}.000 --> 00:{3 * n + 3:02}.000\n{said}" for n, said in enumerate(words)
    )
    parsed = parse(body, "text/vtt")
    assert [part.count("word") for part in parsed.text.split("\n\n")] == [3, 3, 3, 3]
    assert parsed.text.replace("\n\n", " ") == " ".join(words)

    body = body.replace("word3 and more of it", "word3 and more of it.")
    body = body.replace("word11 and more of it", "word11 and more of it.")
    assert "\n\n" not in parse(body, "text/vtt").text, "a long sentence goes on where others end"


def test_code_is_cut_at_definitions_with_their_names_and_lines() -> None:
    parsed = parse(samples.PYTHON * 12, "text/x-python", filename="boats.py")

    assert parsed.text == (samples.PYTHON * 12).decode()
    assert [section.heading[0] for section in parsed.sections[1:4]] == ["load", "Boat", "LIMIT"]
    lines = parsed.text.split("\n")
    for passage, text in zip(parsed.passages, texts(parsed), strict=True):
        assert passage.place is not None and passage.place.kind == "line"
        assert lines[passage.place.first - 1].strip() == text.split("\n")[0].strip()
        assert lines[passage.place.last - 1].strip() == text.split("\n")[-1].strip()


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        (
            "a.go",
            "package a\n\nfunc (b *Boat) Sail(n int) error {\n\treturn nil\n}\n\ntype Quay struct {\n\tN int\n}\n",
            ["a", "Sail", "Quay struct"],
        ),
        (
            "a.rs",
            "#[derive(Debug)]\npub struct Boat {\n    n: u8,\n}\n\nimpl Boat {\n    fn sail(&self) {}\n}\n",
            ["Boat", "Boat"],
        ),
        (
            "a.ts",
            "export const sail = async (b) => {\n  go()\n}\n\nexport class Quay<T> {\n}\n",
            ["sail", "Quay"],
        ),
        ("a.c", "#include <x.h>\n\nstatic int sail(int n)\n{\n    return n;\n}\n", ["sail"]),
        ("a.java", "public class Boat extends Hull {\n  void sail() {\n  }\n}\n", ["Boat extends Hull"]),
        ("a.sh", "sail() {\n  echo\n}\n", ["sail"]),
        ("a.toml", "[boat]\nn = 1\n\n[quay]\nn = 2\n", ["[boat]", "[quay]"]),
    ],
)
def test_definitions_of_common_languages_are_headings(name: str, source: str, expected: list[str]) -> None:
    parsed = parse(source, guess_media_type(name, source.encode()))

    assert parsed.text == source
    assert [section.heading[-1] for section in parsed.sections[1:]] == expected


def test_a_large_object_has_sections_and_key_paths() -> None:
    boats = ",".join(
        f'{{"name": "Boat {n}", "crew": {{"size": {n}}}, "log": ["{"x" * 40}"]}}' for n in range(40)
    )
    parsed = parse(f'{{"port": "Solvik", "boats": [{boats}]}}', "application/json")

    passage = next(
        p for p, text in zip(parsed.passages, texts(parsed), strict=True) if "boats[17].crew.size: 17" in text
    )
    assert passage.heading[0] == "boats"
    assert parsed.text.startswith("port: Solvik\n\nboats[0].name: Boat 0\nboats[0].crew.size: 0")


def test_real_captions_mail_and_tables() -> None:
    captions = parse(data("documents", "webvtt", "webvtt_example_01.vtt").read_bytes(), "text/vtt")
    assert captions.passages[0].place is not None and captions.passages[0].place.first == 11_000
    assert "Neil deGrasse Tyson: Didn’t we talk about enough in that conversation?" in captions.text

    mail = parse(data("documents", "email", "eml_with_attachment.eml").read_bytes(), media_types.EML)
    assert mail.title == "Email with Attachment"
    assert "test.txt" in mail.warnings[0]

    table = parse(data("documents", "csv", "csv-semicolon.csv").read_bytes(), "text/csv")
    assert "| 3 | 6F94879bDAfE5a6 | Roy | Berry |" in table.text
    assert table.passages[0].place is not None and table.passages[0].place.last == 6


@pytest.mark.parametrize(
    "media_type", [kind for kind in samples.SAMPLES if kind in media_types.EXTENSIONS.values()]
)
def test_content_overrules_a_wrong_name(media_type: str) -> None:
    body = samples.SAMPLES[media_type]
    told = body.startswith((b"PK", b"{\\rtf"))
    extension = next(name for name, kind in media_types.EXTENSIONS.items() if kind == media_type)

    assert guess_media_type(f"right{extension}", body) == media_type
    assert guess_media_type("wrong.txt", body) == (media_type if told else "text/plain")


@pytest.mark.parametrize(
    ("filename", "head", "expected"),
    [
        ("report.txt", b"%PDF-1.7", "application/pdf"),
        ("letter.docx", b"dear all", media_types.DOCX),
        (
            "letter.doc",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"),
            "application/msword",
        ),
        (None, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "Workbook".encode("utf-16-le"), media_types.XLS),
        (None, b"PK\x03\x04" + bytes(60), "application/octet-stream"),
        (None, b"WEBVTT\n\n", "text/vtt"),
        (None, samples.MAIL, media_types.EML),
        ("main.rs", b"fn main() {}", "text/x-rust"),
    ],
)
def test_types_are_guessed_by_content_then_name(filename: str | None, head: bytes, expected: str) -> None:
    assert guess_media_type(filename, head) == expected
