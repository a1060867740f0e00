"""Which format a file is: by its first bytes where these are telling, else by its name.

Nothing here reads a document, or imports anything that does.
"""

from __future__ import annotations

import re
from pathlib import PurePath

UNKNOWN_MEDIA_TYPE = "application/octet-stream"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLS = "application/vnd.ms-excel"
ODT = "application/vnd.oasis.opendocument.text"
ODP = "application/vnd.oasis.opendocument.presentation"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
EPUB = "application/epub+zip"
RTF = "application/rtf"
EML = "message/rfc822"
MP4 = "video/mp4"
M4A = "audio/mp4"
MKV = "video/x-matroska"
MKA = "audio/x-matroska"
WEBM = "video/webm"
MOV = "video/quicktime"
MPEG_TS = "video/mp2t"
MP3 = "audio/mpeg"
WAV = "audio/wav"
FLAC = "audio/flac"
OGG = "audio/ogg"
OGV = "video/ogg"

PNG = "image/png"
JPEG = "image/jpeg"
WEBP = "image/webp"
GIF = "image/gif"
BMP = "image/bmp"
TIFF = "image/tiff"
SVG = "image/svg+xml"

IMAGES = (PNG, JPEG, WEBP, GIF, BMP, TIFF)
"""Pictures in which text may be read."""
IMAGE_ALIASES = ("image/jpg", "image/x-ms-bmp", "image/x-png")

MEDIA = (MP4, M4A, MKV, MKA, WEBM, MOV, MPEG_TS, MP3, WAV, FLAC, OGG, OGV)
"""Containers of moving pictures and sound."""
MEDIA_ALIASES = (
    *("video/matroska", "video/m4v", "video/x-m4v", "audio/matroska", "audio/webm", "audio/m4a"),
    *("audio/x-m4a", "audio/mp3", "audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/x-flac"),
    *("audio/opus", "application/ogg"),
)
"""Other names of theirs; the bytes tell which it is."""

EXTENSIONS = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".pdf": "application/pdf",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/x-ndjson",
    ".docx": DOCX,
    ".docm": DOCX,
    ".dotx": DOCX,
    ".pptx": PPTX,
    ".pptm": PPTX,
    ".ppsx": PPTX,
    ".xlsx": XLSX,
    ".xlsm": XLSX,
    ".xls": XLS,
    ".odt": ODT,
    ".ott": ODT,
    ".odp": ODP,
    ".ods": ODS,
    ".epub": EPUB,
    ".rtf": RTF,
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".tab": "text/tab-separated-values",
    ".eml": EML,
    ".vtt": "text/vtt",
    ".srt": "application/x-subrip",
    ".mp4": MP4,
    ".m4v": MP4,
    ".m4a": M4A,
    ".m4b": M4A,
    ".mkv": MKV,
    ".mka": MKA,
    ".webm": WEBM,
    ".mov": MOV,
    ".m2ts": MPEG_TS,
    ".mp3": MP3,
    ".wav": WAV,
    ".flac": FLAC,
    ".ogg": OGG,
    ".oga": OGG,
    ".opus": OGG,
    ".ogv": OGV,
    ".png": PNG,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": WEBP,
    ".gif": GIF,
    ".bmp": BMP,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".svg": SVG,
    ".doc": "application/msword",
    ".ppt": "application/vnd.ms-powerpoint",
}
"""Extensions of what is read, and of common files that are not, so that the refusal names them."""

CODE_EXTENSIONS = {
    "c": ".c .h",
    "c++": ".cc .cpp .cxx .hpp .hh .hxx",
    "csharp": ".cs",
    "css": ".css .scss .less",
    "dart": ".dart",
    "go": ".go",
    "java": ".java",
    "javascript": ".js .mjs .cjs .jsx",
    "kotlin": ".kt .kts",
    "lua": ".lua",
    "perl": ".pl .pm",
    "php": ".php",
    "python": ".py .pyi",
    "r": ".r",
    "ruby": ".rb",
    "rust": ".rs",
    "scala": ".scala",
    "shellscript": ".sh .bash .zsh",
    "sql": ".sql",
    "swift": ".swift",
    "toml": ".toml .ini .cfg",
    "typescript": ".ts .tsx",
    "yaml": ".yaml .yml",
}
"""Languages of source code, each with its extensions; the media type is ``text/x-`` and the language."""

CODE_MEDIA_TYPES = tuple(f"text/x-{language}" for language in CODE_EXTENSIONS)

EXTENSIONS |= {
    extension: f"text/x-{language}"
    for language, extensions in CODE_EXTENSIONS.items()
    for extension in extensions.split()
}

