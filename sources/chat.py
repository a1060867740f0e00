"""Chats and other JSON: messages become lines ``Name: content``; other records become readable fields.

A chat is a JSON array of messages {role, content, id?, name?, at?}, an object with such an array under
``messages``, JSON Lines of messages, or JSON Lines of such objects. Nothing here recurses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import cast

from memory.errors import InvalidInputError
from memory.values import JsonValue
from sources.decoding import clean_text, decode_text
from sources.outline import Block, Extracted, Heading, Turn
from sources.writer import Writer

LARGE_RECORD = 1000
"""An object that takes more characters than this has sections."""
MAX_JSON_DEPTH = 100
"""Brackets open at once; deeper JSON is refused before it is read."""

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
_LABEL_FIELDS = ("title", "name", "headline", "subject", "id")
_MAX_LABEL_CHARACTERS = 100


def extract_messages(body: bytes, charset: str | None) -> Extracted:
    """Return a chat; raises ``InvalidInputError`` naming the message that is not one."""
    text, warnings = decode_text(body, charset)
    value = _load(text)
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise InvalidInputError("expected a JSON array of messages {role, content, id?, name?, at?}")
    return _Chat(warnings, title=_title(value)).render([("", messages)])


def extract_json(body: bytes, charset: str | None) -> Extracted:
    """Return JSON as a chat where it is one, else as records of readable fields."""
    text, warnings = decode_text(body, charset)
    return _extract([_load(text)], warnings, lines=False)


def extract_json_lines(body: bytes, charset: str | None) -> Extracted:
    """Return JSON Lines as chats where each line is a message or a chat, else as records."""
    text, warnings = decode_text(body, charset)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return _extract([_load(line, f"line {number}") for number, line in lines], warnings, lines=True)


def _extract(values: list[JsonValue], warnings: list[str], *, lines: bool) -> Extracted:
    conversations = _conversations(values, lines=lines)
    if conversations is not None:
        title = _title(values[0]) if len(values) == 1 else None
        return _Chat(warnings, title=title).render(conversations)
    records = values
    if not lines and isinstance(values[0], list):
        records = values[0]
    return _render_records(records, warnings)


def _load(text: str, where: str | None = None) -> JsonValue:
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth > MAX_JSON_DEPTH:
            raise InvalidInputError(f"JSON nested deeper than {MAX_JSON_DEPTH} levels", where=where)
    try:
        return cast(JsonValue, json.loads(text))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if where is None else where
        raise InvalidInputError(f"not valid JSON: {error.msg}", where=place) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidInputError(f"not usable JSON: {error}", where=where) from error


def _conversations(values: Sequence[JsonValue], *, lines: bool) -> list[tuple[str, list[JsonValue]]] | None:
    """Return the chats among the values, each with its label, or ``None`` when these are not chats."""
    if lines and _are_messages(values):
        return [("", list(values))]
    found: list[tuple[str, list[JsonValue]]] = []
    for number, value in enumerate(values, start=1):
        messages = value.get("messages") if isinstance(value, dict) else value
        if not isinstance(messages, list) or not _are_messages(messages):
            return None
        label = _title(value) or f"Conversation {number}"
        found.append((label if len(values) > 1 else "", messages))
    return found or None


def _are_messages(values: Sequence[JsonValue]) -> bool:
    return bool(values) and all(
        isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value
        for value in values
    )


def _title(value: JsonValue) -> str | None:
    title = value.get("title") if isinstance(value, dict) else None
    return " ".join(clean_text(title).split()) or None if isinstance(title, str) else None


class _Chat:
    """Renders messages one after another; ids run on over conversations."""

    def __init__(self, warnings: list[str], *, title: str | None) -> None:
        self._title = title
        self._warnings = warnings
        self._left_out: dict[str, int] = {}
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._headings: list[Heading] = []
        self._count = 0

    def render(self, conversations: Sequence[tuple[str, list[JsonValue]]]) -> Extracted:
        for label, messages in conversations:
            turns = [turn for turn in map(self._read, messages) if turn is not None]
            if label and turns:
                self._headings.append(Heading(self._length, 1, label))
            self._add(turns)
        warnings = [
            *self._warnings,
            *(f"{n} parts of type {kind!r} were left out" for kind, n in self._left_out.items()),
        ]
        text = "".join(self._pieces)
        return Extracted(text, tuple(self._blocks), tuple(self._headings), self._title, tuple(warnings))

    def _add(self, turns: Sequence[tuple[Turn, str]]) -> None:
        """Append the turns as lines; a section a day where the days differ."""
        days = {turn.at.date() for turn, _ in turns if turn.at is not None}
        day = None
        for turn, content in turns:
            if len(days) > 1 and turn.at is not None and turn.at.date() != day:
                day = turn.at.date()
                self._headings.append(Heading(self._length, 2, day.isoformat()))
            line = f"{turn.speaker}: {content}"
            self._blocks.append(Block(self._length, self._length + len(line), "turn", turn=turn))
            self._pieces.append(line + "\n")
            self._length += len(line) + 1

    def _read(self, value: JsonValue) -> tuple[Turn, str] | None:
        """Return one message, or ``None`` when it says nothing."""
        index = self._count
        self._count += 1
        where = f"messages[{index}]"
        if not isinstance(value, dict):
            raise InvalidInputError("a message is an object {role, content, id?, name?, at?}", where=where)
        role, name, key = value.get("role"), value.get("name"), value.get("id")
        if not isinstance(role, str) or not role.strip():
            raise InvalidInputError("role must be a non-empty string", where=where)
        if name is not None and not isinstance(name, str):
            raise InvalidInputError("name must be a string", where=where)
        if key is not None and (isinstance(key, bool) or not isinstance(key, str | int)):
            raise InvalidInputError("id must be a string", where=where)
        content = self._content(value.get("content"), where)
        if not content:
            return None
        speaker = _one_line(name or "") or _one_line(role) or "unknown"
        message_id = str(index) if key is None else clean_text(str(key))
        return Turn(message_id, speaker, _moment(value.get("at"), where)), content

    def _content(self, content: JsonValue, where: str) -> str:
        """Join the text of a message; parts that are not text are counted and left out."""
        if content is None:
            return ""
        if isinstance(content, str):
            return clean_text(content).strip()
        if not isinstance(content, list):
            raise InvalidInputError("content must be a string or a list of parts", where=where)
        texts: list[str] = []
        for part in content:
            told = part.get("text") if isinstance(part, dict) else part
            if isinstance(told, str):
                texts.append(clean_text(told).strip())
            else:
                kind = str(part.get("type", "unknown")) if isinstance(part, dict) else type(part).__name__
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
        return "\n".join(filter(None, texts))


def _one_line(text: str) -> str:
    return " ".join(clean_text(text).split())


def _moment(value: JsonValue, where: str) -> datetime | None:
    """Read RFC 3339; a time without a zone is UTC."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInputError("at must be an RFC 3339 string", where=where)
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError as error:
        raise InvalidInputError("at is not an RFC 3339 time", where=where) from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _render_records(records: Sequence[JsonValue], warnings: list[str]) -> Extracted:
    """Write every record as lines ``field.path: value``, a section each when there are several."""
    pieces: list[str] = []
    blocks: list[Block] = []
    headings: list[Heading] = []
    length = 0
    for number, record in enumerate(records, start=1):
        written = clean_text("\n".join(_field_lines(record)))
        if not written.strip():
            continue
        if len(records) > 1:
            headings.append(Heading(length, 1, _record_label(record) or f"Record {number}"))
        blocks.append(Block(length, length + len(written), "code"))
        pieces.append(written + "\n\n")
        length += len(written) + 2
    title = _title(records[0]) if len(records) == 1 else None
    if len(records) == 1 and length > LARGE_RECORD and isinstance(records[0], dict):
        return _render_object(records[0], title, warnings)
    return Extracted("".join(pieces), tuple(blocks), tuple(headings), title, tuple(warnings))


