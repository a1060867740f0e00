"""What a DOCX's styles and numbering say of a paragraph: heading level, list level, and its number.

Nothing here knows the document's text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sources.xml_tree import Element, attribute, child, children, number

MAX_STYLE_CHAIN = 20
MAX_HEADING_LEVEL = 9
_BODY_LEVEL = 9
"""The outline level that says: body text."""


@dataclass(frozen=True, slots=True)
class ListPosition:
    """A paragraph's list and its level there, the outermost 0."""

    list_id: str
    level: int


class Styles:
    """The paragraph styles, each with those it is based on."""

    def __init__(self, root: Element | None) -> None:
        self._styles = {
            attribute(style, "styleId") or "": style
            for style in children(root, "style")
            if attribute(style, "type") in (None, "paragraph")
        }
        self._default = next(
            (key for key, style in self._styles.items() if attribute(style, "default") in ("1", "true")), None
        )

    def name(self, style_id: str | None) -> str:
        """Return a style's name in lower case."""
        style = self._styles.get(style_id or self._default or "")
        return (attribute(child(style, "name"), "val") or style_id or "").lower()

    def heading_level(self, properties: Element | None) -> int | None:
        """Return 1 for the outermost headings, ``None`` for other text."""
        for holder in self._holders(properties):
            told = attribute(child(holder, "outlineLvl"), "val")
            if told is not None:
                level = number(told, _BODY_LEVEL)
                return level + 1 if level < _BODY_LEVEL else None
        name = self.name(attribute(child(properties, "pStyle"), "val"))
        word, _, told = name.partition(" ")
        level = number(told, 0) if word == "heading" else 0
        return min(level, MAX_HEADING_LEVEL) or None

    def list_position(self, properties: Element | None) -> ListPosition | None:
        """Return the list that the paragraph, or its style, belongs to."""
        list_id = level = None
        for holder in self._holders(properties):
            numbering = child(holder, "numPr")
            list_id = list_id or attribute(child(numbering, "numId"), "val")
            level = level or attribute(child(numbering, "ilvl"), "val")
        if list_id in (None, "0"):
            return None
        return ListPosition(list_id or "", min(number(level, 0), 8))

    def _holders(self, properties: Element | None) -> list[Element]:
        """Return the paragraph's own properties and those of its styles, the nearest first."""
        holders = [properties] if properties is not None else []
        key = attribute(child(properties, "pStyle"), "val") or self._default
        for _ in range(MAX_STYLE_CHAIN):
            style = self._styles.get(key or "")
            if style is None:
                break
            own = child(style, "pPr")
            if own is not None:
                holders.append(own)
            key = attribute(child(style, "basedOn"), "val")
        return holders


@dataclass(frozen=True, slots=True)
class _Level:
    form: str
    text: str
    start: int
    restarts: bool


@dataclass(slots=True)
class _Counters:
    numbers: dict[int, int] = field(default_factory=dict)


class Numbering:
    """Counts the paragraphs of numbered lists as a word processor does."""

    def __init__(self, root: Element | None) -> None:
        self._kinds = {
            attribute(kind, "abstractNumId") or "": _levels(kind) for kind in children(root, "abstractNum")
        }
        self._kind_of: dict[str, str] = {}
        self._starts: dict[str, dict[int, int]] = {}
        for kept in children(root, "num"):
            list_id = attribute(kept, "numId") or ""
            self._kind_of[list_id] = attribute(child(kept, "abstractNumId"), "val") or ""
            for override in children(kept, "lvlOverride"):
                start = number(attribute(child(override, "startOverride"), "val"), -1)
                if start >= 0:
                    self._starts.setdefault(list_id, {})[number(attribute(override, "ilvl"), 0)] = start
        self._counters: dict[str, _Counters] = {}
        self._started: set[str] = set()

    def label(self, position: ListPosition) -> str:
        """Count one more paragraph of the list, and return its mark: ``-``, ``2.``, ``(a)``, ``1.2``."""
        kind = self._kind_of.get(position.list_id, "")
        levels = self._kinds.get(kind, {})
        level = levels.get(position.level)
        if level is None:
            return "-"
        numbers = self._counters.setdefault(kind, _Counters()).numbers
        if position.list_id not in self._started:
            self._started.add(position.list_id)
            for depth, start in self._starts.get(position.list_id, {}).items():
                numbers[depth] = start - 1
        numbers[position.level] = numbers.get(position.level, level.start - 1) + 1
        for deeper in [depth for depth in numbers if depth > position.level]:
            if deeper not in levels or levels[deeper].restarts:
                del numbers[deeper]
        if level.form == "bullet":
            return "-"
        if level.form == "none":
            return ""
        label = level.text
        for depth in range(9):
            if f"%{depth + 1}" in label:
                shown = levels.get(depth, level)
                count = numbers.get(depth, shown.start)
                label = label.replace(f"%{depth + 1}", _number(count, shown.form))
        return label.strip()


def _levels(kind: Element) -> dict[int, _Level]:
    found: dict[int, _Level] = {}
    for element in children(kind, "lvl"):
        depth = number(attribute(element, "ilvl"), -1)
        if depth >= 0:
            found[depth] = _Level(
                attribute(child(element, "numFmt"), "val") or "decimal",
                attribute(child(element, "lvlText"), "val") or "",
                number(attribute(child(element, "start"), "val"), 1),
                attribute(child(element, "lvlRestart"), "val") != "0",
            )
    return found


def _number(count: int, form: str) -> str:
    if form in ("lowerLetter", "upperLetter") and 0 < count <= 26 * 20:
        letters = chr(ord("a") + (count - 1) % 26) * ((count - 1) // 26 + 1)
        return letters if form == "lowerLetter" else letters.upper()
    if form in ("lowerRoman", "upperRoman") and 0 < count < 4000:
        roman = _roman(count)
        return roman.lower() if form == "lowerRoman" else roman
    if form == "decimalZero":
        return f"{count:02d}"
    return str(count)


def _roman(count: int) -> str:
    signs = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    told = ""
    for sign, value in zip(signs, values, strict=True):
        told += sign * (count // value)
        count %= value
    return told
