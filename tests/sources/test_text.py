"""Plain text: what becomes its title."""

from __future__ import annotations

import pytest

from memory.values import Content
from sources.parse import SourceParser


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Time: 20260924_20:00\nAnn: Hello!\nBo: Hi, Ann.", "Time: 20260924_20:00"),
        ("Date: 2026-09-24\nAnn: Hello!\nBo: Hi, Ann.", "Date: 2026-09-24"),
        ("The harbour\n\nIt opened in 1932.", "The harbour"),
        ("Time: whenever\nAnn: Hello!\nBo: Hi, Ann.", None),
        ("Built: 1932-05-01 by the town.\nIt is of steel.", None),
    ],
)
def test_a_line_alone_or_the_dated_head_of_a_chat_is_the_title(text: str, title: str | None) -> None:
    parsed = SourceParser().parse(Content("document", "text/plain", text.encode()))
    assert parsed.title == title
    assert parsed.text == text
    if title is not None:
        assert all(passage.context.startswith(title) for passage in parsed.passages)
