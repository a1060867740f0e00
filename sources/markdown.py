"""Markdown: blocks and headings by markdown-it. The extracted text is the source itself.

The only importer of markdown-it. Only blocks are parsed, so that offsets stay those of the source.
"""

from __future__ import annotations

import re
from html import unescape

from markdown_it import MarkdownIt

from sources.decoding import decode_text
from sources.outline import Block, BlockKind, Extracted, Heading

_KINDS: dict[str, BlockKind] = {
    "heading_open": "heading",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
    "fence": "code",
    "code_block": "code",
}
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<fields>(?:[^\n]*\n){0,200}?)(?:---|\.\.\.)[ \t]*(?:\n|$)")
_FIELD = re.compile(r"[A-Za-z_][\w-]*[ \t]*:")
_TITLE_FIELD = re.compile(r"^title[ \t]*:[ \t]*(?P<title>[^\n]*\S)", re.MULTILINE | re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\[\]]*\])")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_EMPHASIS = re.compile(r"(?<!\\)(\*{1,3}|`+|~~|\b_{1,3}|_{1,3}\b)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


def extract_markdown(body: bytes, charset: str | None) -> Extracted:
    """Return the source with a block a top-level element, and its headings; the first ``#`` is the title."""
    text, warnings = decode_text(body, charset)
    line_starts = [0, *(match.end() for match in re.finditer("\n", text)), len(text) + 1]
    blocks: list[Block] = []
    headings: list[Heading] = []
    title, first_line = _front_matter(text)
    if first_line:
        blocks.append(Block(0, line_starts[first_line]))
    parser = MarkdownIt("commonmark").enable("table").disable("inline")
    tokens = parser.parse(text[line_starts[first_line] :])
    for index, token in enumerate(tokens):
        if token.level != 0 or token.map is None:
            continue
        start = line_starts[first_line + token.map[0]]
        end = min(line_starts[first_line + token.map[1]], len(text))
        kind = _KINDS.get(token.type, "paragraph")
        header = (start, line_starts[first_line + token.map[0] + 1] - 1) if kind == "table" else None
        blocks.append(Block(start, end, kind, header=header))
        if kind == "heading":
            label = plain_label(tokens[index + 1].content)
            if label:
                headings.append(Heading(start, int(token.tag[1:]), label))
    title = title or next((heading.label for heading in headings if heading.level == 1), None)
    return Extracted(text, tuple(blocks), tuple(headings), title, tuple(warnings))


def plain_label(source: str) -> str:
    """Return a heading's words without the marks of emphasis, code, links and tags."""
    text = _TAG.sub("", _LINK.sub(r"\1", source))
    return " ".join(unescape(_ESCAPE.sub(r"\1", _EMPHASIS.sub("", text))).split())


def _front_matter(text: str) -> tuple[str | None, int]:
    """Return the title told in YAML front matter, and the number of its lines (0: there is none)."""
    found = _FRONT_MATTER.match(text)
    if found is None or not _FIELD.match(found["fields"]):
        return None, 0
    told = _TITLE_FIELD.search(found["fields"])
    title = told["title"].strip().strip("\"'") if told is not None else None
    return title or None, found.group().rstrip("\n").count("\n") + 1
