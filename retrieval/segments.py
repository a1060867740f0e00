"""Immutable files of vectors, named by the digest of what is in them.

A file is one header line of JSON (format, space, dimension, count), the ids in canonical order, and the
matrix in half precision, memory-mapped when read. The same rows give the same bytes, hence the same name,
whatever order they were added in. Nothing here knows tenants or manifests.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory.errors import CorruptionError, DigestMismatchError, DimensionMismatchError, InvalidInputError
from memory.faults import point

SUFFIX = ".segment"
_FORMAT = "lethe-segment-1"
_CHUNK_BYTES = 1 << 20
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """An open segment: row ``i`` of ``vectors``, shape (count, dimension), is ``ids[i]``. Read only."""

    name: str
    space: str
    ids: tuple[str, ...]
    vectors: npt.NDArray[np.float16]

    @property
    def dimension(self) -> int:
        """Return the vectors' dimension."""
        return int(self.vectors.shape[1])


def as_stored(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return vectors as they read back from a segment, so that unsaved and saved rows score alike."""
    return vectors.astype(np.float16).astype(np.float32)


def write_segment(folder: Path, *, space: str, ids: Sequence[str], vectors: npt.NDArray[np.floating]) -> str:
    """Write rows, vectors of shape (len(ids), dimension), and return the file's name in ``folder``.

    The file appears whole or not at all. Writing what is there already changes nothing.
    """
    if vectors.ndim != 2 or len(ids) != len(vectors):
        raise DimensionMismatchError(len(ids), len(vectors))
    if len(set(ids)) != len(ids) or any("\n" in name or not name for name in ids):
        raise InvalidInputError("ids must be distinct, not empty and of one line", where="ids")
    order = sorted(range(len(ids)), key=lambda row: ids[row].encode())
    names = "".join(f"{ids[row]}\n" for row in order).encode()
    header = {
        "count": len(ids),
        "dimension": int(vectors.shape[1]),
        "format": _FORMAT,
        "ids_bytes": len(names),
        "space": space,
    }
    start = json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n" + names
    matrix = np.ascontiguousarray(vectors[order], dtype="<f2").tobytes()
    content = start + b"\0" * (-len(start) % _ALIGNMENT) + matrix
    name = hashlib.sha256(content).hexdigest() + SUFFIX
    _publish(folder / name, content)
    return name


def read_segment(path: Path) -> Segment:
    """Open a segment, its digest checked against its name.

    Raises ``CorruptionError`` when the file is torn, altered, or of another format.
    """
    expected = path.name.removesuffix(SUFFIX)
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != expected:
            raise DigestMismatchError(path.name, expected, got)
        file.seek(0)
        header_line = file.readline(_CHUNK_BYTES)
        try:
            header = json.loads(header_line)
            count, dimension = int(header["count"]), int(header["dimension"])
            ids_bytes, space = int(header["ids_bytes"]), str(header["space"])
            known = header["format"] == _FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptionError(f"{path.name}: the header cannot be read") from error
        if not known:
            raise CorruptionError(f"{path.name}: unknown format {header['format']!r}")
        ids = tuple(file.read(ids_bytes).decode().split("\n")[:-1])
    begin = len(header_line) + ids_bytes
    begin += -begin % _ALIGNMENT
    if len(ids) != count or path.stat().st_size != begin + count * dimension * 2:
        raise CorruptionError(f"{path.name}: the header does not fit the file")
    vectors: npt.NDArray[np.float16]
    if count:
        vectors = np.memmap(path, dtype="<f2", mode="r", offset=begin, shape=(count, dimension))
    else:
        vectors = np.empty((0, dimension), dtype="<f2")
    return Segment(path.name, space, ids, vectors)


def _publish(path: Path, content: bytes) -> None:
    """Make ``content`` durable under ``path``: written beside it, synced, renamed, the folder synced."""
    if path.exists():
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=SUFFIX + ".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            point("segment.write")
            file.write(content)
            file.flush()
            point("segment.sync")
            os.fsync(file.fileno())
        point("segment.rename")
        Path(temporary).rename(path)
    except BaseException:
        point("segment.discard")
        Path(temporary).unlink(missing_ok=True)
        raise
    point("segment.renamed")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
