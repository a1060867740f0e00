"""Cursors of listings ordered by time and id, newest first: opaque to callers, and no secret."""

from __future__ import annotations

import base64

import orjson

from memory.errors import InvalidInputError


def make_cursor(micros: int, name: str) -> str:
    """Return the cursor that stands behind the item with this time and id."""
    return base64.urlsafe_b64encode(orjson.dumps([micros, name])).decode()


def read_cursor(cursor: str | None) -> tuple[int, str] | None:
    """Return the time and id that a cursor stands behind; ``InvalidInputError`` when it is none."""
    if cursor is None:
        return None
    try:
        micros, name = orjson.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError) as error:
        raise InvalidInputError("not a cursor of this service", where="cursor") from error
    if not isinstance(micros, int) or not isinstance(name, str) or abs(micros) >= 2**63 or "\0" in name:
        raise InvalidInputError("not a cursor of this service", where="cursor")
    return micros, name
