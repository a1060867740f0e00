"""Pictures and clips of remembered videos and recordings: found, taken out by the guarded parser, checked.

What is taken out leaves only after ``recheck`` while the fence is held, as everything does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from memory.errors import ForgottenError, InvalidInputError
from memory.journal import EntryRow, get_content, iter_headers
from memory.kernel import Kernel, find_denied
from memory.values import Content, EntryId, SourceId, TenantId
from service.listing import find_version
from service.streams import list_segments
from sources.media import Clip, Picture
from sources.parse import is_media

MAX_CLIP_MS = 600_000
JPEG = "image/jpeg"


class MediaCutter(Protocol):
    """What takes pictures and clips out of files, as ``GuardedParser`` does."""

    def clip(self, content: Content, start_ms: int, end_ms: int) -> Clip: ...

    def picture(self, content: Content, at_ms: int) -> Picture: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A file taken out of an entry: what that shows or sounds from ``start_ms`` to ``end_ms``.

    A picture is of one time, both ends being the same.
    """

    source_id: SourceId
    entry_id: EntryId
    body: bytes
    media_type: str
    start_ms: int
    end_ms: int


class Excerpts:
    """Takes excerpts of a source's newest version, as long as that is not forgotten.

    Of a stream it is the segment at the time that is asked for; times are the stream's, as hits have them.
    """

    def __init__(self, kernel: Kernel, cutter: MediaCutter) -> None:
        self.kernel = kernel
        self.cutter = cutter

    def get_frame(self, tenant_id: TenantId, source_id: SourceId, at_ms: int) -> Excerpt:
        """Return what a video shows at a time as a JPEG.

        Raises ``NotFoundError`` and ``ForgottenError`` as reading the source does, and
        ``InvalidInputError`` for what is no video, or shows nothing then.
        """
        row, content, begins = self._get_media(tenant_id, source_id, at_ms)
        picture = self.cutter.picture(content, max(0, at_ms - begins))
        at_ms = begins + picture.at_ms
        return Excerpt(row.source_id, row.id, picture.body, JPEG, at_ms, at_ms)

    def get_clip(self, tenant_id: TenantId, source_id: SourceId, start_ms: int, end_ms: int) -> Excerpt:
        """Return an excerpt with pictures and sound that plays from 0. Raises what ``get_frame`` does."""
        check_clip(start_ms, end_ms)
        row, content, begins = self._get_media(tenant_id, source_id, start_ms)
        clip = self.cutter.clip(content, max(0, start_ms - begins), end_ms - begins)
        since, until = begins + clip.start_ms, begins + clip.end_ms
        return Excerpt(row.source_id, row.id, clip.body, clip.media_type, since, until)

    def recheck(self, tenant_id: TenantId, excerpt: Excerpt) -> None:
        """Raise ``ForgottenError`` when what it was taken from has been denied; called while reading."""
        with self.kernel.database.read() as connection:
            if find_denied(connection, tenant_id, [excerpt.entry_id]):
                raise ForgottenError(f"document {excerpt.source_id}")

    def close(self) -> None:
        """End what is under way."""
        self.cutter.close()

    def _get_media(
        self, tenant_id: TenantId, source_id: SourceId, at_ms: int
    ) -> tuple[EntryRow, Content, int]:
        """Return the entry to look into, and when its own clock begins in the time that is asked for."""
        row, _ = find_version(self.kernel, tenant_id, source_id)
        if row.kind == "stream":
            row = self._find_segment(tenant_id, source_id, at_ms)
        with self.kernel.database.read() as connection:
            headers = dict(iter_headers(connection, self.kernel.vault, tenant_id, [row.id]))
            for header in headers.values():
                # Before its body is opened: what else is remembered may be large as well.
                if not is_media(header.media_type):
                    raise InvalidInputError(
                        f"it has no pictures or sound to take anything out of: it is {header.media_type}"
                    )
            content = get_content(connection, self.kernel.vault.opener(tenant_id, [row.id]), row.id)
        if content is None:
            raise ForgottenError(f"document {source_id}")
        part = content.attributes.part
        return row, content, 0 if part is None else part.start_ms

    def _find_segment(self, tenant_id: TenantId, stream_id: SourceId, at_ms: int) -> EntryRow:
        """Return the segment of a stream that is seen or heard at a time."""
        with self.kernel.database.read() as connection:
            held = list_segments(connection, tenant_id, stream_id)
            for row, header in iter_headers(connection, self.kernel.vault, tenant_id, held):
                part = header.attributes.part
                if part is not None and part.start_ms <= at_ms < part.end_ms:
                    return row
        raise InvalidInputError(f"nothing is kept of the stream at {at_ms} ms")


def check_clip(start_ms: int, end_ms: int) -> None:
    """Raise ``InvalidInputError`` for a span that is empty or too long."""
    if end_ms <= start_ms:
        raise InvalidInputError(f"it must be after start_ms, {start_ms}", where="end_ms")
    if end_ms - start_ms > MAX_CLIP_MS:
        raise InvalidInputError(
            f"a clip lasts {MAX_CLIP_MS // 60_000} minutes at most; ask for several", where="end_ms"
        )
