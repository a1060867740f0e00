"""Filters on what users said about entries, in the manner of MongoDB's query language.

``{"field": value}``, ``{"field": {"$gte": 3}}``, ``$and``, ``$or``, ``$not``; several keys in
one object must all hold. Fields are ``subjects``, ``user_id``, ``agent_id``, ``run_id``,
``external_id``, ``occurred_at`` and ``metadata.*`` (dots lead into nested objects).

- A list matches when one of its elements does; ``$ne`` when none does.
- Only like is compared with like: numbers with numbers (true and false are none), text with
  text, instants with instants. Unlike values are never equal, less or greater.
- A field that is not there matches nothing but ``$ne`` and ``{"$exists": false}``.
- ``occurred_at`` takes RFC 3339 texts and compares instants. Where the user gave no time, the
  time Lethe recorded the entry stands in; ``$exists`` still says whether the user gave one.
- ``$near`` asks of metadata ``{"lat", "lon"}`` whether it is within so many metres of a place.

A filter is compiled once into closures. Nothing here knows where entries are kept.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast

from memory.errors import InvalidInputError
from memory.places import Around, read_around
from memory.values import Attributes, JsonValue

MAX_DEPTH = 32
"""Objects inside one another, operators included."""
MAX_NODES = 1_000
"""Conditions, combinations and negations in one filter."""
MAX_VALUES = 10_000
"""Values in all ``$in`` lists of one filter together."""

Operator = Literal["$eq", "$in", "$gt", "$gte", "$lt", "$lte", "$exists", "$near"]
Scalar = None | bool | int | float | str | datetime
Operand = Scalar | tuple[Scalar, ...]
Predicate = Callable[[Attributes, datetime], bool]

TEXT_FIELDS = ("user_id", "agent_id", "run_id", "external_id", "stream_id")
NUMBER_FIELDS = ("start_ms", "end_ms")
"""Of segments: when they begin and end, in their stream's time."""
_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """One field, one operator, one operand. ``$ne`` is ``Not`` around ``$eq``.

    The operand of ``$in`` is a tuple of values, each a scalar or a tuple.
    """

    field: str
    operator: Operator
    operand: Operand | tuple[Operand, ...] | Around


@dataclass(frozen=True, slots=True)
class All:
    """Holds when every part does; so without parts it always holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """Holds when at least one part does."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Holds when its part does not."""

    part: Node


