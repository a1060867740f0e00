"""Which single files to ingest, under which names, and with what is said about them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from memory.errors import ConflictError, InvalidInputError

if TYPE_CHECKING:
    from api.client import AttributeFields


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to ingest, and the name it goes by."""

    path: Path
    external_id: str
    attributes: AttributeFields = field(default_factory=lambda: cast("AttributeFields", {}))


def find_files(paths: Iterable[Path]) -> list[Candidate]:
    """Return files as named, each to go by its own name.

    Raises ``ConflictError`` when two files would go by the same name.
    """
    found: dict[str, Candidate] = {}
    for candidate in (Candidate(path, path.name) for path in paths):
        twin = found.setdefault(candidate.external_id, candidate)
        if twin.path.resolve() != candidate.path.resolve():
            raise ConflictError(
                f"{twin.path} and {candidate.path} would both be {candidate.external_id!r}; "
                "ingest their common folder instead"
            )
    return list(found.values())


def read_manifest(path: Path) -> list[Candidate]:
    """Return the files a manifest lists: a JSON array of {"path", and any attributes}, paths beside it."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "path" in row for row in rows):
        raise InvalidInputError("expected an array of objects with a 'path'", where=str(path))
    return [_candidate_of(path.parent, dict(row)) for row in rows]


def _candidate_of(folder: Path, row: dict[str, Any]) -> Candidate:
    name = str(row.pop("path"))
    external_id = str(row.pop("external_id", name))
    return Candidate(folder / name, external_id, cast("AttributeFields", row))
