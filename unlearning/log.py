"""The transparency log: a chain of certificates in which none can be changed, dropped or reordered.

Each certificate names the hash of the entry before it, and each entry's hash covers the whole
certificate. Whoever keeps the newest hash can tell any change to what came before.
Pure functions; nothing here knows where the log is kept, and signatures are ``certificate``'s to check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from memory.canonical import canonical_json
from memory.values import JsonValue

_PURPOSE = b"lethe-log/1\0"
_FIRST = "0" * 64


def entry_hash(previous: str | None, certificate: dict[str, JsonValue]) -> str:
    """Return the hash of the log's entry for a certificate: sha256, in hexadecimal.

    ``previous`` is the hash of the entry before, or None for the first.
    """
    link = (previous or _FIRST).encode("ascii")
    return hashlib.sha256(_PURPOSE + link + b"\0" + canonical_json(certificate)).hexdigest()


def verify_chain(certificates: Iterable[dict[str, JsonValue]]) -> list[str]:
    """Return what is wrong with a log, oldest certificate first; nothing when the chain holds."""
    problems: list[str] = []
    seen: dict[str, int] = {}
    previous: str | None = None
    for number, certificate in enumerate(certificates, start=1):
        payload = certificate.get("payload")
        if not isinstance(payload, dict):
            problems.append(f"Certificate {number} has no payload.")
            payload = {}
        if payload.get("previous") != previous:
            problems.append(
                f"Certificate {number} does not follow the one before it: "
                "one was changed, dropped, added or moved."
                if number > 1
                else "Certificate 1 names one before it: the beginning of the log is missing."
            )
        forget_id = payload.get("forget_id")
        if isinstance(forget_id, str) and (first := seen.setdefault(forget_id, number)) != number:
            problems.append(f"Certificates {first} and {number} are for the same forget.")
        previous = entry_hash(previous, certificate)
    return problems
