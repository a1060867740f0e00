"""Look for what was forgotten in the bytes of files.

From the forgotten texts and vectors come *needles*: 8-token shingles in every encoding in which
text commonly lies in files, and the first bytes of each vector. A scan finds every needle in
every plain file under a folder. A shingle that surviving content holds too is no residue:
``Needles.exclude`` takes it out and counts it.

The search: a needle of 23 bytes or more contains, at one of eight neighbouring offsets, a
16-byte window that lies at a multiple of eight in the file. So only every eighth place of a file
is looked at, in a bitmap of hashes, and the few that pass are compared with the whole needle.
(Shorter needles: 8-byte windows at multiples of four.)

What this cannot see: content inside compressed or encrypted blocks, base64 broken by line ends,
texts too short to tell from chance (counted in ``Needles.too_short``). Findings say where, never what.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memory.errors import NotFoundError
from memory.values import JsonValue

SHINGLE_TOKENS = 8
TEXT_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "json", "base64")
VECTOR_ENCODINGS = ("float32", "float16")
VECTOR_BYTES = 32
CHUNK_BYTES = 1 << 20
ATTEMPTS = 3
"""How often a file that changes while it is read is read again before it counts as uncovered."""

_WORD = 8
_SHORTEST = 11
_LONG = 23
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_LONGEST = 4_096
_BATCH = 1 << 20
_SHORT_TEXT = 12
_NO_SHINGLE = -1
_BETWEEN = b"\xff" * 8
_DISTINCT_BYTES = 8

# Scripts written without spaces give a token for every two characters; a longer run of
# non-space (a URL, a hash) one for every 32, so that a part of it is found as well.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"[{_UNSPACED}]{{1,2}}|[^\s{_UNSPACED}]{{1,32}}")
_SPACES = re.compile(r"\s+")

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read in all."""


@dataclass(frozen=True, slots=True)
class Needle:
    """Bytes to look for. ``shingle`` numbers the text they encode; all encodings of it share it."""

    data: bytes = field(repr=False)
    encoding: str
    shingle: int


@dataclass(frozen=True, slots=True)
class Needles:
    """What to look for, ready to search with.

    ``too_short`` counts texts and vectors that cannot be told from chance; ``excluded`` the
    needles dropped because surviving content holds them.
    """

    items: tuple[Needle, ...] = field(repr=False)
    too_short: int
    excluded: int = 0

    def exclude(self, texts: Iterable[str], vectors: Iterable[npt.NDArray[np.float32]] = ()) -> Needles:
        """Return the needles that surviving texts and vectors, (rows, dimension), do not hold.

        UTF-8 stands for the encodings that map letter by letter: where it is held, all encodings
        of the shingle go. Base64 needles lack some bits at either end, so that other texts may hold them:
        each is looked for in the base64 of the surviving texts.
        """
        plain = [needle for needle in self.items if needle.encoding == "utf-8"]
        coded = [needle for needle in self.items if needle.encoding == "base64"]
        find_plain, find_coded = Searcher(plain), Searcher(coded)
        shingles: set[int] = set()
        held: set[bytes] = set()
        for block in _blocks(texts):
            shingles.update(plain[index].shingle for index in find_plain.found_in(block))
            for before in range(3):
                shifted = base64.b64encode(bytes(before) + block)
                held.update(coded[index].data for index in find_coded.found_in(shifted))
        for rows in vectors:
            held.update(data for data, _ in _vector_needles(rows))
        kept = tuple(
            needle for needle in self.items if needle.shingle not in shingles and needle.data not in held
        )
        return Needles(kept, self.too_short, self.excluded + len(self.items) - len(kept))


