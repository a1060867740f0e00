"""The parser: choose the format by media type, then split what it extracts into passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath

from memory.errors import InvalidInputError, NothingToReadError, UnsupportedMediaError
from memory.telling import Told, unheard
from memory.values import CUES_MEDIA_TYPE, MESSAGES_MEDIA_TYPE, Content, Parsed, Place, TextLine, Utterance
from sources import media_types
from sources.captions import (
    Cue,
    cut_captions,
    dump_json_cues,
    extract_captions,
    extract_cues,
    extract_json_cues,
)
from sources.chat import extract_json, extract_json_lines, extract_messages
from sources.code import extract_code
from sources.decoding import valid_text
from sources.delimited import extract_csv, extract_tsv
from sources.docx import extract_docx
from sources.epub import extract_epub
from sources.html import extract_html
from sources.layout import order_lines, paragraph_text
from sources.mail import extract_mail
from sources.markdown import extract_markdown
from sources.media import MAX_SIDE, Audio, Clip, Cut, Picture, Span
from sources.media_types import guess_media_type
from sources.odf import extract_odp, extract_ods, extract_odt
from sources.outline import Block, Extracted
from sources.passages import split
from sources.pdf import extract_pdf
from sources.pptx import extract_pptx
from sources.rtf import extract_rtf
from sources.spreadsheet import extract_xls, extract_xlsx
from sources.stills import Looked
from sources.svg import extract_svg
from sources.text import extract_text
from sources.writer import Writer

__all__ = [
    "SUPPORTED_MEDIA_TYPES",
    "SourceParser",
    "guess_media_type",
    "is_image",
    "is_media",
    "is_timed",
    "needs_models",
    "parse_cues",
    "parse_lines",
    "parse_shown",
]

_FORMATS: dict[str, Callable[[bytes, str | None], Extracted]] = {
    "text/plain": extract_text,
    "text/markdown": extract_markdown,
    "text/x-markdown": extract_markdown,
    "text/html": extract_html,
    "application/xhtml+xml": extract_html,
    "application/pdf": extract_pdf,
    "application/json": extract_json,
    "application/jsonl": extract_json_lines,
    "application/x-ndjson": extract_json_lines,
    MESSAGES_MEDIA_TYPE: extract_messages,
    CUES_MEDIA_TYPE: extract_json_cues,
    media_types.DOCX: extract_docx,
    media_types.PPTX: extract_pptx,
    media_types.XLSX: extract_xlsx,
    media_types.XLS: extract_xls,
    media_types.ODT: extract_odt,
    media_types.ODP: extract_odp,
    media_types.ODS: extract_ods,
    media_types.EPUB: extract_epub,
    media_types.RTF: extract_rtf,
    "text/rtf": extract_rtf,
    "text/csv": extract_csv,
    "text/tab-separated-values": extract_tsv,
    media_types.EML: extract_mail,
    media_types.SVG: extract_svg,
    "text/vtt": extract_captions,
    "application/x-subrip": extract_captions,
    **dict.fromkeys(media_types.CODE_MEDIA_TYPES, extract_code),
}

SUPPORTED_MEDIA_TYPES = (*_FORMATS, *media_types.IMAGES, *media_types.MEDIA)

NO_SPEECH_MODEL = (
    "there are no captions in it, and no speech model is loaded: set LETHE_SPEECH to whisper-base, add a "
    "subtitle track, or send its captions as WebVTT or SRT"
)
NO_SCREEN_TEXT = (
    "it is an image, and nothing reads text in pictures here: set LETHE_SCREEN_TEXT to rapidocr, or send its "
    "text"
)

_MEDIA = frozenset((*media_types.MEDIA, *media_types.MEDIA_ALIASES))
_IMAGES = frozenset((*media_types.IMAGES, *media_types.IMAGE_ALIASES))
_CAPTIONS = frozenset(("text/vtt", "application/x-subrip", CUES_MEDIA_TYPE))


class SourceParser:
    """Turns documents, chats and media into text, sections and passages. Deterministic and stateless."""

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        """Return the parsed content.

        Raises ``UnsupportedMediaError`` for a media type no format takes, and ``InvalidInputError`` when
        the body cannot be read or holds no text.
        """
        if is_media(content.media_type):
            # Half a second and 26 MiB to load, which a process that meets no media saves.
            from sources import tracks

            captions = tracks.find_captions(content.body)
            if captions is None:
                raise NothingToReadError(NO_SPEECH_MODEL)
            return _split(content, captions)
        if is_image(content.media_type):
            raise InvalidInputError(NO_SCREEN_TEXT)
        media_type, charset = _media_type(content.media_type)
        extract = _FORMATS.get(media_type)
        if extract is None:
            raise UnsupportedMediaError(content.media_type, SUPPORTED_MEDIA_TYPES)
        return _split(content, extract(content.body, charset))

    def parse_media(self, content: Content) -> Parsed | Audio:
        """Return what the captions of a video or audio file say, or its sound where there are none.

        Raises ``UnsupportedMediaError`` for what is no such file by its media type, and
        ``InvalidInputError`` when it cannot be read, or holds neither.
        """
        _expect_media(content)
        from sources import tracks

        captions = tracks.find_captions(content.body)
        return tracks.read_sound(content.body) if captions is None else _split(content, captions)

    def cut(self, content: Content, spans: Sequence[Span]) -> Cut | None:
        """Return a recording, or captions, without what is seen, heard or read in ``spans`` of milliseconds.

        ``None`` when nothing is left of it. Raises what ``parse_media`` does.
        """
        media_type, charset = _media_type(content.media_type)
        if media_type in _CAPTIONS:
            cues = cut_captions(content.body, charset, spans)
            return Cut(dump_json_cues(cues), CUES_MEDIA_TYPE, tuple(spans)) if cues else None
        _expect_media(content)
        from sources.cutting import cut

        return cut(content.body, spans)

    def clip(self, content: Content, start_ms: int, end_ms: int) -> Clip:
        """Return an excerpt of a video or audio file. Raises what ``parse_media`` does."""
        _expect_media(content)
        from sources.cutting import clip

        return clip(content.body, start_ms, end_ms)

    def picture(self, content: Content, at_ms: int, *, max_side: int = MAX_SIDE) -> Picture:
        """Return what a video shows at a time. Raises what ``parse_media`` does."""
        _expect_media(content)
        from sources.picture import picture

        return picture(content.body, at_ms, max_side=max_side)

    def look(self, content: Content, start: int = 0) -> Looked:
        """Return an image, or what a video shows from a time on. Raises what ``parse_media`` does."""
        if is_image(content.media_type):
            from sources.images import look_at_image

            return look_at_image(content.body)
        _expect_media(content)
        from sources.key_frames import look

        return look(content.body, start)

    def close(self) -> None:
        """Do nothing: nothing is held."""


def is_media(media_type: str) -> bool:
    """Say whether it names a container of moving pictures or sound."""
    return _media_type(media_type)[0] in _MEDIA


def is_image(media_type: str) -> bool:
    """Say whether it names a picture in which text may be read."""
    return _media_type(media_type)[0] in _IMAGES


def needs_models(media_type: str) -> bool:
    """Say whether a model may have a part in what is read in it: recordings, captions, images."""
    return is_timed(media_type) or is_image(media_type)


def _expect_media(content: Content) -> None:
    if not is_media(content.media_type):
        raise UnsupportedMediaError(content.media_type, media_types.MEDIA)


def is_timed(media_type: str) -> bool:
    """Say whether it names what is said at known times: media and captions."""
    return _media_type(media_type)[0] in _MEDIA | _CAPTIONS


def parse_cues(
    content: Content, cues: Sequence[Cue], warnings: Sequence[str] = (), *, title: str | None = None
) -> Parsed:
    """Return the parsed content whose words are ``cues``, as those of a speech model: as captions are.

    ``title`` is the container's. Raises ``InvalidInputError`` when the cues hold no text.
    """
    return _split(content, extract_cues(cues, warnings, title))


def parse_lines(content: Content, lines: Sequence[TextLine], warnings: Sequence[str] = ()) -> Parsed:
    """Return the parsed content of an image with these lines. Raises ``NothingToReadError`` without any."""
    writer = Writer(warnings)
    for paragraph in order_lines(lines):
        writer.add(paragraph_text(paragraph))
    return _split(content, writer.finish(None))


def parse_shown(
    content: Content, shown: Sequence[Utterance], warnings: Sequence[str] = (), *, title: str | None = None
) -> Parsed:
    """Return the parsed content whose words are seen on a screen; each text is a passage of its own.

    ``title`` is the container's. Raises ``NothingToReadError`` when there is no text.
    """
    writer = Writer(warnings)
    for each in shown:
        writer.add(each.text, place=Place("time", each.start_ms, each.end_ms), apart=True)
    return _split(content, writer.finish(title))


def _split(content: Content, extracted: Extracted) -> Parsed:
    extracted = _valid(extracted)
    attributes = content.attributes
    title = attributes.title or extracted.title or _stem(content.filename)
    title = None if title is None else valid_text(title)
    parsed = split(extracted, title=title, occurred_at=attributes.occurred_at)
    if not parsed.passages:
        raise NothingToReadError("there is no text in it")
    return parsed


def _valid(extracted: Extracted) -> Extracted:
    """Return the same with valid Unicode in every string, whatever the format let through."""
    return replace(
        extracted,
        text=valid_text(extracted.text),
        blocks=tuple(map(_valid_block, extracted.blocks)),
        headings=tuple(replace(each, label=valid_text(each.label)) for each in extracted.headings),
        title=None if extracted.title is None else valid_text(extracted.title),
        warnings=tuple(map(valid_text, extracted.warnings)),
    )


def _valid_block(block: Block) -> Block:
    if block.turn is None:
        return block
    turn = replace(block.turn, id=valid_text(block.turn.id), speaker=valid_text(block.turn.speaker))
    return replace(block, turn=turn)


def _media_type(told: str) -> tuple[str, str | None]:
    """Return the bare media type and the charset told with it."""
    bare, *parameters = told.split(";")
    charset = None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"') or None
    return bare.strip().lower(), charset


def _stem(filename: str | None) -> str | None:
    return PurePath(filename).stem or None if filename else None
