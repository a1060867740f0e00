"""A certificate verifies when it is whole, and any change to it is noticed and said in words."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.canonical import canonical_json
from memory.errors import InvalidInputError
from memory.values import JsonValue
from unlearning.certificate import (
    FIRST_FORMAT,
    OUTSIDE_NOT_PROMISED,
    OUTSIDE_PROMISED,
    SECOND_FORMAT,
    CertificatePayload,
    Counts,
    SigningKey,
    StoreResult,
    issue_certificate,
    key_fingerprint,
    parse_certificate,
    verify_certificate,
)

KEY = SigningKey.load(bytes(range(32)))
NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


SAID = {
    "engine": "Milvus v2.3.5",
    "assured": ["Its live segments store no removed row."],
    "not_assured": ["The message log outlives the removal."],
    "segments_rewritten": 1,
    "garbage_seconds": 14_400,
    "log_seconds": 259_200,
}


def payload(engines: Mapping[str, Any] | None = None) -> dict[str, JsonValue]:
    return CertificatePayload(
        forget_id="f" * 32,
        tenant="ab" * 32,
        scope_digest="cd" * 32,
        requested_at=NOON,
        fenced_at=NOON + timedelta(milliseconds=3),
        certified_at=NOON + timedelta(seconds=2),
        epoch=7,
        counts=Counts(sources=1, entries=2, artifacts=30, passages=12, keys=2),
        stores=(
            StoreResult("journal", erased=2, remaining=0, content_digest="a" * 64),
            StoreResult("vectors", erased=14, remaining=0, content_digest="b" * 64),
        ),
        scan={
            "files": 9, "bytes": 12_345, "needles": 800, "excluded": 3, "too_short": 1, "found": 0,
            "encodings": ["utf-8"], "ms": 12, "uncovered": [{"path": "run/socket", "reason": "not a plain file"}],
        },
        content_digest="c" * 64,
        engines=engines or {},
        keys_destroyed=2,
        lethe_version="0.1.0",
        previous="d" * 64,
    ).to_json()  # fmt: skip


def signed(content: JsonValue) -> dict[str, JsonValue]:
    """Sign whatever it is, as a Lethe with a defect would."""
    document = issue_certificate(payload(), KEY)
    return {
        **document,
        "payload": content,
        "signature": base64.b64encode(KEY.sign(canonical_json(content))).decode(),
    }


def iter_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a document."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from iter_places(item, (*path, name))


def get(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


PLACES = sorted(iter_places(issue_certificate(payload({"milvus": SAID}), KEY)), key=repr)


def test_a_whole_certificate_is_valid() -> None:
    document = parse_certificate(json.dumps(issue_certificate(payload(), KEY), indent=2).encode())
    seen = verify_certificate(document)
    assert (seen.valid, seen.problems, seen.trusted) == (True, [], False)
    assert seen.fingerprint == KEY.fingerprint == key_fingerprint(KEY.public_key)


def test_trust_needs_the_named_key() -> None:
    document: JsonValue = issue_certificate(payload(), KEY)
    assert verify_certificate(document, trusted_key=KEY.public_key).trusted
    foreign = verify_certificate(document, trusted_key=SigningKey.create().public_key)
    assert not foreign.valid
    assert not foreign.trusted
    assert "another key" in foreign.problems[0]


def test_signing_again_with_another_key_is_noticed_by_who_names_the_key() -> None:
    forged: JsonValue = issue_certificate(payload(), SigningKey.create())
    assert verify_certificate(forged).valid
    assert not verify_certificate(forged, trusted_key=KEY.public_key).valid


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
@pytest.mark.parametrize("change", ["drop", "alter", "retype"])
def test_any_change_is_noticed(place: tuple[Any, ...], change: str) -> None:
    document = copy.deepcopy(issue_certificate(payload({"milvus": SAID}), KEY))
    parent, old = get(document, place[:-1]), get(document, place)
    if change == "drop":
        del parent[place[-1]]
    elif change == "retype":
        parent[place[-1]] = [old] if not isinstance(old, list) else {"0": old}
    elif isinstance(old, str):
        parent[place[-1]] = old + "x"
    elif isinstance(old, int):
        parent[place[-1]] = old + 1
    elif isinstance(old, list):
        parent[place[-1]] = [*old, "more"]
    else:
        parent[place[-1]] = {**old, "more": "x"}
    seen = verify_certificate(document, trusted_key=KEY.public_key)
    assert not seen.valid
    assert not seen.trusted
    assert all(problem[0] == problem[0].upper() and problem.endswith(".") for problem in seen.problems)


@given(st.integers(0, 511), st.integers(0, 255))
def test_any_changed_bit_of_the_signature_is_noticed(bit: int, key_bit: int) -> None:
    document = issue_certificate(payload(), KEY)
    for name, position in (("signature", bit), ("public_key", key_bit)):
        data = bytearray(base64.b64decode(str(document[name])))
        data[position // 8] ^= 1 << position % 8
        assert not verify_certificate({**document, name: base64.b64encode(data).decode()}).valid


def test_a_signature_has_one_spelling() -> None:
    """The spare bits of the last base64 digit cannot be used to change the text unnoticed."""
    document = issue_certificate(payload(), KEY)
    text = str(document["signature"])
    other = text[:-3] + chr(ord(text[-3]) + 1) + "=="
    assert base64.b64decode(other) == base64.b64decode(text)
    assert not verify_certificate({**document, "signature": other}).valid
    assert not verify_certificate({**document, "signature": text + "\n"}).valid


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("stores", 1, "remaining"), 1, "still holds 1 items"),
        (("stores", 1, "erased"), 13, "add up to 15, not to the total of 16"),
        (("stores", 1, "name"), "journal", "listed twice"),
        (("scan", "found"), 4, "residue in 4 places"),
        (("keys_destroyed",), 1, "Keys destroyed: 1, keys the scope had: 2"),
        (("certified_at",), "2026-05-01T11:59:59Z", "out of order"),
        (("fenced_at",), "2026-05-01T12:00:00+00:00", "RFC 3339"),
        (("fenced_at",), "2026-02-30T12:00:00Z", "RFC 3339"),
        (("previous",), "D" * 64, "64 lower-case"),
        (("tenant",), "acme", "64 lower-case"),
        (("epoch",), True, "whole number"),
        (("epoch",), 7.0, "whole number"),
        (("epoch",), -1, "whole number"),
        (("promises",), [], "sentences"),
        (("stores",), [], "No store is listed"),
        (("scan", "uncovered", 0), "run/socket", "should be an object"),
        (("subject",), "Ann Thornbury", "does not know"),
    ],
)  # fmt: skip
def test_a_signed_contradiction_is_explained_and_never_issued(
    place: tuple[Any, ...], value: JsonValue, words: str
) -> None:
    content = payload()
    get(content, place[:-1])[place[-1]] = value
    seen = verify_certificate(signed(content))
    assert not seen.valid
    assert any(words in problem for problem in seen.problems), seen.problems
    with pytest.raises(InvalidInputError):
        issue_certificate(content, KEY)


def test_certificates_of_earlier_formats_verify_for_ever() -> None:
    """They said nothing of engines, the first nothing of media; one that does was not issued in that format."""
    content = payload()
    for format_, unknown in ((SECOND_FORMAT, "engines"), (FIRST_FORMAT, "media")):
        assert not verify_certificate(signed(content) | {"format": format_}).valid
        del content[unknown]
        assert verify_certificate(signed(content) | {"format": format_}).valid
        assert not verify_certificate(signed(content)).valid


def test_where_an_engine_holds_vectors_the_promises_say_how_far_they_go() -> None:
    alone, beside = payload(), payload({"milvus": SAID})
    assert alone["engines"] == {}
    assert OUTSIDE_PROMISED not in str(alone["promises"]) + str(alone["not_promised"])
    assert OUTSIDE_PROMISED in beside["promises"]  # type: ignore[operator]
    assert OUTSIDE_NOT_PROMISED in beside["not_promised"]  # type: ignore[operator]
    for said in (beside, payload({"milvus": {**SAID, "garbage_seconds": 0.5, "log_seconds": None}})):
        assert verify_certificate(json.loads(json.dumps(issue_certificate(said, KEY)))).valid
    for unsaid in ({**SAID, "not_assured": []}, {**SAID, "garbage_seconds": -1}, {**SAID, "rows": 1}):
        with pytest.raises(InvalidInputError, match=r"engines\.milvus"):
            issue_certificate(payload({"milvus": unsaid}), KEY)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"payload": float("nan")}])
def test_what_is_no_certificate_is_refused_in_words(document: JsonValue) -> None:
    seen = verify_certificate(document)
    assert not seen.valid
    assert seen.problems


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5),
       st.sampled_from(PLACES))  # fmt: skip
def test_no_value_anywhere_makes_verification_crash(value: Any, place: tuple[Any, ...]) -> None:
    document = copy.deepcopy(issue_certificate(payload({"milvus": SAID}), KEY))
    old = get(document, place)
    get(document, place[:-1])[place[-1]] = value
    same = type(value) is type(old) and value == old
    assert verify_certificate(document).valid is same


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 100_000])
def test_a_file_that_is_no_clear_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_certificate(data)


def test_keys_come_back_from_their_bytes() -> None:
    assert SigningKey.load(KEY.to_bytes()).public_key == KEY.public_key
    with pytest.raises(InvalidInputError):
        SigningKey.load(b"short")