Node = Condition | All | Some | Not


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter. Equal filters have equal ``root``."""

    root: Node
    predicate: Predicate = field(compare=False, repr=False)

    def matches(self, attributes: Attributes, *, recorded_at: datetime) -> bool:
        """Say whether an entry passes. ``recorded_at`` is an aware time, as is ``occurred_at``."""
        return self.predicate(attributes, recorded_at)


def compile_filter(filter: JsonValue) -> Filter:
    """Check a filter and make it ready to match.

    Raise ``InvalidInputError`` whose ``where`` names the exact place, such as
    ``filter.$or[1].metadata.year.$gte``.
    """
    root = _Parsing().parse(filter, "filter", 1)
    return Filter(root, _compile(root))


def fields(filter: Filter) -> frozenset[str]:
    """Return the names of all fields a filter looks at."""
    return frozenset(condition.field for condition in iter_conditions(filter.root))


def iter_conditions(node: Node) -> Iterator[Condition]:
    """Yield every condition below a node, in the order they were written."""
    match node:
        case Condition():
            yield node
        case Not(part):
            yield from iter_conditions(part)
        case All(parts) | Some(parts):
            for part in parts:
                yield from iter_conditions(part)


def parse_instant(text: str, where: str) -> datetime:
    """Return the aware time an RFC 3339 text means; raise ``InvalidInputError`` when it means none."""
    if _RFC_3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            pass  # a well-formed text of an impossible time, such as a 30th of February
    raise InvalidInputError("needs an RFC 3339 time such as 2026-01-31T09:30:00Z", where=where)


class _Parsing:
    """Reads one filter, counting what it has read so far."""

    def __init__(self) -> None:
        self.nodes = 0
        self.values = 0

    def parse(self, value: JsonValue, where: str, depth: int) -> Node:
        """Return the node an object of fields and combinations stands for."""
        parts: list[Node] = []
        for key, inner in self.object_at(value, where, depth).items():
            place = f"{where}.{key}"
            if key in ("$and", "$or"):
                if not isinstance(inner, list) or not inner:
                    raise InvalidInputError("needs a list of at least one filter", where=place)
                options = tuple(
                    self.parse(option, f"{place}[{index}]", depth + 1) for index, option in enumerate(inner)
                )
                parts.append(All(options) if key == "$and" else Some(options))
            elif key == "$not":
                parts.append(Not(self.parse(inner, place, depth + 1)))
            elif key.startswith("$"):
                raise InvalidInputError("unknown operator; here stand fields, $and, $or, $not", where=place)
            else:
                parts.append(self.field(key, inner, place, depth + 1))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def object_at(self, value: JsonValue, where: str, depth: int) -> dict[str, JsonValue]:
        """Return the object at a place, counted against the limits."""
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH}", where=where)
        if not isinstance(value, dict):
            raise InvalidInputError("needs an object", where=where)
        self.count(1 + len(value), where)
        return value

    def count(self, nodes: int, where: str) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise InvalidInputError(f"the filter has more than {MAX_NODES} parts", where=where)

    def field(self, name: str, value: JsonValue, where: str, depth: int) -> Node:
        """Return what a field is asked for: a value, or an object of operators that must all hold."""
        _check_field(name, where)
        if not isinstance(value, dict):
            return Condition(name, "$eq", _operand(name, value, where))
        operators = self.object_at(value, where, depth)
        if not operators:
            raise InvalidInputError("needs a value or at least one operator", where=where)
        parts = tuple(
            self.operator(name, key, operand, f"{where}.{key}", depth + 1)
            for key, operand in operators.items()
        )
        return parts[0] if len(parts) == 1 else All(parts)

    def operator(self, name: str, key: str, value: JsonValue, where: str, depth: int) -> Node:
        match key:
            case "$ne":
                return Not(Condition(name, "$eq", _operand(name, value, where)))
            case "$in":
                if not isinstance(value, list):
                    raise InvalidInputError("needs a list of values", where=where)
                self.values += len(value)
                if self.values > MAX_VALUES:
                    raise InvalidInputError(f"more than {MAX_VALUES} values to look for", where=where)
                return Condition(
                    name,
                    "$in",
                    tuple(_operand(name, item, f"{where}[{index}]") for index, item in enumerate(value)),
                )
            case "$gt" | "$gte" | "$lt" | "$lte":
                operand = _operand(name, value, where)
                if operand is None or isinstance(operand, bool | tuple):
                    raise InvalidInputError("compares with a number or a text", where=where)
                return Condition(name, key, operand)
            case "$exists":
                if not isinstance(value, bool):
                    raise InvalidInputError("needs true or false", where=where)
                return Condition(name, "$exists", value)
            case "$near":
                if not name.startswith("metadata."):
                    raise InvalidInputError("only metadata has places", where=where)
                return Condition(name, "$near", read_around(value, where))
            case "$not":
                if not isinstance(value, dict):
                    raise InvalidInputError("needs an object of operators", where=where)
                return Not(self.field(name, value, where, depth))
        known = "$in, $ne, $gt, $gte, $lt, $lte, $exists, $near, $not"
        hint = "" if key.startswith("$") else "; to look inside an object join the names with dots"
        raise InvalidInputError(f"unknown operator; known are {known}{hint}", where=where)


def _check_field(name: str, where: str) -> None:
    if name in (*TEXT_FIELDS, *NUMBER_FIELDS, "subjects", "occurred_at"):
        return
    if name.startswith("metadata.") and all(name.split(".")):
        return
    known = ", ".join(("subjects", *TEXT_FIELDS, *NUMBER_FIELDS, "occurred_at", "metadata.NAME"))
    raise InvalidInputError(f"unknown field; known are {known}", where=where)


def _operand(name: str, value: JsonValue, where: str) -> Operand:
    """Return a value to compare a field with; a field of one type refuses what it can never equal."""
    if name == "occurred_at":
        if not isinstance(value, str):
            raise InvalidInputError("needs an RFC 3339 time such as 2026-01-31T09:30:00Z", where=where)
        return parse_instant(value, where)
    if name in NUMBER_FIELDS:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InvalidInputError("needs a number of milliseconds", where=where)
        return value
    if not name.startswith("metadata."):
        if not isinstance(value, str):
            raise InvalidInputError(
                f"{name} is text; for one of several use $in, for none $exists", where=where
            )
        return value
    if isinstance(value, list):
        return tuple(_scalar(item, f"{where}[{index}]") for index, item in enumerate(value))
    return _scalar(value, where)


def _scalar(value: JsonValue, where: str) -> Scalar:
    if isinstance(value, dict | list):
        raise InvalidInputError("needs text, a number, true, false or null", where=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError("is not a number", where=where)
    return value


# From here on: closures. ``_MISSING`` is what a field that is not there reads as. Types to test for stand in
# tuples: a union is built anew at every call, which cost more than the test.

_Missing = Literal[b"missing"]
_MISSING: _Missing = b"missing"
_Value = JsonValue | datetime | tuple[str, ...] | _Missing
_Read = Callable[[Attributes, datetime], _Value]
_Test = Callable[[_Value], bool]
_Key = tuple[str, object]


def _compile(node: Node) -> Predicate:
    match node:
        case Condition():
            return _compile_condition(node)
        case Not(part):
            inner = _compile(part)
            return lambda attributes, recorded_at: not inner(attributes, recorded_at)
        case All(parts):
            return _compile_all(tuple(_compile(part) for part in parts))
        case Some(parts):
            return _compile_some(tuple(_compile(part) for part in parts))


def _compile_all(predicates: tuple[Predicate, ...]) -> Predicate:
    def all_hold(attributes: Attributes, recorded_at: datetime) -> bool:
        for predicate in predicates:  # noqa: SIM110  (a generator costs more than the test)
            if not predicate(attributes, recorded_at):
                return False
        return True

    return all_hold


def _compile_some(predicates: tuple[Predicate, ...]) -> Predicate:
    def one_holds(attributes: Attributes, recorded_at: datetime) -> bool:
        for predicate in predicates:  # noqa: SIM110
            if predicate(attributes, recorded_at):
                return True
        return False

    return one_holds


def _compile_condition(condition: Condition) -> Predicate:
    name, operand = condition.field, condition.operand
    if condition.operator == "$exists":
        return _compile_exists(name, expected=operand is True)
    if isinstance(operand, Around):
        test: _Test = operand.holds
    elif condition.operator == "$in":
        test = _in_test(cast("tuple[Operand, ...]", operand))
    elif condition.operator == "$eq":
        test = _equal_test(cast("Operand", operand))
    else:
        test = _order_test(_ORDERINGS[condition.operator], cast("Scalar", operand))
    read = _reader(name)
    if name in TEXT_FIELDS or name == "occurred_at":
        return lambda attributes, recorded_at: test(read(attributes, recorded_at))

    def holds(attributes: Attributes, recorded_at: datetime) -> bool:
        value = read(attributes, recorded_at)
        if test(value):
            return True
        if isinstance(value, (list, tuple)):
            for item in value:
                if test(item):
                    return True
        return False

    return holds


def _compile_exists(name: str, *, expected: bool) -> Predicate:
    if name == "occurred_at":
        return lambda attributes, _: (attributes.occurred_at is not None) is expected
    read = _reader(name)
    return lambda attributes, recorded_at: (read(attributes, recorded_at) is not _MISSING) is expected


def _reader(name: str) -> _Read:
    """Return what reads a field; ``_MISSING`` when it is not there."""
    if name == "occurred_at":
        return lambda attributes, recorded_at: attributes.occurred_at or recorded_at
    if name == "subjects":
        return lambda attributes, _: attributes.subjects or _MISSING
    if name in TEXT_FIELDS:
        get: Callable[[Attributes], str | None] = operator.attrgetter(name)

        def read_text(attributes: Attributes, _: datetime) -> _Value:
            value = get(attributes)
            return _MISSING if value is None else value

        return read_text
    if name in NUMBER_FIELDS:
        get_number: Callable[[Attributes], int] = operator.attrgetter(f"part.{name}")
        return lambda attributes, _: _MISSING if attributes.part is None else get_number(attributes)
    first, *rest = name.split(".")[1:]
    if not rest:
        return lambda attributes, _: attributes.metadata.get(first, _MISSING)

    def read_path(attributes: Attributes, _: datetime) -> _Value:
        value: _Value = attributes.metadata.get(first, _MISSING)
        for step in rest:
            if not isinstance(value, dict):
                return _MISSING
            value = value.get(step, _MISSING)
        return value

    return read_path


def _equal_test(operand: Operand) -> _Test:
    if operand is None or isinstance(operand, bool):
        return lambda value: value is operand
    if isinstance(operand, tuple):
        wanted = _key(operand)
        return lambda value: isinstance(value, list) and _key(value) == wanted
    if isinstance(operand, (int, float)):
        return lambda value: value == operand and not isinstance(value, bool)
    return lambda value: value == operand


def _in_test(operands: tuple[Operand, ...]) -> _Test:
    if all(isinstance(operand, str | datetime) for operand in operands):
        plain = frozenset(operands)
        return lambda value: isinstance(value, (str, datetime)) and value in plain
    wanted = frozenset(_key(operand) for operand in operands)
    return lambda value: _key(value) in wanted


def _order_test(compare: Callable[[Any, Any], bool], operand: Scalar) -> _Test:
    if isinstance(operand, str):
        return lambda value: isinstance(value, str) and compare(value, operand)
    if isinstance(operand, datetime):
        return lambda value: isinstance(value, datetime) and compare(value, operand)
    return lambda value: (
        isinstance(value, (int, float)) and not isinstance(value, bool) and compare(value, operand)
    )


def _key(value: object) -> _Key:
    """Return something hashable, equal to an operand's key when the values are of one type and equal."""
    if isinstance(value, (list, tuple)):
        return ("list", tuple(_scalar_key(item) for item in value))
    return _scalar_key(value)


def _scalar_key(value: object) -> _Key:
    if isinstance(value, bool):
        return ("truth", value)
    if isinstance(value, (list, tuple, dict)):
        return ("nested", id(value))  # operands hold no such thing, so nothing may equal it
    return ("plain", value)