@dataclass(frozen=True, slots=True)
class Finding:
    """Residue in one file in one encoding: the first offset in bytes, and how many needles lay there."""

    path: str
    encoding: str
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What was read, what was found, and what could not be read (path and reason)."""

    files: int
    bytes: int
    needles: int
    excluded: int
    too_short: int
    found: tuple[Finding, ...]
    uncovered: tuple[tuple[str, str], ...]
    ms: int

    @property
    def clean(self) -> bool:
        """True when no needle was found."""
        return not self.found

    def to_json(self) -> dict[str, JsonValue]:
        """Return the ``scan`` part of a certificate. It holds no content."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            "needles": self.needles,
            "excluded": self.excluded,
            "too_short": self.too_short,
            "found": sum(finding.count for finding in self.found),
            "encodings": [*TEXT_ENCODINGS, *VECTOR_ENCODINGS],
            "ms": self.ms,
            "uncovered": [{"path": path, "reason": reason} for path, reason in self.uncovered],
        }


def build_needles(texts: Iterable[str], vectors: Iterable[npt.NDArray[np.float32]] = ()) -> Needles:
    """Return what to look for after texts and vectors, (rows, dimension), were forgotten.

    Of a text, every run of eight tokens is looked for; of a shorter one the whole, when it is
    distinctive (at least 12 bytes, and two tokens or something else than letters).
    """
    unique: dict[bytes, Needle] = {}
    too_short = 0
    shingles: dict[str, int] = {}
    for text in texts:
        raw_shingles = list(_shingles(text))
        too_short += not raw_shingles and bool(text.strip())
        for raw in raw_shingles:
            plain = _SPACES.sub(" ", raw)
            shingle = shingles.setdefault(plain, len(shingles))
            for form in {raw, plain}:
                for data, encoding in _text_needles(form):
                    unique.setdefault(data, Needle(data, encoding, shingle))
    for block in vectors:
        found = list(_vector_needles(block))
        too_short += len(VECTOR_ENCODINGS) * len(block) - len(found)
        for data, encoding in found:
            unique.setdefault(data, Needle(data, encoding, _NO_SHINGLE))
    return Needles(tuple(unique.values()), too_short)


def _shingles(text: str) -> Iterator[str]:
    """Yield the stretches of a text that are looked for, with the white space they have."""
    spans = [match.span() for match in _TOKEN.finditer(text)]
    if len(spans) >= SHINGLE_TOKENS:
        for first, last in zip(spans, spans[SHINGLE_TOKENS - 1 :], strict=False):
            yield text[first[0] : last[1]]
    elif spans:
        whole = text.strip()
        distinctive = len(spans) > 1 or not whole.isalpha()
        # Looked for with single spaces, too, which may leave little.
        if distinctive and len(_bytes(_SPACES.sub(" ", whole), "utf-8")) >= _SHORT_TEXT:
            yield whole


def _bytes(text: str, encoding: str) -> bytes:
    # Lone surrogates cannot be stored as UTF-8 anyway; what such a text becomes is not known here.
    return text.encode(encoding, "surrogatepass")


def _text_needles(text: str) -> Iterator[tuple[bytes, str]]:
    plain = _bytes(text, "utf-8")
    yield plain[:_LONGEST], "utf-8"
    yield _bytes(text, "utf-16-le")[:_LONGEST], "utf-16-le"
    yield _bytes(text, "utf-16-be")[:_LONGEST], "utf-16-be"
    yield _bytes(json.dumps(text)[1:-1], "utf-8")[:_LONGEST], "json"
    yield _bytes(json.dumps(text, ensure_ascii=False)[1:-1], "utf-8")[:_LONGEST], "json"
    for before in range(3):
        # The first characters and the last depend on neighbouring bytes too: left out.
        end = (before + len(plain)) * 8 // 6
        data = base64.b64encode(bytes(before) + plain)[(0, 2, 3)[before] : end]
        yield data[:_LONGEST], "base64"


def _blocks(texts: Iterable[str]) -> Iterator[bytes]:
    """Yield surviving texts as UTF-8, as they are and with single spaces, some at a time.

    Between two stand bytes that no UTF-8 holds, so that no needle lies across.
    """
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        for form in {text, _SPACES.sub(" ", text)}:
            waiting.append(_bytes(form, "utf-8"))
            size += len(waiting[-1])
        if size >= CHUNK_BYTES:
            yield _BETWEEN.join(waiting)
            waiting, size = [], 0
    yield _BETWEEN.join(waiting)


