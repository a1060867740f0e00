"""The certificate of a forget: what was done, what was looked at, and what is not promised.

A signed JSON document that can be checked offline, years later, with nothing but this file.
It holds none of what was forgotten: the tenant and the scope appear only as HMACs under the
tenant's key. The signature is Ed25519 (RFC 8032) over the payload's canonical JSON (RFC 8785).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from memory.canonical import canonical_json
from memory.errors import InvalidInputError
from memory.values import JsonValue

FORMAT = "lethe-certificate/3"
SECOND_FORMAT = "lethe-certificate/2"
"""Those issued then say nothing of ``engines``; they verify for ever."""
FIRST_FORMAT = "lethe-certificate/1"
"""Those issued then say nothing of ``media`` either."""
ALGORITHM = "Ed25519"

PROMISES = (
    "G0: from the time fenced_at on, no text, id, vector, quote, summary, count or cached answer "
    "derived from the scope leaves Lethe.",
    "G1: at certified_at no registered store holds the scope's bytes, as counted store by store "
    "and as looked for in the scanned files.",
    "G2: at certified_at the content that remains equals that of a Lethe that never knew the scope, "
    "statistics, structure and ranking included.",
    "G3: backups made before cannot be read for the scope, because its keys are destroyed.",
)
"""What a certificate promises."""

NOT_PROMISED = (
    "Disk blocks that the file system has freed but not yet written over.",
    "Copies that a solid-state drive keeps for wear levelling, and snapshots of the file system or machine.",
    "Copies made outside Lethe: original files, exports, logs of other programs, backups of the key store.",
    "Memory of processes and swap space until they are used again.",
    "What a caller already received before the fence, and what models or people did with it.",
    "What language models and encoders knew from their own training.",
    "Content inside compressed or encrypted blocks is not looked for byte by byte; it is erased by its store "
    "and loses its keys.",
)
"""What no certificate promises."""

OUTSIDE_PROMISED = (
    "G1 and G2 hold for what external engines keep only so far as it is said under engines to be assured."
)
"""What a certificate adds to its promises where vectors are in an external engine, too."""

OUTSIDE_NOT_PROMISED = (
    "What an external engine keeps of superseded files, logs, snapshots and backups, as said under engines: "
    "vectors lie there unsealed, so that no key's destruction makes them unreadable."
)


@dataclass(frozen=True, slots=True)
class Counts:
    """How much the scope's closure held."""

    sources: int
    entries: int
    artifacts: int
    passages: int
    keys: int

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "sources": self.sources,
            "entries": self.entries,
            "artifacts": self.artifacts,
            "passages": self.passages,
            "keys": self.keys,
        }


@dataclass(frozen=True, slots=True)
class StoreResult:
    """One registered store: items erased, items still held, and the digest of what it then holds."""

    name: str
    erased: int
    remaining: int
    content_digest: str

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "name": self.name,
            "erased": self.erased,
            "remaining": self.remaining,
            "content_digest": self.content_digest,
        }


@dataclass(frozen=True, slots=True)
class CertificatePayload:
    """What is signed. Times are aware; digests are 64 lower-case hexadecimal digits.

    ``tenant`` and ``scope_digest`` are HMACs under the tenant's key (``Vault.name``). ``scan`` is
    ``ScanReport.to_json()``. ``content_digest`` is that of the whole content plane afterwards.
    ``media`` says for each database how the freed bytes of its tables and its log were dealt with: where a
    medium cannot be overwritten, the destroyed keys are what makes them unreadable. ``engines`` says for each
    external engine that holds vectors what it assures of its copies and what not, and the promises follow.
    ``previous`` is the hash of the entry before in the transparency log, or None for the first.
    In JSON, ``totals`` adds up what the stores erased and still hold.
    """

    forget_id: str
    tenant: str
    scope_digest: str
    requested_at: datetime
    fenced_at: datetime
    certified_at: datetime
    epoch: int
    counts: Counts
    stores: tuple[StoreResult, ...]
    scan: Mapping[str, JsonValue]
    content_digest: str
    keys_destroyed: int
    lethe_version: str
    media: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engines: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    previous: str | None = None
    promises: tuple[str, ...] = PROMISES
    not_promised: tuple[str, ...] = NOT_PROMISED

    def to_json(self) -> dict[str, JsonValue]:
        """Return the payload as it is signed."""
        return {
            "forget_id": self.forget_id,
            "tenant": self.tenant,
            "scope_digest": self.scope_digest,
            "requested_at": _time_text(self.requested_at),
            "fenced_at": _time_text(self.fenced_at),
            "certified_at": _time_text(self.certified_at),
            "epoch": self.epoch,
            "counts": self.counts.to_json(),
            "stores": [store.to_json() for store in self.stores],
            "totals": {
                "erased": sum(store.erased for store in self.stores),
                "remaining": sum(store.remaining for store in self.stores),
            },
            "scan": dict(self.scan),
            "media": {name: dict(how) for name, how in self.media.items()},
            "engines": {name: dict(said) for name, said in self.engines.items()},
            "content_digest": self.content_digest,
            "keys_destroyed": self.keys_destroyed,
            "promises": [*self.promises, *([OUTSIDE_PROMISED] if self.engines else [])],
            "not_promised": [*self.not_promised, *([OUTSIDE_NOT_PROMISED] if self.engines else [])],
            "previous": self.previous,
            "lethe_version": self.lethe_version,
        }