_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
_ZIP_START = b"PK\x03\x04"
_OLE_START = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_BINARY_STARTS = (_ZIP_START, _OLE_START, b"\x7fELF", b"\x1f\x8b")
_IMAGE_STARTS = {
    b"\x89PNG": PNG,
    b"\xff\xd8\xff": JPEG,
    b"GIF8": GIF,
    b"II*\x00": TIFF,
    b"MM\x00*": TIFF,
}
_WIDE_TEXT_STARTS = (b"\xff\xfe", b"\xfe\xff")
_ZIP_MIMETYPES = {kind.encode(): kind for kind in (EPUB, ODT, ODP, ODS)}
_ZIP_MEMBERS = {b"word/": DOCX, b"ppt/": PPTX, b"xl/": XLSX, b"META-INF/container.xml": EPUB}
_ZIP_MEMBER = re.compile(
    rb"PK(?:\x03\x04.{26}|\x01\x02.{42})(" + b"|".join(map(re.escape, _ZIP_MEMBERS)) + rb")", re.DOTALL
)
_MP4_BRANDS = {b"qt  ": MOV, b"M4A ": M4A, b"M4B ": M4A}
_OLE_STREAMS = {"Workbook": XLS, "WordDocument": "application/msword"}
_OLE_STREAMS["PowerPoint Document"] = "application/vnd.ms-powerpoint"
_MAIL_FIELDS = (b"return-path:", b"received:", b"delivered-to:", b"from:", b"to:", b"date:", b"subject:")


def guess_media_type(filename: str | None, head: bytes) -> str:
    """Return the media type of a file by its first bytes (a kilobyte or more; all, for a zip file) and name.

    Bytes that no other format begins with overrule the name: a PDF named ``.txt`` is a PDF. Text of an
    unknown extension is plain text; bytes that are not text are ``application/octet-stream``.
    """
    by_name = EXTENSIONS.get(PurePath(filename).suffix.lower()) if filename else None
    by_content = _sniff_binary(head)
    if by_content is None:
        return by_name or _sniff_text(head)
    if by_content == UNKNOWN_MEDIA_TYPE:
        return by_name or UNKNOWN_MEDIA_TYPE
    return by_content


def _sniff_binary(head: bytes) -> str | None:
    """Return the type that the first bytes prove; unknown for other binary files, ``None`` for text."""
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    if head.startswith(b"{\\rtf"):
        return RTF
    if head.startswith(_ZIP_START):
        return _sniff_zip(head)
    if head.startswith(_OLE_START):
        names = (kind for name, kind in _OLE_STREAMS.items() if name.encode("utf-16-le") in head)
        return next(names, UNKNOWN_MEDIA_TYPE)
    media = _sniff_image(head) or _sniff_media(head)
    if media is not None:
        return media
    if head.startswith(_BINARY_STARTS) or (b"\x00" in head and not head.startswith(_WIDE_TEXT_STARTS)):
        return UNKNOWN_MEDIA_TYPE
    return None


def _sniff_image(head: bytes) -> str | None:
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return BMP
    return next((kind for start, kind in _IMAGE_STARTS.items() if head.startswith(start)), None)


def _sniff_media(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return _MP4_BRANDS.get(head[8:12], MP4)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return WEBM if b"webm" in head[:64] else MKV
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return WAV
    if head.startswith(b"OggS"):
        return OGV if b"theora" in head[:512] else OGG
    if head.startswith(b"fLaC"):
        return FLAC
    # Text that begins so has no NUL in it.
    if head.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")) and b"\x00" in head:
        return MP3
    # Every packet of 188 bytes, or of 192 with a time before it, begins with the same byte.
    for start, step in ((0, 188), (4, 192)):
        signs = head[start : start + 4 * step : step]
        if len(signs) == 4 and set(signs) == {0x47} and b"\x00" in head:
            return MPEG_TS
    return None


def _sniff_zip(head: bytes) -> str:
    """Tell zip files apart by the names of their members, which are not packed."""
    for kind, media_type in _ZIP_MIMETYPES.items():
        if b"mimetype" + kind in head[:200]:
            return media_type
    found = _ZIP_MEMBER.search(head)
    return _ZIP_MEMBERS[found[1]] if found is not None else UNKNOWN_MEDIA_TYPE


def _sniff_text(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:16].lower().startswith(_HTML_STARTS):
        return "text/html"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return SVG
    if start.startswith(b"WEBVTT"):
        return "text/vtt"
    if start.startswith(b"{"):
        lines = start.splitlines()
        closed = lines[0].rstrip().endswith(b"}")
        json_lines = closed and len(lines) > 1 and lines[1].startswith(b"{")
        return "application/jsonl" if json_lines else "application/json"
    if start.startswith(b"[") and start[1:].lstrip()[:1] in (b"{", b"]"):
        return "application/json"
    fields = {line.split(b":")[0].lower() + b":" for line in start[:4096].splitlines() if b":" in line}
    if start.lower().startswith(_MAIL_FIELDS) and {b"from:", b"subject:", b"mime-version:"} <= fields:
        return EML
    return "text/plain"