def _render_object(record: dict[str, JsonValue], title: str | None, warnings: list[str]) -> Extracted:
    """Write a large object with its plain fields first, then a section a field that holds more."""
    writer = Writer(warnings)
    plain: JsonValue = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    writer.add("\n".join(_field_lines(plain)), "code")
    for key, value in record.items():
        if not isinstance(value, dict | list) or not any(True for _ in _field_lines(value)):
            continue
        writer.head(key or "(no name)", 1, told=False)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                lines = list(_field_lines(item, f"{key}[{index}]"))
                if lines:
                    writer.head(_record_label(item) or f"{key} {index + 1}", 2, told=False)
                    writer.add("\n".join(lines), "code")
        else:
            writer.add("\n".join(_field_lines(value, key)), "code")
    return writer.finish(title)


def _record_label(record: JsonValue) -> str | None:
    if not isinstance(record, dict):
        return None
    for field in _LABEL_FIELDS:
        value = record.get(field)
        if isinstance(value, str | int) and not isinstance(value, bool) and _one_line(str(value)):
            return _one_line(str(value))[:_MAX_LABEL_CHARACTERS]
    return None


def _field_lines(record: JsonValue, path: str = "") -> Iterator[str]:
    """Yield a line a leaf, depth first; a list of scalars is one line."""
    stack: list[tuple[str, JsonValue]] = [(path, record)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend((f"{path}.{key}" if path else key, told) for key, told in reversed(value.items()))
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            stack.extend((f"{path}[{i}]", value[i]) for i in reversed(range(len(value))))
        else:
            scalars = value if isinstance(value, list) else [value]
            line = ", ".join(_scalar(item) for item in scalars if item is not None)
            if line.strip():
                yield f"{path}: {line}" if path else line


def _scalar(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.strip() if isinstance(value, str) else str(value)
