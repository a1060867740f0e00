"""Sentences: cut where a reader would, with spans that can be quoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.sentences import sentence_spans

CASES = {
    "titles and initials": (
        "Dr. Smith met J. R. R. Tolkien. They spoke.",
        ["Dr. Smith met J. R. R. Tolkien.", "They spoke."],
    ),
    "decimals and money": ("It costs $3.50 now. Cheap.", ["It costs $3.50 now.", "Cheap."]),
    "abbreviation before a capital": (
        "The U.S. Senate met on Jan. 5. It voted.",
        ["The U.S. Senate met on Jan. 5.", "It voted."],
    ),
    "company then a new sentence": (
        "He left Apple Inc. The rest stayed.",
        ["He left Apple Inc.", "The rest stayed."],
    ),
    "quotes": ('"Really?" he asked. "Yes."', ['"Really?" he asked.', '"Yes."']),
    "reference marks": ("First one.[1][2] Second one.", ["First one.[1][2]", "Second one."]),
    "chinese and japanese": (
        "今日は晴れ。明日は雨！我来自北京。",
        ["今日は晴れ。", "明日は雨！", "我来自北京。"],
    ),
    "marks of ascii among wide characters": (
        "你去过上海吗?我去过!真的吗？真的。",
        ["你去过上海吗?", "我去过!", "真的吗？", "真的。"],
    ),
    "japanese quotes": (
        "「もう遅い。」と母が言った。父は黙っていた。",
        ["「もう遅い。」と母が言った。", "父は黙っていた。"],
    ),
    "thai, where a space may part sentences": (
        "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย เป็นศูนย์กลางการปกครอง การศึกษา "
        "การคมนาคมขนส่ง การเงินการธนาคาร การพาณิชย์ การสื่อสาร และความเจริญของประเทศ",
        [
            "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย",
            "เป็นศูนย์กลางการปกครอง การศึกษา การคมนาคมขนส่ง การเงินการธนาคาร "
            "การพาณิชย์ การสื่อสาร และความเจริญของประเทศ",
        ],
    ),
    "a short thai phrase is not cut": ("สวัสดีครับ ผมชื่อสมชาย", ["สวัสดีครับ ผมชื่อสมชาย"]),
    "khmer": ("ខ្ញុំទៅផ្សារ។ គាត់ទៅសាលា។", ["ខ្ញុំទៅផ្សារ។", "គាត់ទៅសាលា។"]),
    "hindi and arabic": ("मैं ठीक हूँ। هل أنت بخير؟ نعم.", ["मैं ठीक हूँ।", "هل أنت بخير؟", "نعم."]),
    "german ordinals": (
        "Das war am 3. Oktober 1990. Dann kam er.",
        ["Das war am 3. Oktober 1990.", "Dann kam er."],
    ),
    "chat turns": ("Alice: hi. how are you\nBob: fine", ["Alice: hi.", "how are you", "Bob: fine"]),
    "bullets and headings": (
        "# Title\n\n- one thing\n- two\n1. First. More",
        ["Title", "one thing", "two", "1. First.", "More"],
    ),
    "a wrapped paragraph": (
        "This hard wrapped paragraph goes on and on and\nEnds here. Next\none.",
        ["This hard wrapped paragraph goes on and on and\nEnds here.", "Next\none."],
    ),
    "table rows": ("| a | b |\n|---|---|\n| 1. x | 2 |", ["| a | b |", "| 1. x | 2 |"]),
}


@pytest.mark.parametrize("name", CASES)
def test_sentences_are_cut_where_a_reader_would(name: str) -> None:
    text, expected = CASES[name]

    assert [text[start:end] for start, end in sentence_spans(text)] == expected


PIECES = st.sampled_from(
    [*'aB1. \n\t|-*#?!。:"”)(é中\u2028', "Dr. ", "U.S. ", "Alice: ", "\n\n", "e.g. ", "[1]"]
)


@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=80))
def test_spans_are_ordered_stripped_and_lose_no_word(text: str) -> None:
    """What a summary or a citation takes from a text is all there and never twice."""
    spans = sentence_spans(text)

    position = 0
    for start, end in spans:
        assert position <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert not any(char.isalnum() for char in text[position:start])
        position = end
    assert not any(char.isalnum() for char in text[position:])
    assert spans == sentence_spans(text)
