"""A plain scanner for what was forgotten: simple, and none of the product's own code.

It reads every file under a folder whole and looks at every byte of it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

TOKENS = 8
STEP = 3


def list_needles(texts: Iterable[str], vectors: Iterable[npt.NDArray[np.float32]]) -> dict[bytes, str]:
    """Return every byte string to look for, with what it is."""
    needles: dict[bytes, str] = {}
    for text in texts:
        for shingle in iter_shingles(text):
            for data, kind in iter_encodings(shingle):
                needles[data] = f"{kind} of {shingle!r}"
    for row in (row for rows in vectors for row in rows):
        for kind in (np.float16, np.float32):
            data = row.astype(kind).tobytes()
            for at in range(0, len(data) - 15, 16):
                needles[data[at : at + 16]] = f"{np.dtype(kind).name} vector"
    return needles


def iter_shingles(text: str) -> Iterator[str]:
    """Yield runs of eight tokens, and the whole of a shorter text."""
    tokens = text.split()
    for at in range(0, max(1, len(tokens) - TOKENS + 1), STEP):
        if len(shingle := " ".join(tokens[at : at + TOKENS])) >= 16:
            yield shingle


def iter_encodings(text: str) -> Iterator[tuple[bytes, str]]:
    """Yield the forms in which a text commonly lies in files."""
    plain = text.encode()
    yield plain, "utf-8"
    yield text.encode("utf-16-le"), "utf-16-le"
    yield text.encode("utf-16-be"), "utf-16-be"
    yield json.dumps(text)[1:-1].encode(), "json"
    for before in range(3):
        padded = base64.b64encode(bytes(before) + plain)
        yield padded[4 : len(padded) - len(padded) % 4 - 4], "base64"


def scan(folder: Path, needles: dict[bytes, str]) -> list[str]:
    """Return where residue lies: ``path: what``."""
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            what = {needles[needle] for needle in find_in(path.read_bytes(), needles)}
            found += [f"{path.relative_to(folder)}: {one}" for one in sorted(what)]
    return found


def find_in(data: bytes, needles: Iterable[bytes]) -> set[bytes]:
    """Return the needles, of eight bytes or more, that lie in the data: looked up by their first eight."""
    if len(data) < 8:
        return set()
    by_start: dict[bytes, list[bytes]] = {}
    for needle in needles:
        by_start.setdefault(needle[:8], []).append(needle)
    everywhere = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    starts = np.frombuffer(b"".join(by_start), "<u8")
    places = np.flatnonzero(np.isin(everywhere, starts)).tolist()
    return {needle for at in places for needle in by_start[data[at : at + 8]] if data.startswith(needle, at)}


def find_words(folder: Path, words: Iterable[str]) -> list[str]:
    """Return which files hold a word in any letter case, in UTF-8 or UTF-16."""
    wanted = [form for word in words for form in (word.lower().encode(), word.lower().encode("utf-16-le"))]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [
        f"{path.relative_to(folder)}: {form!r}"
        for path in files
        for data in [path.read_bytes().lower()]
        for form in wanted
        if form in data
    ]
