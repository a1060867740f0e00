"""Zip files that hold a document: opened once, with limits on what they may unpack to.

Sizes are checked before anything is unpacked, and again while it is, since a header may lie. Nothing here
knows what the members mean.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator

from memory.errors import InvalidInputError

MAX_MEMBERS = 20_000
MAX_TOTAL_BYTES = 512 * 1024 * 1024
"""All members of a file together, unpacked."""
MAX_RATIO = 250
"""Unpacked to packed bytes, for a file that unpacks to more than ``FREE_BYTES``."""
FREE_BYTES = 8 * 1024 * 1024

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_OLE_START = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Container:
    """The members of an opened zip file by name; names are compared without regard to case."""

    def __init__(self, archive: zipfile.ZipFile, what: str) -> None:
        self._archive = archive
        self._what = what
        self._members = {_plain(info.filename): info for info in reversed(archive.infolist())}
        self._unpacked = 0

    def __contains__(self, name: str) -> bool:
        return _plain(name) in self._members

    def names(self) -> Iterator[str]:
        """Yield the names as they are compared: lower case, with single slashes."""
        return iter(self._members)

    def find(self, name: str) -> bytes | None:
        """Return a member's bytes, or ``None`` when there is none of that name."""
        info = self._members.get(_plain(name))
        return None if info is None else self._unpack(info)

    def get(self, name: str) -> bytes:
        """Return a member's bytes; raises ``InvalidInputError`` when it is missing or damaged."""
        data = self.find(name)
        if data is None:
            raise InvalidInputError(f"this is no complete {self._what}: {name!r} is missing in it")
        return data

    def _unpack(self, info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & 0x1:
            raise InvalidInputError(f"the {self._what} is encrypted; send it again without its password")
        if info.compress_type not in _METHODS:
            raise InvalidInputError(
                f"{info.filename!r} is packed in a way that is not read; save the {self._what} anew"
            )
        self._unpacked += info.file_size
        if self._unpacked > MAX_TOTAL_BYTES:
            raise InvalidInputError(_too_large(self._what))
        try:
            with self._archive.open(info) as member:
                return member.read(info.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise InvalidInputError(
                f"the {self._what} is damaged: {info.filename!r} in it cannot be unpacked"
            ) from error


def open_container(body: bytes, what: str) -> Container:
    """Return the members of ``body``, a zip file; ``what`` names the format in errors.

    Raises ``InvalidInputError`` for what is no zip file, is damaged, or would unpack to more than the limits.
    """
    if body.startswith(_OLE_START):
        raise InvalidInputError(
            f"this is an older or password-protected Office file; save it as {what}, without a password"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(body))
        members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        cut = body.startswith(b"PK")
        raise InvalidInputError(
            f"the {what} is damaged or cut off: its list of members cannot be read"
            if cut
            else f"this is no {what}: a {what} is a zip file, and this is not"
        ) from error
    if len(members) > MAX_MEMBERS:
        raise InvalidInputError(f"the {what} holds {len(members)} members, more than {MAX_MEMBERS}")
    total = sum(info.file_size for info in members)
    if total > MAX_TOTAL_BYTES or (total > FREE_BYTES and total > MAX_RATIO * len(body)):
        raise InvalidInputError(_too_large(what))
    return Container(archive, what)


def _too_large(what: str) -> str:
    return f"the {what} would unpack to far more than a document needs; send it in smaller parts"


def _plain(name: str) -> str:
    return name.replace("\\", "/").lstrip("/").lower()
