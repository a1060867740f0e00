"""RTF: paragraphs, headings and tables of a rich text file, read token by token with an explicit stack.

RTF 1.9. Pictures, fonts, styles, headers, footers, deleted and hidden text are left out; notes stand in
square brackets after the words they belong to.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from memory.errors import InvalidInputError
from sources.outline import Extracted
from sources.writer import Writer, names, one_line, row_line

MAX_DEPTH = 1000
"""Groups open at once."""

_TOKEN = re.compile(
    rb"\\(?P<word>[a-zA-Z]{1,32})(?P<number>-?\d{1,10})? ?|\\'(?P<hex>[0-9a-fA-F]{2})"
    rb"|\\(?P<sign>[^a-zA-Z])|(?P<brace>[{}])|(?P<text>[^\\{}\r\n]+)|[\r\n]+|\\",
    re.DOTALL,
)
_SKIPPED = names(
    "fonttbl colortbl stylesheet listtable listoverridetable revtbl rsidtbl generator pict object",
    "objdata header headerl headerr headerf footer footerl footerr footerf themedata",
    "colorschememapping datastore latentstyles xmlnstbl filetbl fldinst annotation atnid atnauthor",
    "atntime atnref atndate atnparent bkmkstart bkmkend nonshppict listtext pntext pntxta pntxtb sn",
    "sv mmathPr tc xe ftnsep ftnsepc aftnsep",
)
_SIGNS = {
    "tab": "\t", "line": "\n", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”",
    "bullet": "•", "endash": "–", "emdash": "—", "emspace": " ", "enspace": " ", "qmspace": " ",
}  # fmt: skip
_CHARSETS = {
    0: "cp1252", 77: "mac-roman", 128: "cp932", 129: "cp949", 134: "gbk", 136: "big5", 161: "cp1253",
    162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
    238: "cp1250",
}  # fmt: skip
"""Code pages of Windows by the number of a font's character set."""

_PAGES = {936: "gbk", 950: "big5", 10000: "mac-roman", 65001: "utf-8"}


@dataclass(frozen=True, slots=True)
class _State:
    """What holds until a group ends."""

    goal: str = "text"
    skipped_after_unicode: int = 1
    hidden: bool = False
    encoding: str = "cp1252"


def extract_rtf(body: bytes, charset: str | None) -> Extracted:
    """Return the text with headings (outline levels), lists and table rows; ``charset`` says nothing here."""
    if not body.lstrip().startswith(b"{\\rtf"):
        raise InvalidInputError("this is no RTF document: it does not begin with {\\rtf")
    return _Reader(body).read()


