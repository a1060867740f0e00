"""Source code: the text itself, cut where definitions begin at the left margin, with their names as headings.

Rules on lines only, no grammar: what begins at the margin after a blank line or with a word such as ``def``
opens a block. Lines are counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from memory.values import Place
from sources.decoding import decode_text
from sources.outline import Block, Extracted, Heading
from sources.writer import names

MIN_INNER_LINES = 40
"""A definition of more lines than this is cut at those within it, too."""
MAX_NAME = 100

_WORDS = (
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|unsafe|sealed|open"
    r"|override|virtual|inline|extern(?:\s+\"C\")?|pub(?:\([\w:]+\))?|data|partial|declare|suspend)\s+)*+"
)
_DEFINITION = re.compile(
    r"(?P<indent>[ \t]*+)"
    + _WORDS
    + r"(?:(?P<word>def|class|function\*?|func|fn|fun|interface|struct|enum|trait|impl|module|namespace"
    r"|object|record|protocol|extension|type|sub|macro_rules!|mod|package|CREATE\s+(?:OR\s+REPLACE\s+)?(?:TABLE|VIEW"
    r"|FUNCTION|PROCEDURE|INDEX|TRIGGER)(?:\s+IF\s+NOT\s+EXISTS)?)\b\s*(?P<name>[^\n({:;=<]*)"
    r"|(?P<section>\[[^\]\n]{1,80}\])\s*$"
    r"|(?P<shell>[A-Za-z_][\w-]*)\s*\(\)\s*\{"
    r"|(?:const|let|var)\s+(?P<arrow>[A-Za-z_$][\w$]*)\s*=\s*(?:async\s*)?"
    r"(?:function\b|\([^()\n]*\)\s*=>|\w+\s*=>)"
    r"|(?P<typed>[A-Za-z_][\w:<>,*&\[\] \t]{0,80}?[ \t*&](?P<called>~?[A-Za-z_][\w:~]*)"
    r"\s*\([^;\n]*\)?\s*(?:const\s*)?\{?\s*$))",
    re.IGNORECASE,
)
_GO_METHOD = re.compile(r"func\s+\((?P<receiver>[^)\n]*)\)\s*(?P<name>\w+)")
_LEADS = ("@", "#[", "#", "//", "/*", "*", "--")
"""What may stand above a definition and belongs to it: decorators, attributes, comments."""
_CLOSERS = "})]#/*@-'\""
_ASSIGNED = re.compile(
    r"(?:(?:export|const|let|var|static|val|final)\s+)*([A-Za-z_$][\w.$]*)\s*(?::[^=\n]*)?="
)
_NEVER_NAMES = names(
    "if for while switch return else do try catch with elif case new throw using",
)


def extract_code(body: bytes, charset: str | None) -> Extracted:
    """Return the source as it is, with a block a definition at the margin, and ``Place`` of kind line."""
    text, warnings = decode_text(body, charset)
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found = {index: told for index, told in enumerate(map(_definition, lines)) if told is not None}
    found |= _statements(lines, found)
    outer = {index: name for index, (depth, name) in found.items() if depth == 0}
    inner = _inner(found, outer, len(lines))
    cuts: dict[int, int] = {0: -1}
    for index in (*outer, *inner):
        lead = _lead(lines, index)
        cuts[lead] = index if lead not in cuts or cuts[lead] < 0 else cuts[lead]
    blocks: list[Block] = []
    headings: list[Heading] = []
    order = sorted(cuts)
    for start, end in zip(order, [*order[1:], len(lines)], strict=True):
        first, last = starts[start], min(starts[end], len(text))
        if not text[first:last].strip():
            continue
        while not lines[end - 1].strip():
            end -= 1
        blocks.append(Block(first, min(starts[end], len(text)), "code", Place("line", start + 1, end)))
        index = cuts[start]
        if index >= 0:
            headings.append(Heading(first, 1 if index in outer else 2, found[index][1]))
    return Extracted(text, tuple(blocks), tuple(headings), warnings=tuple(warnings))


def _statements(lines: list[str], found: dict[int, tuple[int, str]]) -> dict[int, tuple[int, str]]:
    """Return the lines at the margin where code goes on after an indented body, named by what they set."""
    told: dict[int, tuple[int, str]] = {}
    inside = False
    for index, line in enumerate(lines):
        if index in found and found[index][0] == 0:
            inside = True
        elif inside and line[:1].strip() and not lines[index - 1].strip() and line[0] not in _CLOSERS:
            inside = False
            set_name = _ASSIGNED.match(line)
            name = set_name[1] if set_name is not None else line.rstrip(" {:(=[")
            told[index] = (0, name[:MAX_NAME] or line[:MAX_NAME])
    return told


def _inner(found: dict[int, tuple[int, str]], outer: dict[int, str], count: int) -> Iterator[int]:
    """Yield the definitions one level inside those that are long."""
    bounds = [*sorted(outer), count]
    inside = sorted(set(found) - set(outer))
    for start, end in pairwise(bounds):
        if end - start <= MIN_INNER_LINES:
            continue
        within = [index for index in inside if start < index < end]
        depth = min((found[index][0] for index in within), default=0)
        yield from (index for index in within if found[index][0] == depth)


def _definition(line: str) -> tuple[int, str] | None:
    """Return how far a definition is indented, and its name, or ``None`` for another line."""
    if len(line) > 400:
        return None
    match = _DEFINITION.match(line)
    if match is None:
        return None
    depth = len(match["indent"].expandtabs(4))
    method = _GO_METHOD.match(line)
    name = method["name"] if method is not None else None
    for group in ("name", "section", "shell", "arrow", "called"):
        name = name or (match[group] or "").strip(" \t<>*&'\"`")
    name = " ".join((name or "").split())
    word = (match["word"] or "").lower()
    if not name or name.lower() in _NEVER_NAMES or (match["typed"] or "").split(" ")[0] in _NEVER_NAMES:
        return None
    if (
        word in ("type", "object", "module", "package", "record", "sub", "extension")
        and not name[0].isalnum()
    ):
        return None
    return depth, name[:MAX_NAME]


def _lead(lines: list[str], index: int) -> int:
    """Return the first of the lines of comments and decorators right above a definition."""
    first = index
    while first > 0 and index - first < 30 and lines[first - 1].lstrip().startswith(_LEADS):
        first -= 1
    return first
