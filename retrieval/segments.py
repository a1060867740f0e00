"""Immutable files, named by the digest of what is in them.

A segment is one header line of JSON (format, what it is about, its arrays) and the arrays, little-endian,
each at a multiple of 64 bytes and memory-mapped when read. The same arrays give the same bytes, hence the
same name. A file appears whole or not at all. Nothing here knows tenants, manifests or what the arrays mean.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memory.errors import CorruptionError, DigestMismatchError
from memory.faults import point
from memory.values import JsonValue

SUFFIX = ".segment"
_FORMAT = "lethe-segment-2"
_LONGEST_HEADER = 1 << 20
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """An open segment: what it says it is about, and its arrays by name, mapped and read only."""

    name: str
    about: Mapping[str, JsonValue]
    arrays: Mapping[str, npt.NDArray[Any]]


def as_stored(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return vectors as they read back in half precision, so that unsaved and saved rows score alike."""
    return vectors.astype(np.float16).astype(np.float32)


def write_segment(
    folder: Path, about: Mapping[str, JsonValue], arrays: Mapping[str, npt.NDArray[Any]]
) -> str:
    """Write arrays into ``folder`` and return the file's name; what is there already is left as it is."""
    ordered = {name: _little(arrays[name]) for name in sorted(arrays)}
    header: dict[str, JsonValue] = {
        "about": dict(about),
        "arrays": [
            {"name": name, "type": array.dtype.str, "shape": list(array.shape)}
            for name, array in ordered.items()
        ],
        "format": _FORMAT,
    }
    line = json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    parts: list[bytes | memoryview] = [line]
    end = len(line)
    for array in ordered.values():
        parts.append(b"\0" * (-end % _ALIGNMENT))
        end += -end % _ALIGNMENT + array.nbytes
        if array.nbytes:
            parts.append(array.data.cast("B"))
    return write_file(folder, parts, SUFFIX)


def read_segment(path: Path, *, scattered: bool = False) -> Segment:
    """Open a segment, its digest checked against its name.

    ``scattered`` says that its arrays are read here and there: then the kernel reads what is asked for and
    nothing around it, which would fill memory with what nobody wants.
    Raises ``CorruptionError`` when the file is torn, altered, or of another format.
    """
    check_file(path)
    with path.open("rb") as file:
        line = file.readline(_LONGEST_HEADER)
    try:
        header = json.loads(line)
        about = dict(header["about"])
        wanted = [(str(a["name"]), np.dtype(a["type"]), tuple(a["shape"])) for a in header["arrays"]]
        known = header["format"] == _FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptionError(f"{path.name}: the header cannot be read") from error
    if not known:
        raise CorruptionError(f"{path.name}: unknown format {header['format']!r}")
    # Mapped once: each map of its own would keep a file descriptor.
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if scattered and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    whole: npt.NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
    end = len(line)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, dtype, shape in wanted:
        start = end + -end % _ALIGNMENT
        end = start + prod(shape) * dtype.itemsize
        if end > len(whole):
            raise CorruptionError(f"{path.name}: the header does not fit the file")
        empty = prod(shape) == 0
        arrays[name] = np.empty(shape, dtype) if empty else whole[start:end].view(dtype).reshape(shape)
    if end != len(whole):
        raise CorruptionError(f"{path.name}: the header does not fit the file")
    return Segment(path.name, about, arrays)


def write_file(folder: Path, parts: Sequence[bytes | memoryview], suffix: str) -> str:
    """Make a durable file of these parts: written beside, synced, renamed, the folder synced.

    What is there already and whole is left as it is.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = folder / (digest.hexdigest() + suffix)
    if _is_whole(path):
        return path.name
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=suffix + ".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            point("segment.write")
            for part in parts:
                file.write(part)
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
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
    return path.name


def _is_whole(path: Path) -> bool:
    try:
        check_file(path)
    except (FileNotFoundError, DigestMismatchError):
        return False
    return True


def check_file(path: Path) -> None:
    """Raise ``DigestMismatchError`` when a file is not what its name says."""
    expected = path.name.partition(".")[0]
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        raise DigestMismatchError(path.name, expected, got)


def _little(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
