"""Passages: whole blocks where they fit, whole sentences where they do not, never a lost heading."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from sources.decoding import clean_text
from sources.passages import MAX_SIZE, TARGET_SIZE, TINY_SIZE, measure
from tests.sources.checks import check, parse, texts

SENTENCE = "The quick brown fox number {} jumps over the lazy dog near the river bank. "
PIECES = (
    "word/A sentence ends. /\n\n/\n/# Heading\n\n/## Sub\n/- item\n/| a | b |\n/|---|---|\n/```\n/> quote\n/中文句子。/é"
    "/---\n/title: x\n/\t/    code\n/Setext\n===\n/1. one\n/[ref]: url\n/<div>\n/\r\n/\u200d"
)
WORDS = st.sampled_from([*PIECES.split("/"), "x" * 1500, "long " * 300, "e\u0301" * 700])
DOCUMENTS = st.lists(WORDS, max_size=40).map("".join)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS)
def test_markdown_and_text_keep_every_character(source: str) -> None:
    """The extracted text is the source, and passages cover it."""
    for media_type in ("text/plain", "text/markdown"):
        if not clean_text(source).strip():
            continue
        parsed = parse(source, media_type)
        assert parsed.text == clean_text(source)
        assert parsed == parse(source, media_type)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from(["text/plain", "text/markdown", "text/html", "application/json"])
)
def test_any_bytes_parse_or_are_refused(body: bytes, media_type: str) -> None:
    try:
        check(parse(body, media_type))
    except InvalidInputError as error:
        assert error.what


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    parsed = parse("".join(SENTENCE.format(number) for number in range(60)))

    assert all(piece.endswith("bank.") and piece.startswith("The quick") for piece in texts(parsed))
    assert all(TARGET_SIZE / 2 < len(piece) <= TARGET_SIZE for piece in texts(parsed)[:-1])


def test_a_paragraph_that_fits_is_never_cut() -> None:
    paragraphs = [
        "".join(SENTENCE.format(number) for number in range(size)).strip() for size in (9, 14, 3, 14, 2)
    ]
    pieces = texts(parse("\n\n".join(paragraphs)))

    assert all(any(paragraph in piece for piece in pieces) for paragraph in paragraphs)


def test_passages_stay_in_their_section() -> None:
    body = SENTENCE.format(1) * 5
    parsed = parse(
        f"# Guide\n\n{body}\n\n## Setup\n\n{body}\n\n## Use\n\n{body}", "text/markdown", title="Manual"
    )

    assert [passage.heading for passage in parsed.passages] == [
        ("Guide",),
        ("Guide", "Setup"),
        ("Guide", "Use"),
    ]
    assert [passage.context for passage in parsed.passages] == [
        "Manual > Guide",
        "Manual > Guide > Setup",
        "Manual > Guide > Use",
    ]
    assert [section.parent for section in parsed.sections] == [None, 0, 1, 1]


def test_a_heading_is_never_alone() -> None:
    body = SENTENCE.format(1) * 30
    parsed = parse(f"# Part\n\n## Chapter\n\n### Hours\n\n{body}\n\n## End\n\nTwo lines.", "text/markdown")

    assert texts(parsed)[0].startswith("# Part\n\n## Chapter\n\n### Hours\n\nThe quick")
    assert parsed.passages[0].heading == ("Part", "Chapter", "Hours")
    assert texts(parsed)[-1] == "## End\n\nTwo lines."


def test_tiny_sections_share_a_passage_until_it_can_stand_alone() -> None:
    parsed = parse("\n\n".join(f"## Q{n}\n\nA short answer, number {n}." for n in range(40)), "text/markdown")

    assert all(TINY_SIZE <= len(piece) <= TARGET_SIZE for piece in texts(parsed)[:-1])


def test_a_split_table_repeats_its_header_in_context() -> None:
    rows = "\n".join(f"| item {n} | {n * 7} pieces | on shelf {n} in the hall |" for n in range(60))
    parsed = parse(f"# Stock\n\n| name | count | place |\n|---|---|---|\n{rows}\n", "text/markdown")

    assert len(parsed.passages) > 2
    for passage in parsed.passages[1:]:
        assert passage.context == "Stock\n| name | count | place |"
        assert all(line.startswith("| item") for line in parsed.text[passage.start : passage.end].split("\n"))


def test_a_list_stays_with_the_line_that_announces_it() -> None:
    items = "\n".join(f"- ingredient {n} of the long list" for n in range(25))
    parsed = parse(f"{SENTENCE.format(1) * 6}\n\nYou need:\n\n{items}\n", "text/markdown")

    assert texts(parsed)[1].startswith("You need:\n\n- ingredient 0")


def test_chinese_is_cut_at_its_own_sentence_marks() -> None:
    parsed = parse("这是一个关于记忆系统的很长的句子。" * 100)

    assert all(piece.endswith("。") and measure(piece) <= MAX_SIZE for piece in texts(parsed))
    assert len(parsed.passages) >= 3


def test_a_word_without_end_is_cut_in_linear_time() -> None:
    parsed = parse("x" * 300_000)

    assert len(parsed.passages) == 250


THAI = "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย"
LAO = "ນະຄອນຫຼວງວຽງຈັນເປັນເມືອງຫຼວງຂອງສາທາລະນະລັດປະຊາທິປະໄຕປະຊາຊົນລາວ"
KHMER = "រាជធានីភ្នំពេញជាទីក្រុងធំជាងគេនៃព្រះរាជាណាចក្រកម្ពុជា"
JAPANESE = "東京は日本の首都であり世界でも最大級の都市圏のひとつとして知られている"


@pytest.mark.parametrize("sentence", [THAI, LAO, KHMER, JAPANESE])
def test_scripts_without_spaces_are_cut_where_no_sign_is_torn(sentence: str) -> None:
    """No passage begins with a mark that belongs to the letter before, or ends with a vowel that leads on."""
    parsed = parse(sentence * 60)

    pieces = texts(parsed)
    assert len(pieces) > 2
    assert all(measure(piece) > MAX_SIZE / 4 for piece in pieces[:-1])
    for piece in pieces:
        assert unicodedata.category(piece[0])[0] != "M"
        assert piece[0] not in "ะาำๆະາຳっゃゅょー、。"
        assert piece[-1] not in "เแโใไເແໂໃໄ\u17d2"


def test_a_long_run_is_cut_after_a_clause_where_there_is_one() -> None:
    parsed = parse(("これは長い文の一部で、" * 9 + "まだ続く、") * 12)

    assert all(piece.endswith("、") for piece in texts(parsed))


def test_japanese_without_any_mark_is_cut_before_a_kanji() -> None:
    parsed = parse(JAPANESE * 60)

    assert all(piece[0] >= "\u4e00" for piece in texts(parsed))
