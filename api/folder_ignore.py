"""Which paths of a folder are left out: the patterns of a ``.letheignore``, as in a ``.gitignore``.

Follows gitignore(5): the last pattern that fits decides, ``!`` takes back, a pattern with an inner or leading
slash counts from the folder, one that ends in a slash fits directories only, ``**`` spans directories.
Knows paths only, no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FILE_NAME = ".letheignore"


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    takes_back: bool
    directories_only: bool


class Ignore:
    """The rules of one file. What lies in a directory that is left out is not to be asked for."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._rules = [rule for line in lines if (rule := _read_rule(line)) is not None]

    def leaves_out(self, path: str, *, directory: bool) -> bool:
        """Say whether a path inside the folder (with ``/``) is left out."""
        for rule in reversed(self._rules):
            if (directory or not rule.directories_only) and rule.pattern.fullmatch(path):
                return not rule.takes_back
        return False


def _read_rule(line: str) -> _Rule | None:
    text = line.rstrip("\r\n")
    text = re.sub(r"(?<!\\) +$", "", text)
    if not text or text.startswith("#"):
        return None
    takes_back = text.startswith("!")
    text = text.removeprefix("!") if takes_back else text
    directories_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    text = text.lstrip("/")
    if not text:
        return None
    if not anchored:
        text = f"**/{text}"
    return _Rule(re.compile(_to_regex(text), re.DOTALL), takes_back, directories_only)


def _to_regex(glob: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            parts.append("(?:[^/]+/)*")
            at += 3
        elif glob[at:] == "**" and (at == 0 or glob[at - 1] == "/"):
            parts.append(".+")
            at += 2
        elif glob[at] == "*":
            parts.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            parts.append("[^/]")
            at += 1
        elif glob[at] == "[" and (end := _end_of_class(glob, at)) is not None:
            parts.append(_class_regex(glob[at + 1 : end]))
            at = end + 1
        else:
            at += glob[at] == "\\" and at + 1 < len(glob)
            parts.append(re.escape(glob[at]))
            at += 1
    return "".join(parts)


def _end_of_class(glob: str, at: int) -> int | None:
    """Return where a ``[…]`` that begins at ``at`` ends; ``None`` where it does not."""
    start = at + 1 + (glob[at + 1 : at + 2] in {"!", "^"})
    end = glob.find("]", start + 1)
    return None if end < 0 else end


def _class_regex(inside: str) -> str:
    negated = inside[0] in "!^"
    listed = inside[1:] if negated else inside
    ranges = re.sub(r"([\\\[\]^&~|])", r"\\\1", listed)
    try:
        re.compile(f"[{ranges}]")
    except re.error:
        return r"(?!)"  # a range that runs backwards fits nothing
    return f"(?!/)[{'^' if negated else ''}{ranges}]"
