"""Chats: turns stay whole, messages can be cited by id, days part sections; other JSON is readable."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import InvalidInputError, LetheError
from memory.values import MESSAGES_MEDIA_TYPE
from tests.sources.checks import parse, texts

MESSAGES = [
    {
        "role": "user",
        "content": "Where is the key?",
        "id": "m1",
        "name": "Alice",
        "at": "2026-03-01T10:00:00Z",
    },
    {"role": "assistant", "content": [{"type": "text", "text": "Under the mat."}, {"type": "image_url"}]},
    {
        "role": "user",
        "content": "Thanks!\nSee you.",
        "id": "m3",
        "name": "Alice",
        "at": "2026-03-02T09:00:00Z",
    },
]


def test_turns_are_lines_with_ids_speakers_and_days() -> None:
    parsed = parse(json.dumps(MESSAGES), MESSAGES_MEDIA_TYPE, title="Keys")

    assert parsed.text == "Alice: Where is the key?\nassistant: Under the mat.\nAlice: Thanks!\nSee you.\n"
    assert [section.heading for section in parsed.sections] == [(), ("2026-03-01",), ("2026-03-02",)]
    assert [message for passage in parsed.passages for message in passage.messages] == ["m1", "1", "m3"]
    assert parsed.passages[0].context.endswith("2026-03-01 Alice, assistant")
    assert parsed.passages[0].occurred_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert parsed.warnings == ("1 parts of type 'image_url' were left out",)


def test_turns_are_never_cut_unless_too_long() -> None:
    messages = [
        {"role": "user", "content": f"Turn {n}. " + "Some words here. " * (n % 40)} for n in range(80)
    ]
    parsed = parse(json.dumps({"messages": messages}), "application/json")

    assert all(piece.startswith("user: Turn") for piece in texts(parsed))
    assert [m for passage in parsed.passages for m in passage.messages] == [str(n) for n in range(80)]


def test_a_turn_longer_than_the_maximum_keeps_its_id_in_every_part() -> None:
    parsed = parse(
        json.dumps([{"role": "user", "content": "A long story goes on. " * 200, "id": 7}]),
        MESSAGES_MEDIA_TYPE,
    )

    assert len(parsed.passages) > 3
    assert {passage.messages for passage in parsed.passages} == {("7",)}


def test_a_chat_without_times_is_dated_by_its_entry() -> None:
    at = datetime(2025, 5, 4, tzinfo=UTC)
    parsed = parse('[{"role": "user", "content": "hello"}]', MESSAGES_MEDIA_TYPE, occurred_at=at)

    assert parsed.passages[0].context == "2025-05-04 user"
    assert parsed.passages[0].occurred_at is None


def test_json_lines_of_messages_and_of_conversations_are_chats() -> None:
    lines = "\n".join(json.dumps(message) for message in MESSAGES)
    assert parse(lines, "application/x-ndjson").passages[0].messages[0] == "m1"

    conversations = "\n".join(json.dumps({"title": f"Talk {n}", "messages": MESSAGES[:1]}) for n in range(3))
    parsed = parse(conversations, "application/jsonl")
    assert [section.heading for section in parsed.sections[1:]] == [("Talk 0",), ("Talk 1",), ("Talk 2",)]


def test_other_json_becomes_readable_records() -> None:
    records = [
        {"name": "Ada", "born": {"year": 1815}, "tags": ["math", "code"], "dead": True, "none": None},
        {"id": 4},
    ]
    parsed = parse(json.dumps(records), "application/json")

    assert parsed.text == "name: Ada\nborn.year: 1815\ntags: math, code\ndead: true\n\nid: 4\n\n"
    assert [section.heading for section in parsed.sections] == [(), ("Ada",), ("4",)]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ('[{"role": "user", "content": 3}]', "messages[0]"),
        ('[{"role": "user", "content": "x"}, {"content": "y"}]', "messages[1]"),
        ('[{"role": "user", "content": "x", "at": "yesterday"}]', "messages[0]"),
        ('[{"role": "user", "content": "x", "id": [1]}]', "messages[0]"),
        ("[1]", "messages[0]"),
        ("[{]", "line 1, column 3"),
        ("3", None),
        ("[]", None),
        ('[{"role": "user", "content": ""}]', None),
    ],
)
def test_refusals_say_where(body: str, where: str | None) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(body, MESSAGES_MEDIA_TYPE)
    assert caught.value.where == where


@pytest.mark.parametrize(
    "body",
    ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000, "9" * 10_000, "[" * 99 + "]" * 99],
)
def test_hostile_json_is_refused(body: str) -> None:
    with pytest.raises(InvalidInputError):
        parse(body, "application/json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "messages", "at", "id", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from([MESSAGES_MEDIA_TYPE, "application/json", "application/jsonl"]))
def test_any_json_parses_or_is_refused(value: object, media_type: str) -> None:
    with suppress(LetheError):
        parse(json.dumps(value), media_type)
