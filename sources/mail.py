"""Mail: one message (RFC 5322) with who wrote it, to whom and when, and its text.

The plain text is preferred to the HTML of the same words. Attachments are named in a warning, not read; a
message that was forwarded as an attachment is.
"""

from __future__ import annotations

import email
import email.errors
import email.header
import re
from collections.abc import Iterator
from email.message import Message

from memory.errors import InvalidInputError
from sources.decoding import decode_text
from sources.html import extract_html
from sources.outline import Extracted
from sources.text import paragraph_blocks
from sources.writer import Writer, one_line

MAX_NESTED_PARTS = 100
MAX_FIELD_CHARACTERS = 1000
MAX_NAMED_ATTACHMENTS = 20

_NESTED = re.compile(rb"content-type\s*:\s*(?:multipart|message)/", re.IGNORECASE)
_FIELDS = ("From", "To", "Cc", "Date", "Subject")
_SIGNED = frozenset(
    ("application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature")
)


def extract_mail(body: bytes, charset: str | None) -> Extracted:
    """Return a message's fields and text; its subject is the title.

    Raises ``InvalidInputError`` for what is no message or is nested too deeply. Each part tells its own
    character set, so ``charset`` says nothing here.
    """
    if len(_NESTED.findall(body)) > MAX_NESTED_PARTS:
        raise InvalidInputError(f"the mail has more than {MAX_NESTED_PARTS} parts within parts")
    try:
        message = email.message_from_bytes(body.lstrip(b"\r\n"))
    except RecursionError as error:
        raise InvalidInputError("the parts of the mail are nested too deeply") from error
    if not any(message.get(name) for name in _FIELDS):
        raise InvalidInputError("this is no mail: it has none of the fields From, To, Date and Subject")
    mail = _Mail()
    mail.write(message, forwarded=False)
    if mail.attachments:
        named = ", ".join(mail.attachments[:MAX_NAMED_ATTACHMENTS])
        more = len(mail.attachments) - MAX_NAMED_ATTACHMENTS
        mail.writer.warnings.append(
            f"attachments were not read; send each as a file of its own: {named}"
            + (f", and {more} more" if more > 0 else "")
        )
    return mail.writer.finish(_field(message, "Subject") or None)


class _Mail:
    """Writes a message, and those forwarded in it."""

    def __init__(self) -> None:
        self.writer = Writer()
        self.attachments: list[str] = []

    def write(self, message: Message, *, forwarded: bool) -> None:
        fields = [f"{name}: {told}" for name in _FIELDS if (told := _field(message, name))]
        if forwarded:
            self.writer.head(_field(message, "Subject") or "Forwarded message", 1, told=False)
        self.writer.add("\n".join(fields))
        for part in self._shown(message):
            if part.get_content_type() == "message/rfc822":
                inner = part.get_payload()
                for forwarded_message in inner if isinstance(inner, list) else ():
                    if isinstance(forwarded_message, Message):
                        self.write(forwarded_message, forwarded=True)
            else:
                self._text(part)

    def _shown(self, part: Message) -> Iterator[Message]:
        """Yield the parts that a reader is shown; the others are attachments."""
        kind = part.get_content_type()
        inner = part.get_payload()
        if kind == "message/rfc822":
            yield part
        elif isinstance(inner, list):
            parts = [found for found in inner if isinstance(found, Message)]
            if kind == "multipart/alternative":
                parts = [_best(parts)] if parts else []
            for found in parts:
                yield from self._shown(found)
        elif kind in ("text/plain", "text/html") and part.get_content_disposition() != "attachment":
            yield part
        elif kind not in _SIGNED:
            self.attachments.append(f"{_filename(part)} ({kind})")

    def _text(self, part: Message) -> None:
        data = part.get_payload(decode=True)
        if not isinstance(data, bytes) or not data.strip():
            return
        charset = part.get_content_charset()
        try:
            if part.get_content_type() == "text/html":
                extracted = extract_html(data, charset)
                self.writer.append(extracted)
                return
            text, warnings = decode_text(data, charset)
        except InvalidInputError as error:
            self.writer.warnings.append(f"a part of the mail was left out: {error}")
            return
        self.writer.warnings.extend(warnings)
        for start, end in paragraph_blocks(text):
            self.writer.add(text[start:end])


def _best(parts: list[Message]) -> Message:
    """Choose among the forms of the same words: plain text that says something, else the last."""
    for part in parts:
        if part.get_content_type() == "text/plain":
            data = part.get_payload(decode=True)
            if isinstance(data, bytes) and data.strip():
                return part
    shown = [part for part in parts if part.is_multipart() or part.get_content_type() == "text/html"]
    return shown[-1] if shown else parts[-1]


def _field(message: Message, name: str) -> str:
    """Return a field of the message's head as a reader sees it."""
    return _decoded(message.get(name))


def _decoded(value: object) -> str:
    if value is None:
        return ""
    text = str(value)[: 4 * MAX_FIELD_CHARACTERS]
    try:
        pieces = email.header.decode_header(text)
    except (email.errors.HeaderParseError, ValueError):
        return one_line(text)[:MAX_FIELD_CHARACTERS]
    told: list[str] = []
    for piece, charset in pieces:
        if isinstance(piece, str):
            told.append(piece)
            continue
        try:
            told.append(decode_text(piece, charset)[0] if piece else "")
        except InvalidInputError:
            told.append(piece.decode("ascii", "replace"))
    return one_line("".join(told))[:MAX_FIELD_CHARACTERS]


def _filename(part: Message) -> str:
    name = part.get_filename()
    return _decoded(name) or "without a name"
