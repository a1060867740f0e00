"""One way to write a JSON value as bytes, so that equal values have equal hashes and signatures.

RFC 8785 (JSON Canonicalization Scheme): UTF-8, no whitespace, object keys sorted by
UTF-16 code units, numbers as ECMAScript prints them. Nothing here hashes or signs.
"""

from __future__ import annotations

import math
from json.encoder import encode_basestring

from memory.errors import InvalidInputError
from memory.values import JsonValue

MAX_DEPTH = 256
"""Arrays and objects inside one another; deeper values are refused, not crashed on."""


def canonical_json(value: JsonValue) -> bytes:
    """Return the RFC 8785 form of a value.

    Reading the bytes back gives an equal value: an integer that a JSON reader with doubles
    would change (most beyond 2**53) is refused, as are NaN, the infinities and lone
    surrogates. Raise ``InvalidInputError`` naming the place.
    """
    parts: list[str] = []
    _write(value, parts, "$", 0)
    return "".join(parts).encode("utf-8")


def _write(value: JsonValue, parts: list[str], where: str, depth: int) -> None:
    if value is None:
        parts.append("null")
    elif value is True:
        parts.append("true")
    elif value is False:
        parts.append("false")
    elif isinstance(value, str):
        parts.append(_string(value, where))
    elif isinstance(value, int):
        parts.append(_integer(value, where))
    elif isinstance(value, float):
        parts.append(_number(value, where))
    elif depth >= MAX_DEPTH:
        raise InvalidInputError(f"nested deeper than {MAX_DEPTH}", where=where[:80])
    elif isinstance(value, list):
        _write_list(value, parts, where, depth)
    elif isinstance(value, dict):
        _write_dict(value, parts, where, depth)
    else:
        raise InvalidInputError(f"{type(value).__name__} is not a JSON value", where=where)


def _write_list(value: list[JsonValue], parts: list[str], where: str, depth: int) -> None:
    parts.append("[")
    for index, item in enumerate(value):
        if index:
            parts.append(",")
        _write(item, parts, f"{where}[{index}]", depth + 1)
    parts.append("]")


def _write_dict(value: dict[str, JsonValue], parts: list[str], where: str, depth: int) -> None:
    written: dict[str, str] = {}
    for key in value:
        if not isinstance(key, str):
            raise InvalidInputError(f"an object's key is {type(key).__name__}, not text", where=where)
        written[key] = _string(key, where)
    parts.append("{")
    for index, key in enumerate(sorted(value, key=_utf16_order)):
        if index:
            parts.append(",")
        parts.append(written[key])
        parts.append(":")
        _write(value[key], parts, f"{where}.{key}", depth + 1)
    parts.append("}")


def _utf16_order(text: str) -> bytes:
    return text.encode("utf-16-be")


def _string(text: str, where: str) -> str:
    # Python escapes exactly what RFC 8785 escapes: the quote, the backslash and controls below U+0020.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidInputError("the text holds a lone surrogate", where=where)
    return encode_basestring(text)


def _integer(value: int, where: str) -> str:
    # Beyond 70 bits ECMAScript prints an exponent; within, only some integers print as themselves.
    if abs(value) >= 2**53 and (
        value.bit_length() > 70 or _number(float(value), where) != int.__repr__(value)
    ):
        raise InvalidInputError(
            "a reader with doubles would change the integer; send it as text", where=where
        )
    return int.__repr__(value)


def _number(value: float, where: str) -> str:
    """Return what ECMAScript's Number::toString gives (ECMA-262, 6.1.6.1.20)."""
    if not math.isfinite(value):
        raise InvalidInputError(f"{value} has no JSON form", where=where)
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    # repr gives the same shortest digits as ECMAScript; only the layout differs.
    mantissa, _, exponent = float.__repr__(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
