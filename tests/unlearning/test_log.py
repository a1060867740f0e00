"""The log's chain shows every certificate that was changed, dropped, added or moved."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from unlearning.log import entry_hash, verify_chain


def chain(length: int) -> list[dict[str, Any]]:
    certificates: list[dict[str, Any]] = []
    previous = None
    for number in range(length):
        certificate = {"payload": {"forget_id": f"f{number}", "previous": previous}, "signature": "s"}
        certificates.append(certificate)
        previous = entry_hash(previous, certificate)
    return certificates


@given(st.integers(0, 6))
def test_a_whole_chain_has_no_problems(length: int) -> None:
    assert verify_chain(chain(length)) == []


@given(st.integers(2, 6), st.data())
def test_a_tampered_chain_is_noticed(length: int, data: st.DataObject) -> None:
    """Dropping or changing the very last certificate needs the newest hash, kept elsewhere."""
    certificates = chain(length)
    at = data.draw(st.integers(0, length - 2))
    kind = data.draw(st.sampled_from(["drop", "change", "swap", "repeat"]))
    if kind == "drop":
        del certificates[at]
    elif kind == "change":
        certificates[at]["signature"] = "t"
    elif kind == "swap":
        certificates[at], certificates[at + 1] = certificates[at + 1], certificates[at]
    else:
        certificates.insert(at, copy.deepcopy(certificates[at]))
    assert verify_chain(certificates)


def test_the_newest_hash_tells_a_cut_or_changed_end() -> None:
    certificates = chain(3)
    last = certificates[-1]
    newest = entry_hash(last["payload"]["previous"], last)
    assert newest != last["payload"]["previous"]
    assert newest != entry_hash(last["payload"]["previous"], {**last, "signature": "t"})
    assert newest != entry_hash(None, last)


def test_a_broken_entry_is_named() -> None:
    assert verify_chain([{"payload": None}]) == ["Certificate 1 has no payload."]
    later = chain(2)[1:]
    assert verify_chain(later) == ["Certificate 1 names one before it: the beginning of the log is missing."]


def test_one_forget_has_one_certificate() -> None:
    first, second = chain(2)
    second["payload"]["forget_id"] = "f0"
    assert verify_chain([first, second]) == ["Certificates 1 and 2 are for the same forget."]