class _Reader:
    """Reads tokens one by one; groups are a stack of states."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._writer = Writer()
        self._state = _State()
        self._stack: list[_State] = []
        self._default = "cp1252"
        self._fonts: dict[int, str] = {}
        self._font = 0
        self._title: list[str] = []
        self._pieces: list[str] = []
        self._pending = bytearray()
        self._skip = 0
        self._optional = False
        self._level: int | None = None
        self._in_table = False
        self._cells: list[str] = []
        self._rows: list[str] = []
        self._items: list[str] = []
        self._item_mark: list[str] = []
        self._style_levels: dict[int, int] = {}
        self._style = 0
        self._style_name: list[str] = []
        self._listed = False

    def read(self) -> Extracted:
        position = 0
        while position < len(self._body):
            found = _TOKEN.match(self._body, position)
            if found is None:
                break
            position = found.end()
            if found["hex"] is not None:
                if self._skip:
                    self._skip -= 1
                else:
                    self._bytes(bytes.fromhex(found["hex"].decode()))
            elif found["text"] is not None:
                told = found["text"]
                if self._skip:
                    self._skip, told = max(0, self._skip - len(told)), told[self._skip :]
                self._bytes(told)
            elif found["brace"] == b"{":
                self._open()
            elif found["brace"] == b"}":
                self._close()
            elif found["sign"] is not None:
                self._sign(found["sign"])
            elif found["word"] is not None:
                number = int(found["number"]) if found["number"] is not None else None
                if found["word"] == b"bin":
                    position += max(0, number or 0)
                else:
                    self._word(found["word"].decode(), number)
        self._paragraph()
        self._flush()
        title = one_line("".join(self._title))
        return self._writer.finish(title or self._writer.first_heading())

    def _open(self) -> None:
        self._decode()
        self._stack.append(self._state)
        if len(self._stack) > MAX_DEPTH:
            raise InvalidInputError(f"RTF with more than {MAX_DEPTH} groups within groups")
        self._skip = 0

    def _close(self) -> None:
        self._decode()
        goal = self._state.goal
        self._state = self._stack.pop() if self._stack else _State()
        if goal == "note" and self._state.goal != "note":
            self._pieces.append("]")
        if goal == "style":
            self._end_style()
        self._skip = 0

    def _sign(self, sign: bytes) -> None:
        if sign == b"*":
            self._optional = True
        elif sign in b"\\{}":
            self._bytes(sign)
        elif sign == b"~":
            self._put(" ")
        elif sign == b"_":
            self._put("-")
        elif sign in b"\r\n":
            self._paragraph()

    def _word(self, word: str, number: int | None) -> None:
        self._decode()
        optional, self._optional = self._optional, False
        state = self._state
        if word == "u" and number is not None:
            self._unicode(number)
        elif word == "uc":
            self._state = replace(state, skipped_after_unicode=max(0, min(number or 0, 10)))
        elif word == "ansicpg":
            self._default = _codec(number or 0) or self._default
            self._state = replace(state, encoding=self._default)
        elif word == "mac":
            self._default = "mac-roman"
            self._state = replace(state, encoding=self._default)
        elif word == "f" and number is not None:
            self._font = number
            self._state = replace(state, encoding=self._fonts.get(number, self._default))
        elif word == "fcharset" and state.goal == "fonts":
            if number in _CHARSETS:
                self._fonts[self._font] = _CHARSETS[number]
        elif word == "v" or word == "deleted":
            self._state = replace(state, hidden=number != 0)
        elif word == "plain":
            self._state = replace(state, hidden=False, encoding=self._default)
        else:
            self._destination(word, number, optional=optional)

    def _destination(self, word: str, number: int | None, *, optional: bool) -> None:
        goal = self._state.goal
        if word == "fonttbl":
            self._goal("fonts")
        elif word == "stylesheet":
            self._goal("style")
        elif goal == "style" and word in ("s", "outlinelevel"):
            if word == "s":
                self._style = number or 0
            elif number is not None and 0 <= number < 9:
                self._style_levels[self._style] = number + 1
        elif word in ("listtext", "pntext"):
            self._goal("mark")
        elif word == "info":
            self._goal("skip")
        elif word == "title" and goal == "skip":
            self._goal("title")
        elif word in _SKIPPED or (optional and word != "shpinst"):
            self._goal("skip")
        elif word == "footnote" and goal == "text":
            self._put(" [")
            self._goal("note")
        elif goal in ("text", "note"):
            self._layout(word, number)

    def _layout(self, word: str, number: int | None) -> None:
        if word in ("par", "sect", "page", "column"):
            if self._state.goal == "note":
                self._put(" ")
            elif self._in_table and word == "par":
                self._put("\n")
            else:
                self._paragraph()
        elif word in _SIGNS:
            self._put(_SIGNS[word])
        elif word == "pard":
            self._in_table, self._level, self._listed = False, None, False
        elif word == "intbl":
            self._in_table = True
        elif word in ("cell", "nestcell"):
            self._cells.append(one_line("".join(self._pieces)))
            self._pieces.clear()
        elif word in ("row", "nestrow"):
            if any(self._cells):
                self._flush_items()
                self._rows.append(row_line(self._cells))
            self._cells.clear()
            self._in_table = False
        elif word == "s":
            self._level = self._style_levels.get(number or 0)
        elif word == "outlinelevel" and number is not None:
            self._level = number + 1 if 0 <= number < 9 else None
        elif word == "ls":
            self._listed = bool(number)

    def _goal(self, goal: str) -> None:
        self._state = replace(self._state, goal=goal)

    def _bytes(self, told: bytes) -> None:
        self._pending += told

    def _decode(self) -> None:
        """Turn the bytes at hand into text; a character of two bytes may come as two tokens."""
        if self._pending:
            told = bytes(self._pending).decode(self._state.encoding, errors="replace")
            self._pending.clear()
            self._put(told)

    def _put(self, told: str) -> None:
        self._decode()
        goal = self._state.goal
        if self._state.hidden or goal in ("skip", "fonts"):
            return
        if goal == "style":
            self._style_name.append(told)
        elif goal == "title":
            self._title.append(told)
        elif goal == "mark":
            self._item_mark.append(told)
        else:
            self._pieces.append(told)

    def _unicode(self, number: int) -> None:
        code = number % 0x10000
        self._skip = self._state.skipped_after_unicode
        last = self._pieces[-1] if self._pieces else ""
        if 0xDC00 <= code < 0xE000 and len(last) == 1 and "\ud800" <= last < "\udc00":
            self._pieces[-1] = chr(0x10000 + ((ord(last) - 0xD800) << 10) + code - 0xDC00)
        else:
            self._put(chr(code))

    def _end_style(self) -> None:
        """Styles named as headings are headings, whatever their outline level."""
        name = "".join(self._style_name).strip(" ;").lower()
        self._style_name.clear()
        found = re.match(r"heading ([1-9])\b", name)
        if found is not None:
            self._style_levels.setdefault(self._style, int(found[1]))

    def _paragraph(self) -> None:
        self._decode()
        text = "\n".join(filter(None, map(one_line, "".join(self._pieces).split("\n"))))
        mark = one_line("".join(self._item_mark))
        self._pieces.clear()
        self._item_mark.clear()
        if not text:
            return
        if self._rows:
            self._writer.table(self._rows)
            self._rows.clear()
        if self._level is not None:
            self._flush()
            self._writer.head(f"{mark} {text}", self._level)
        elif mark or self._listed:
            mark = mark if (mark and mark[0].isalnum()) or mark.startswith("(") else "-"
            self._items.append(f"{mark} {text}".replace("\n", "\n  "))
        else:
            self._flush()
            self._writer.add(text)

    def _flush(self) -> None:
        if self._rows:
            self._writer.table(self._rows)
            self._rows.clear()
        self._flush_items()

    def _flush_items(self) -> None:
        self._writer.add("\n".join(self._items), "list")
        self._items.clear()


def _codec(page: int) -> str | None:
    """Return Python's name of a code page, ``None`` for one it does not know."""
    try:
        return _PAGES.get(page) or codecs.lookup(f"cp{page}").name
    except LookupError:
        return None