class SigningKey:
    """An Ed25519 key that signs certificates."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def create(cls) -> SigningKey:
        """Return a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, data: bytes) -> SigningKey:
        """Return the key whose 32 bytes ``to_bytes`` gave."""
        if len(data) != 32:
            raise InvalidInputError(f"a signing key has 32 bytes, this has {len(data)}")
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    def to_bytes(self) -> bytes:
        """Return the 32 secret bytes, to be kept in a file only its owner reads."""
        return self._private.private_bytes_raw()

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that others check signatures with."""
        return self._private.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """The sha256 of the public key, in hexadecimal."""
        return key_fingerprint(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature."""
        return self._private.sign(data)


@dataclass(frozen=True, slots=True)
class Verification:
    """What checking a certificate showed.

    ``valid``: genuine for the key in it, complete and consistent; then ``problems`` is empty.
    ``trusted``: also signed by the key the caller named. Without such a key nobody knows whose key signed.
    ``fingerprint`` is the signer's, or None when the document holds no readable key.
    """

    valid: bool
    problems: list[str] = field(default_factory=list)
    fingerprint: str | None = None
    trusted: bool = False


def key_fingerprint(public_key: bytes) -> str:
    """Return the sha256 of a public key, in hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()


def issue_certificate(payload: dict[str, JsonValue], key: SigningKey) -> dict[str, JsonValue]:
    """Return the signed document.

    What verification would refuse is not signed: raise ``InvalidInputError`` with every problem.
    """
    problems = list_payload_problems(payload)
    if problems:
        raise InvalidInputError("; ".join(problems), where="payload")
    return {
        "format": FORMAT,
        "algorithm": ALGORITHM,
        "payload": payload,
        "public_key": base64.b64encode(key.public_key).decode("ascii"),
        "signature": base64.b64encode(key.sign(canonical_json(payload))).decode("ascii"),
    }


def parse_certificate(data: bytes) -> JsonValue:
    """Return the JSON in a certificate file; raise ``InvalidInputError`` when it is none.

    A name that stands twice in an object is refused: readers disagree on which one counts.
    """

    def once(pairs: list[tuple[str, JsonValue]]) -> JsonValue:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise InvalidInputError("a name stands twice in one object of the certificate")
        return dict(pairs)

    try:
        document: JsonValue = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the certificate is not readable JSON: {error}") from error
    return document


def verify_certificate(document: JsonValue, *, trusted_key: bytes | None = None) -> Verification:
    """Check a certificate offline: signature, format, fields and whether they agree.

    ``trusted_key`` is the 32-byte public key the certificate should be signed with.
    """
    if not isinstance(document, dict):
        return Verification(False, ["The certificate is not a JSON object."])
    problems: list[str] = []
    for name in ("format", "algorithm", "payload", "public_key", "signature"):
        if name not in document:
            problems.append(f"The certificate lacks its {name}.")
    for name in sorted(set(document) - {"format", "algorithm", "payload", "public_key", "signature"}):
        problems.append(f"The certificate holds an unsigned field that does not belong there: {name}.")
    format_ = document.get("format", FORMAT)
    checks = _PAYLOADS.get(format_) if isinstance(format_, str) else None
    if checks is None:
        problems.append(f"The format is none of {', '.join(_PAYLOADS)}: this program cannot judge it.")
    if document.get("algorithm", ALGORITHM) != ALGORITHM:
        problems.append(f"The signature algorithm is not {ALGORITHM}.")
    payload = document.get("payload")
    if "payload" in document:
        found = list_payload_problems(payload, checks or _PAYLOAD)
        problems.extend(f"{problem[0].upper()}{problem[1:]}." for problem in found)
    public_key = _decoded(document.get("public_key"), 32)
    signature = _decoded(document.get("signature"), 64)
    if public_key is None and "public_key" in document:
        problems.append("The public key is not 32 bytes in base64.")
    if signature is None and "signature" in document:
        problems.append("The signature is not 64 bytes in base64.")
    if public_key is not None and signature is not None and "payload" in document:
        problems.extend(_signature_problems(payload, public_key, signature))
    foreign = trusted_key is not None and public_key is not None and public_key != trusted_key
    if foreign:
        problems.append("The certificate is signed with another key than the one to be trusted.")
    return Verification(
        valid=not problems,
        problems=problems,
        fingerprint=None if public_key is None else key_fingerprint(public_key),
        trusted=not problems and trusted_key is not None,
    )


def _decoded(value: JsonValue, length: int) -> bytes | None:
    """Return bytes from base64 in its one exact spelling; spare bits would let a text change unnoticed."""
    if not isinstance(value, str):
        return None
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(data) != length or base64.b64encode(data).decode("ascii") != value:
        return None
    return data


def _signature_problems(payload: JsonValue, public_key: bytes, signature: bytes) -> list[str]:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, canonical_json(payload))
    except InvalidSignature:
        return ["The signature does not fit: the content or the signature was changed after signing."]
    except InvalidInputError as error:
        return [f"The content cannot be checked, because it has no canonical form ({error})."]
    except ValueError:
        return ["The public key is not a point of the curve Ed25519."]
    return []


# What the payload must hold. A check returns what is wrong with a value, in words, or None.

_Check = Callable[[JsonValue], str | None]
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)


def _text(value: JsonValue) -> str | None:
    return None if isinstance(value, str) and value.strip() else "should be a text that is not empty"


def _count(value: JsonValue) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if right else "should be a whole number, zero or more"


def _seconds(value: JsonValue) -> str | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return None if right else "should be a number of seconds, zero or more"


def _seconds_or_none(value: JsonValue) -> str | None:
    return None if value is None else _seconds(value)


def _digest(value: JsonValue) -> str | None:
    right = isinstance(value, str) and _HEX_DIGEST.fullmatch(value)
    return None if right else "should be a digest of 64 lower-case hexadecimal digits"


def _digest_or_none(value: JsonValue) -> str | None:
    return None if value is None else _digest(value)


def _time(value: JsonValue) -> str | None:
    return None if _parsed_time(value) else "should be an RFC 3339 time in UTC, such as 2026-01-31T09:30:00Z"


def _sentences(value: JsonValue) -> str | None:
    right = isinstance(value, list) and value and all(_text(item) is None for item in value)
    return None if right else "should be a list of sentences"


def _names(value: JsonValue) -> str | None:
    right = isinstance(value, list) and all(_text(item) is None for item in value)
    return None if right else "should be a list of names"


def _list(value: JsonValue) -> str | None:
    return None if isinstance(value, list) else "should be a list"


def _object(value: JsonValue) -> str | None:
    return None if isinstance(value, dict) else "should be an object"


_PAYLOAD: dict[str, _Check] = {
    "forget_id": _text,
    "tenant": _digest,
    "scope_digest": _digest,
    "requested_at": _time,
    "fenced_at": _time,
    "certified_at": _time,
    "epoch": _count,
    "counts": _object,
    "stores": _list,
    "totals": _object,
    "scan": _object,
    "media": _object,
    "engines": _object,
    "content_digest": _digest,
    "keys_destroyed": _count,
    "promises": _sentences,
    "not_promised": _sentences,
    "previous": _digest_or_none,
    "lethe_version": _text,
}
_SECOND_PAYLOAD = {name: check for name, check in _PAYLOAD.items() if name != "engines"}
_FIRST_PAYLOAD = {name: check for name, check in _SECOND_PAYLOAD.items() if name != "media"}
_PAYLOADS: dict[str, Mapping[str, _Check]] = {
    FORMAT: _PAYLOAD,
    SECOND_FORMAT: _SECOND_PAYLOAD,
    FIRST_FORMAT: _FIRST_PAYLOAD,
}
_COUNTS: dict[str, _Check] = dict.fromkeys(("sources", "entries", "artifacts", "passages", "keys"), _count)
_TOTALS: dict[str, _Check] = dict.fromkeys(("erased", "remaining"), _count)
_STORE: dict[str, _Check] = {
    "name": _text,
    "erased": _count,
    "remaining": _count,
    "content_digest": _digest,
}
_SCAN: dict[str, _Check] = {
    **dict.fromkeys(("files", "bytes", "needles", "excluded", "too_short", "found", "ms"), _count),
    "encodings": _names,
    "uncovered": _list,
}
_MEDIUM: dict[str, _Check] = {"tables": _text, "log": _text}
_ENGINE: dict[str, _Check] = {
    "engine": _text,
    "assured": _sentences,
    "not_assured": _sentences,
    "segments_rewritten": _count,
    "garbage_seconds": _seconds,
    "log_seconds": _seconds_or_none,
}
_UNCOVERED: dict[str, _Check] = {"path": _text, "reason": _text}


def list_payload_problems(payload: JsonValue, checks: Mapping[str, _Check] = _PAYLOAD) -> list[str]:
    """Return everything that is wrong with a payload, in words; nothing when it may be signed."""
    problems = _shape_problems(payload, "the payload", checks)
    if not isinstance(payload, dict):
        return problems
    if isinstance(counts := payload.get("counts"), dict):
        problems += _shape_problems(counts, "counts", _COUNTS)
    if isinstance(totals := payload.get("totals"), dict):
        problems += _shape_problems(totals, "totals", _TOTALS)
    if isinstance(stores := payload.get("stores"), list):
        for index, store in enumerate(stores):
            problems += _shape_problems(store, f"stores[{index}]", _STORE)
    if isinstance(scan := payload.get("scan"), dict):
        problems += _shape_problems(scan, "scan", _SCAN)
        if isinstance(uncovered := scan.get("uncovered"), list):
            for index, item in enumerate(uncovered):
                problems += _shape_problems(item, f"scan.uncovered[{index}]", _UNCOVERED)
    if isinstance(media := payload.get("media"), dict):
        for name, medium in media.items():
            problems += _shape_problems(medium, f"media.{name}", _MEDIUM)
    if isinstance(engines := payload.get("engines"), dict):
        for name, engine in engines.items():
            problems += _shape_problems(engine, f"engines.{name}", _ENGINE)
    # Only what has its right shape can be held against the rest.
    return problems or _disagreements(payload)


def _shape_problems(value: JsonValue, where: str, checks: Mapping[str, _Check]) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} should be an object"]
    problems = [f"{where} lacks {name}" for name in checks if name not in value]
    problems += [
        f"{where} holds {name}, which its format does not know" for name in sorted(set(value) - set(checks))
    ]
    for name, check in checks.items():
        if name in value and (wrong := check(value[name])) is not None:
            problems.append(f"{where}.{name} {wrong}" if where != "the payload" else f"{name} {wrong}")
    return problems


def _disagreements(payload: Mapping[str, JsonValue]) -> list[str]:
    """Return where the parts of a well-shaped payload contradict one another."""
    problems: list[str] = []
    stores = [store for store in _items(payload["stores"]) if isinstance(store, dict)]
    totals, counts, scan = _fields(payload["totals"]), _fields(payload["counts"]), _fields(payload["scan"])
    names = [store["name"] for store in stores]
    if not stores:
        problems.append("no store is listed, so nothing was erased")
    if len({str(name) for name in names}) < len(names):
        problems.append("a store is listed twice")
    for name in ("erased", "remaining"):
        summed = sum(_number(store[name]) for store in stores)
        if summed != _number(totals[name]):
            problems.append(
                f"the stores' {name} items add up to {summed}, not to the total of {totals[name]}"
            )
    for store in stores:
        if _number(store["remaining"]) > 0:
            problems.append(f"the store {store['name']} still holds {store['remaining']} items")
    if _number(scan["found"]) > 0:
        problems.append(f"the scan found residue in {scan['found']} places")
    if payload["keys_destroyed"] != counts["keys"]:
        problems.append(f"keys destroyed: {payload['keys_destroyed']}, keys the scope had: {counts['keys']}")
    times = [_parsed_time(payload[name]) for name in ("requested_at", "fenced_at", "certified_at")]
    known = [time for time in times if time is not None]
    if known != sorted(known):
        problems.append("the times are out of order: requested, fenced, certified")
    return problems


def _items(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, list) else ()


def _fields(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, dict) else {}


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def _parsed_time(value: JsonValue) -> datetime | None:
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None  # a 30th of February
    return None


def _time_text(time: datetime) -> str:
    if time.tzinfo is None:
        raise InvalidInputError("the time has no zone", where="payload")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
