"""Archives that unpack to far more than they weigh: refused by their table of contents, unopened.

Office files and e-books are ZIP archives. What is read of a member ends at the size the table states,
so the stated sizes are what reading could cost. Archives inside archives are never opened.
"""

from __future__ import annotations

import io
import zipfile

from memory.errors import InvalidInputError

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
MAX_MEMBERS = 20_000

_STARTS = (b"PK\x03\x04", b"PK\x05\x06")


def check_archive(body: bytes) -> None:
    """Raise ``InvalidInputError`` when the body is a ZIP archive that is damaged or unpacks to too much."""
    if not body.startswith(_STARTS):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise InvalidInputError("the file is damaged: it begins like a ZIP archive and is none") from error
    if len(members) > MAX_MEMBERS:
        raise InvalidInputError(f"there are {len(members)} files inside it, more than {MAX_MEMBERS}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES:
        mebibytes = 1024 * 1024
        raise InvalidInputError(
            f"it would unpack to {unpacked // mebibytes} MiB, more than {MAX_UNPACKED_BYTES // mebibytes}"
        )
