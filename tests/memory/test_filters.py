"""Filters say what MongoDB's language would, and name the place of every mistake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.errors import InvalidInputError
from memory.filters import MAX_DEPTH, MAX_NODES, MAX_VALUES, compile_filter, fields
from memory.values import Attributes, JsonValue

RECORDED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ENTRY = Attributes(
    external_id="doc-7",
    subjects=("ann", "project-x"),
    user_id="ann",
    metadata={
        "year": 2024,
        "price": 9.5,
        "draft": False,
        "note": None,
        "tags": ["red", "blue", 3],
        "pair": [1, 2],
        "author": {"name": "Bo", "born": {"year": 1970}},
        "$odd": "x",
    },
    occurred_at=datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
)


def matches(filter: JsonValue, entry: Attributes = ENTRY) -> bool:
    return compile_filter(filter).matches(entry, recorded_at=RECORDED)


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, True),
        ({"user_id": "ann"}, True),
        ({"user_id": "bob"}, False),
        ({"user_id": {"$in": ["bob", "ann"]}}, True),
        ({"user_id": {"$in": []}}, False),
        ({"user_id": {"$gte": "ann", "$lt": "anna"}}, True),
        ({"agent_id": "x"}, False),
        ({"agent_id": {"$ne": "x"}}, True),
        ({"agent_id": {"$lt": "x"}}, False),
        ({"agent_id": {"$exists": False}}, True),
        ({"agent_id": {"$exists": True}}, False),
        ({"external_id": {"$exists": True}}, True),
        ({"subjects": "ann"}, True),
        ({"subjects": "bob"}, False),
        ({"subjects": {"$ne": "ann"}}, False),
        ({"subjects": {"$ne": "bob"}}, True),
        ({"subjects": {"$in": ["bob", "project-x"]}}, True),
        ({"subjects": {"$exists": True}}, True),
        ({"subjects": "ann", "user_id": "bob"}, False),
        ({"metadata.year": 2024}, True),
        ({"metadata.year": 2024.0}, True),
        ({"metadata.year": "2024"}, False),
        ({"metadata.year": {"$gt": 2023, "$lte": 2024}}, True),
        ({"metadata.year": {"$gt": 2024}}, False),
        ({"metadata.year": {"$gt": "2"}}, False),
        ({"metadata.year": {"$lt": "2"}}, False),
        ({"metadata.year": {"$in": ["2024", 2024]}}, True),
        ({"metadata.price": {"$gte": 9.5}}, True),
        ({"metadata.draft": False}, True),
        ({"metadata.draft": 0}, False),
        ({"metadata.draft": {"$gte": 0}}, False),
        ({"metadata.draft": {"$in": [0]}}, False),
        ({"metadata.draft": {"$in": [0, False]}}, True),
        ({"metadata.note": None}, True),
        ({"metadata.note": {"$exists": True}}, True),
        ({"metadata.absent": None}, False),
        ({"metadata.absent": {"$ne": None}}, True),
        ({"metadata.absent": {"$exists": False}}, True),
        ({"metadata.absent.deeper": {"$exists": False}}, True),
        ({"metadata.tags": "red"}, True),
        ({"metadata.tags": "green"}, False),
        ({"metadata.tags": {"$ne": "red"}}, False),
        ({"metadata.tags": {"$ne": "green"}}, True),
        ({"metadata.tags": {"$in": ["green", 3]}}, True),
        ({"metadata.tags": {"$gt": 2}}, True),
        ({"metadata.tags": {"$gt": 3}}, False),
        ({"metadata.pair": [1, 2]}, True),
        ({"metadata.pair": [2, 1]}, False),
        ({"metadata.pair": [True, 2]}, False),
        ({"metadata.pair": {"$in": [[1, 2]]}}, True),
        ({"metadata.author.name": "Bo"}, True),
        ({"metadata.author.born.year": {"$lt": 1971}}, True),
        ({"metadata.author": {"$exists": True}}, True),
        ({"metadata.author": "Bo"}, False),
        ({"metadata.author.name.first": "Bo"}, False),
        ({"metadata.$odd": "x"}, True),
        ({"occurred_at": "2026-01-31T09:30:00Z"}, True),
        ({"occurred_at": "2026-01-31T10:30:00+01:00"}, True),
        ({"occurred_at": {"$gte": "2026-01-31T11:29:00+02:00"}}, True),
        ({"occurred_at": {"$gt": "2026-01-31T09:30:00.000z"}}, False),
        ({"occurred_at": {"$in": ["2026-01-31T04:30:00-05:00"]}}, True),
        ({"$and": [{"user_id": "ann"}, {"metadata.year": 2024}]}, True),
        ({"$or": [{"user_id": "bob"}, {"metadata.year": 2024}]}, True),
        ({"$or": [{"user_id": "bob"}, {"metadata.year": 2023}]}, False),
        ({"$not": {"user_id": "ann"}}, False),
        ({"$not": {"agent_id": "x"}}, True),
        ({"metadata.year": {"$not": {"$gt": 2024}}}, True),
        ({"user_id": "ann", "$or": [{"subjects": "bob"}, {"$not": {"metadata.draft": True}}]}, True),
    ],
)  # fmt: skip
def test_what_matches(filter: JsonValue, expected: bool) -> None:
    assert matches(filter) is expected


@pytest.mark.parametrize(
    ("filter", "where"),
    [
        ([], "filter"),
        (None, "filter"),
        ({"colour": "red"}, "filter.colour"),
        ({"metadata": {"a": 1}}, "filter.metadata"),
        ({"metadata.": 1}, "filter.metadata."),
        ({"metadata.a..b": 1}, "filter.metadata.a..b"),
        ({"$nor": []}, "filter.$nor"),
        ({"$or": []}, "filter.$or"),
        ({"$and": {}}, "filter.$and"),
        ({"$or": [{}, 3]}, "filter.$or[1]"),
        ({"$not": [{}]}, "filter.$not"),
        ({"$or": [{"user_id": "a"}, {"metadata.year": {"$gte": None}}]}, "filter.$or[1].metadata.year.$gte"),
        ({"metadata.year": {"$gt": True}}, "filter.metadata.year.$gt"),
        ({"metadata.year": {"$gt": [1]}}, "filter.metadata.year.$gt"),
        ({"metadata.year": {"gt": 1}}, "filter.metadata.year.gt"),
        ({"metadata.year": {"$nin": [1]}}, "filter.metadata.year.$nin"),
        ({"metadata.year": {}}, "filter.metadata.year"),
        ({"metadata.year": {"$in": 3}}, "filter.metadata.year.$in"),
        ({"metadata.year": {"$in": [1, {"a": 1}]}}, "filter.metadata.year.$in[1]"),
        ({"metadata.year": {"$ne": [1, [2]]}}, "filter.metadata.year.$ne[1]"),
        ({"metadata.year": float("nan")}, "filter.metadata.year"),
        ({"metadata.year": {"$exists": 1}}, "filter.metadata.year.$exists"),
        ({"metadata.year": {"$not": 3}}, "filter.metadata.year.$not"),
        ({"user_id": 7}, "filter.user_id"),
        ({"user_id": None}, "filter.user_id"),
        ({"subjects": ["ann"]}, "filter.subjects"),
        ({"occurred_at": 7}, "filter.occurred_at"),
        ({"occurred_at": {"$lt": "2026-01-31"}}, "filter.occurred_at.$lt"),
        ({"occurred_at": {"$lt": "2026-01-31T09:30:00"}}, "filter.occurred_at.$lt"),
        ({"occurred_at": {"$in": ["2026-02-30T09:30:00Z"]}}, "filter.occurred_at.$in[0]"),
    ],
)
def test_a_bad_filter_names_the_place(filter: JsonValue, where: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        compile_filter(filter)
    assert caught.value.where == where


def test_depth_is_bounded() -> None:
    def nested(levels: int) -> JsonValue:
        filter: JsonValue = {}
        for _ in range(levels - 1):
            filter = {"$not": filter}
        return filter

    assert compile_filter(nested(MAX_DEPTH))
    with pytest.raises(InvalidInputError, match="nested deeper"):
        compile_filter(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidInputError, match="nested deeper"):
        compile_filter(nested(5_000))


def test_size_is_bounded() -> None:
    with pytest.raises(InvalidInputError, match="parts"):
        compile_filter({"$or": [{"user_id": "a"}] * MAX_NODES})
    with pytest.raises(InvalidInputError, match="values"):
        compile_filter({"user_id": {"$in": ["a"] * (MAX_VALUES + 1)}})
    assert compile_filter({"user_id": {"$in": ["a"] * MAX_VALUES}})


def test_the_time_of_recording_stands_in_for_a_time_not_given() -> None:
    entry = Attributes()
    assert matches({"occurred_at": {"$gte": "2026-05-01T12:00:00Z"}}, entry)
    assert not matches({"occurred_at": {"$gt": "2026-05-01T12:00:00Z"}}, entry)
    assert matches({"occurred_at": {"$exists": False}}, entry)


def test_instants_are_compared_whatever_their_zone() -> None:
    entry = Attributes(occurred_at=datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2))))
    assert matches({"occurred_at": {"$lt": "2026-01-01T00:00:00Z"}}, entry)


def test_fields_names_everything_looked_at() -> None:
    filter = compile_filter(
        {"user_id": "a", "$or": [{"$not": {"metadata.x.y": 1}}, {"subjects": {"$ne": "b", "$exists": True}}]}
    )
    assert fields(filter) == {"user_id", "metadata.x.y", "subjects"}
    assert fields(compile_filter({})) == frozenset()


def test_equal_filters_are_equal() -> None:
    first, second = (compile_filter({"user_id": "a", "metadata.n": {"$gt": 1}}) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != compile_filter({"user_id": "b"})


# A second, plain evaluator that walks the JSON, to check the compiled one against.


def same(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def look_up(entry: Attributes, name: str) -> list[Any]:
    """Return what is at a field: nothing, or one value."""
    if name.startswith("metadata."):
        value: Any = dict(entry.metadata)
        for step in name.removeprefix("metadata.").split("."):
            if not isinstance(value, dict) or step not in value:
                return []
            value = value[step]
        return [value]
    value = getattr(entry, name)
    if name == "occurred_at" and value is None:
        value = RECORDED
    return [] if value in (None, ()) else [list(value) if isinstance(value, tuple) else value]


def is_ordered(operator: str, left: Any, right: Any) -> bool:
    def kind(value: Any) -> str:
        if isinstance(value, bool):
            return "truth"
        return "number" if isinstance(value, int | float) else type(value).__name__

    if kind(left) != kind(right) or kind(left) not in ("number", "str", "datetime"):
        return False
    sign = (left > right) - (left < right)
    return {"$gt": sign > 0, "$gte": sign >= 0, "$lt": sign < 0, "$lte": sign <= 0}[operator]


def evaluate_operator(entry: Attributes, name: str, operator: str, operand: Any) -> bool:
    def read(value: Any) -> Any:
        return datetime.fromisoformat(value) if name == "occurred_at" else value

    found = look_up(entry, name)
    values = [*found, *(found[0] if found and isinstance(found[0], list) else [])]
    if operator == "$exists":
        return (entry.occurred_at is not None if name == "occurred_at" else bool(found)) == operand
    if operator == "$ne":
        return not any(same(value, read(operand)) for value in values)
    if operator == "$in":
        return any(same(value, read(option)) for value in values for option in operand)
    if operator == "$eq":
        return any(same(value, read(operand)) for value in values)
    return any(is_ordered(operator, value, read(operand)) for value in values)


def evaluate(entry: Attributes, filter: Any) -> bool:
    results = []
    for key, value in filter.items():
        if key == "$and":
            results.append(all(evaluate(entry, part) for part in value))
        elif key == "$or":
            results.append(any(evaluate(entry, part) for part in value))
        elif key == "$not":
            results.append(not evaluate(entry, value))
        elif isinstance(value, dict):
            results.extend(evaluate_operator(entry, key, name, operand) for name, operand in value.items())
        else:
            results.append(evaluate_operator(entry, key, "$eq", value))
    return all(results)


# Few distinct values, so that equality and order are often met.
WORDS = st.sampled_from(["", "a", "b", "ab", "1"])
SCALARS = st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from([0.0, 1.0, 0.5]) | WORDS
METADATA_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
TIMES = st.sampled_from(
    [RECORDED + timedelta(minutes=m) for m in (-1, 0, 1)]
    + [RECORDED.astimezone(timezone(timedelta(hours=3)))]
)
ENTRIES = st.builds(
    Attributes,
    subjects=st.lists(WORDS, max_size=3).map(tuple),
    metadata=st.dictionaries(st.sampled_from("xyz"), METADATA_VALUES, max_size=3),
    user_id=st.none() | WORDS,
    external_id=st.none() | WORDS,
    occurred_at=st.none() | TIMES,
)


def conditions(names: list[str], values: st.SearchStrategy[Any], ordered: st.SearchStrategy[Any]) -> Any:
    operators = st.fixed_dictionaries(
        {},
        optional={
            "$in": st.lists(values, max_size=3),
            "$ne": values,
            "$gt": ordered,
            "$gte": ordered,
            "$lt": ordered,
            "$lte": ordered,
            "$exists": st.booleans(),
        },
    ).filter(bool)
    return st.dictionaries(st.sampled_from(names), values | operators, min_size=1, max_size=2)


STAMPS = TIMES.map(datetime.isoformat)
NUMBERS = st.integers(-1, 2) | st.sampled_from([0.0, 1.0, 0.5])
LEAVES = (
    conditions(["subjects", "user_id", "external_id"], WORDS, WORDS)
    | conditions(["occurred_at"], STAMPS, STAMPS)
    | conditions(
        ["metadata.x", "metadata.y", "metadata.x.y", "metadata.x.y.z"],
        SCALARS | st.lists(SCALARS, max_size=2),
        NUMBERS | WORDS,
    )
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)


@given(ENTRIES, FILTERS)
def test_the_compiled_filter_agrees_with_a_plain_evaluator(entry: Attributes, filter: Any) -> None:
    assert matches(filter, entry) is evaluate(entry, filter)