def _vector_needles(block: npt.NDArray[np.float32]) -> Iterator[tuple[bytes, str]]:
    """Yield for each row the first 32 bytes that are not nearly constant, as float32 and as float16."""
    for kind, encoding in ((np.float32, "float32"), (np.float16, "float16")):
        rows = np.ascontiguousarray(block, dtype=kind)
        width = rows.shape[1] * rows.itemsize
        for row in rows:
            data = row.tobytes()
            for start in range(0, max(width - VECTOR_BYTES, 0) + 1, VECTOR_BYTES):
                part = data[start : start + VECTOR_BYTES]
                if len(part) >= _SHORTEST and len(set(part)) >= _DISTINCT_BYTES:
                    yield part, encoding
                    break


class Searcher:
    """Finds many byte strings of at least 11 bytes in long stretches of bytes."""

    def __init__(self, needles: Sequence[Needle]) -> None:
        self.data = [needle.data for needle in needles]
        self.longest = max((len(item) for item in self.data), default=_SHORTEST)
        short = [index for index, item in enumerate(self.data) if len(item) < _LONG]
        long = [index for index, item in enumerate(self.data) if len(item) >= _LONG]
        self.tables = [
            _Table(self.data, np.array(owners, dtype=np.int64), words=words, stride=stride)
            for owners, words, stride in ((short, 1, 4), (long, 2, 8))
            if owners
        ]

    def found_in(self, data: bytes) -> set[int]:
        """Return the indexes of the needles that lie in these bytes."""
        found: set[int] = set()
        for start in range(0, len(data), CHUNK_BYTES):
            part = data[start : start + CHUNK_BYTES + self.longest - 1]
            found.update(owner for owner, _ in self.iter_found(np.frombuffer(part, dtype=np.uint8)))
        return found

    def iter_found(self, data: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
        """Yield (needle, start) of every occurrence in contiguous bytes, in no set order."""
        view = data.data
        for table in self.tables:
            for owners, starts in table.iter_likely(data):
                for owner, start in zip(owners.tolist(), starts.tolist(), strict=True):
                    needle = self.data[owner]
                    if view[start : start + len(needle)] == needle:
                        yield owner, start


class _Table:
    """Windows of needles by their hash.

    A window is ``words`` 8-byte words. Only every ``stride``-th place of a file is looked at,
    so each needle stands here with ``stride`` windows, one byte apart: one of them lies at such a place.
    """

    def __init__(self, data: Sequence[bytes], owners: Places, *, words: int, stride: int) -> None:
        self.words, self.stride = words, stride
        self.span = words * _WORD + stride - 1
        lengths = np.array([len(data[owner]) for owner in owners.tolist()], dtype=np.int64)
        if lengths.min() < self.span:
            raise ValueError(f"a needle is shorter than {self.span} bytes")
        joined = np.frombuffer(b"".join([data[owner] for owner in owners.tolist()]), dtype=np.uint8)
        begins = np.cumsum(lengths) - lengths
        anchors = self._anchors(joined, begins, lengths)
        everywhere = _words_everywhere(joined)
        offsets = np.concatenate([anchors + step for step in range(stride)])
        hashes = self._hash([everywhere[np.tile(begins, stride) + offsets + _WORD * k] for k in range(words)])
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.offsets = hashes[order], offsets[order]
        self.owners, self.lengths = np.tile(owners, stride)[order], np.tile(lengths, stride)[order]
        self.first_words = np.tile(everywhere[begins], stride)[order]
        self.last_words = np.tile(everywhere[begins + lengths - _WORD], stride)[order]
        # A bitmap of one byte a place, at most 1/16 full: what passes by chance costs little.
        bits = min(max((16 * len(hashes)).bit_length(), 16), 26)
        self.shift = np.uint64(64 - bits)
        self.bitmap: npt.NDArray[np.bool_] = np.zeros(1 << bits, dtype=np.bool_)
        self.bitmap[(hashes >> self.shift).view(np.int64)] = True

    def _anchors(self, joined: npt.NDArray[np.uint8], begins: Places, lengths: Places) -> Places:
        """Return for each needle where in it to look: of five places the one fewest others share.

        Lines of a table begin alike; were all looked for by their beginning, every such line
        in a file would be compared with every needle.
        """
        everywhere = _words_everywhere(joined)
        choices = np.stack([(lengths - self.span) * quarter // 4 for quarter in range(5)])
        hashes = self._hash([everywhere[begins + choices + _WORD * k] for k in range(self.words)])
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        best = counts[inverse.reshape(choices.shape)].argmin(axis=0)
        return np.asarray(np.take_along_axis(choices, best[None, :], axis=0)[0], dtype=np.int64)

    def _hash(self, words: Sequence[Words]) -> Words:
        """Return one hash for each window (multiplicative hashing, Knuth volume 3, 6.4)."""
        hashes = words[0] * _FACTORS[0]
        for word, factor in zip(words[1:], _FACTORS[1:], strict=False):
            hashes = (hashes ^ (hashes >> np.uint64(29))) + word * factor
        return hashes

    def iter_likely(self, data: npt.NDArray[np.uint8]) -> Iterator[tuple[Places, Places]]:
        """Yield batches of (needles, starts): every occurrence, and few that are none."""
        if len(data) < self.span:
            return
        at, hashes = self._candidates(data)
        low = np.searchsorted(self.hashes, hashes, side="left")
        counts = np.searchsorted(self.hashes, hashes, side="right") - low
        real = counts > 0
        at, low, counts = at[real], low[real], counts[real]
        everywhere = _words_everywhere(data)
        batches = np.cumsum(counts) // _BATCH
        for batch in np.unique(batches):
            chosen = batches == batch
            yield self._compare(everywhere, at[chosen], low[chosen], counts[chosen])

    def _candidates(self, data: npt.NDArray[np.uint8]) -> tuple[Places, Words]:
        """Return the places looked at whose hash the bitmap holds, with their hashes."""
        places, kept = [], []
        for phase in range(0, _WORD, self.stride):
            aligned = data[phase : phase + (len(data) - phase) // _WORD * _WORD].view("<u8")
            size = len(aligned) - self.words + 1
            hashes = self._hash([aligned[k : k + size] for k in range(self.words)])
            index = np.flatnonzero(self.bitmap[(hashes >> self.shift).view(np.int64)])
            places.append(index * _WORD + phase)
            kept.append(hashes[index])
        return np.concatenate(places), np.concatenate(kept)

    def _compare(self, everywhere: Words, at: Places, low: Places, counts: Places) -> tuple[Places, Places]:
        """Return the needles, with their starts, whose window, first and last word lie right."""
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        entries = np.repeat(low, counts) + within
        starts = np.repeat(at, counts) - self.offsets[entries]
        lasts = starts + self.lengths[entries] - _WORD
        keep = (starts >= 0) & (lasts < len(everywhere))
        entries, starts, lasts = entries[keep], starts[keep], lasts[keep]
        keep = (everywhere[starts] == self.first_words[entries]) & (
            everywhere[lasts] == self.last_words[entries]
        )
        return self.owners[entries[keep]], starts[keep]


def _words_everywhere(data: npt.NDArray[np.uint8]) -> Words:
    """Return a view of the 8-byte word at every byte offset."""
    return np.ndarray((len(data) - _WORD + 1,), "<u8", data.data, strides=(1,))


def scan_files(root: Path, needles: Needles, *, progress: Progress | None = None) -> ScanReport:
    """Look for needles in every plain file under a folder, following no links.

    What cannot be read in full as one state (links, sockets, files that vanish or keep
    changing, files without permission) is listed as uncovered, with the reason.
    """
    began = time.monotonic()
    if not root.is_dir():
        raise NotFoundError("folder", str(root))
    searcher = Searcher(needles.items)
    uncovered: list[tuple[str, str]] = []
    found: list[Finding] = []
    paths = sorted(_iter_files(root, root, uncovered))
    total = sum(size for _, size in paths)
    files = read_bytes = 0
    for path, _ in paths:
        name = _shown(path, root)
        try:
            hits, length, stable = _scan_until_stable(path, searcher)
        except FileNotFoundError:
            uncovered.append((name, "it vanished during the scan"))
            continue
        except OSError as error:
            uncovered.append((name, f"it could not be read: {error.strerror}"))
            continue
        if not stable:
            uncovered.append((name, "it kept changing during the scan"))
        files += 1
        read_bytes += length
        found.extend(_findings(name, hits, needles.items))
        if progress is not None:
            progress(min(read_bytes, total), total)
    return ScanReport(
        files=files,
        bytes=read_bytes,
        needles=len(needles.items),
        excluded=needles.excluded,
        too_short=needles.too_short,
        found=tuple(found),
        uncovered=tuple(sorted(uncovered)),
        ms=round((time.monotonic() - began) * 1000),
    )


def _iter_files(folder: Path, root: Path, uncovered: list[tuple[str, str]]) -> Iterator[tuple[Path, int]]:
    """Yield every plain file with its size; note everything else."""
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        uncovered.append((_shown(folder, root), f"the folder could not be read: {error.strerror}"))
        return
    for entry in entries:
        path = Path(entry.path)
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            uncovered.append((_shown(path, root), f"it could not be read: {error.strerror}"))
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _iter_files(path, root, uncovered)
        elif stat.S_ISREG(status.st_mode):
            yield path, status.st_size
        elif stat.S_ISLNK(status.st_mode):
            uncovered.append((_shown(path, root), "a symbolic link, not followed"))
        else:
            uncovered.append((_shown(path, root), "not a plain file"))


def _shown(path: Path, root: Path) -> str:
    # A name need not be UTF-8; what is reported must be.
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _scan_until_stable(path: Path, searcher: Searcher) -> tuple[list[tuple[int, int]], int, bool]:
    """Return the last attempt's (needle, offset) pairs, the bytes read, and whether the file stood still."""
    for _ in range(ATTEMPTS):
        # Should a link or a pipe have taken the file's place, opening it must neither follow nor wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise FileNotFoundError(path)
            hits, length = _scan_open(file, before.st_size, searcher)
            after = os.fstat(descriptor)
        now = path.lstat()
        states = {
            (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            for status in (before, after, now)
        }
        stable = len(states) == 1 and length == before.st_size
        if stable:
            break
    return hits, length, stable


def _scan_open(file: io.FileIO, size: int, searcher: Searcher) -> tuple[list[tuple[int, int]], int]:
    """Search a file in chunks that overlap by what a needle may lack at a chunk's end.

    Reads no further than the size it had, so that a file that grows for ever is left in the end.
    """
    overlap = searcher.longest - 1
    buffer = np.empty(overlap + CHUNK_BYTES, dtype=np.uint8)
    hits: list[tuple[int, int]] = []
    carried = length = 0
    while length < size:
        room = min(CHUNK_BYTES, size - length)
        got = file.readinto(buffer.data[carried : carried + room])
        if not got:
            break
        filled = carried + got
        base = length - carried
        for owner, start in searcher.iter_found(buffer[:filled]):
            # What ends within the carried bytes was found in the chunk before.
            if start + len(searcher.data[owner]) > carried:
                hits.append((owner, base + start))
        length += got
        carried = min(overlap, filled)
        buffer[:carried] = buffer[filled - carried : filled].copy()
    return hits, length


def _findings(name: str, hits: list[tuple[int, int]], needles: Sequence[Needle]) -> Iterator[Finding]:
    offsets: dict[str, list[int]] = {}
    for owner, offset in hits:
        offsets.setdefault(needles[owner].encoding, []).append(offset)
    for encoding, places in sorted(offsets.items()):
        yield Finding(name, encoding, min(places), len(places))
