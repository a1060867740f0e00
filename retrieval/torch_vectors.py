"""Vectors in the memory of a CUDA device, or in plain memory where there is none.

Two scans: every row in half precision, which finds exactly what the plain twin finds, or every row's binary
code first and the best of those in half precision. What counts as best is settled by scores and keys alone,
never by where a row stands. The only importer of torch here; which code a vector has is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memory.errors import ConflictError, UnavailableError
from retrieval.vectors import (
    Allowed,
    Keys,
    Matrix,
    Scores,
    as_keys,
    as_scores,
    best,
    checked_query,
    checked_rows,
    load_rows,
    save_rows,
)

Encode = Callable[[Matrix], npt.NDArray[np.uint8]]
"""Packed binary codes of rows, shape (rows, bytes), such that few bits differ where an angle is small."""

RERANKED = 2048
"""So many rows, or 32 times the limit, are compared in half precision after the scan of codes."""
_WIDER = 32
_GROUP = 128
_BLOCK = {"cpu": 1 << 16, "cuda": 1 << 22}
_FEW = 4
"""Rows are gathered instead of all being scanned when at most one in so many is allowed."""
_TIE = 1e-6
_MASKS = (0x55555555, 0x33333333, 0x0F0F0F0F)


class TorchVectors:
    """Every row compared on ``device``; with ``encode`` every code, and the best again by their rows.

    A row takes 2 bytes a dimension, an eighth of one more with codes, and 12 bytes; ``room`` rows are laid
    out at once, beyond that storage grows by half. Keys are meant to be dense, as bitmaps over them are: 4
    bytes go to each up to the greatest.
    """

    def __init__(
        self, dimension: int, *, device: str | None = None, encode: Encode | None = None, room: int = 0
    ) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._encode = encode
        self._dimension = dimension
        self._count = 0
        self._matrix = torch.zeros((room, dimension), dtype=torch.float16, device=self._device)
        words = -(-dimension // 32) if encode else 0
        self._codes = torch.zeros((room, words), dtype=torch.int32, device=self._device)
        self._keys = torch.zeros(room, dtype=torch.int64, device=self._device)
        self._places = torch.full((room,), -1, dtype=torch.int32, device=self._device)  # by key
        self._lock = RLock()

    @property
    def dimension(self) -> int:
        return self._dimension

    def __len__(self) -> int:
        return self._count

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        new, rows = checked_rows(keys, vectors, self._dimension)
        codes = None if self._encode is None else self._encode(rows)
        with self._lock:
            held = new[self._find(new) >= 0]
            if len(held):
                raise ConflictError(f"key {held[0]} is held already")
            if len(new) == 0:
                return
            start, end = self._count, self._count + len(new)
            self._make_room(end, int(new.max()) + 1)
            self._matrix[start:end] = self._sent(rows.astype(np.float16))
            if codes is not None:
                self._codes[start:end] = self._sent(_as_words(codes))
            self._keys[start:end] = self._sent(new)
            self._places[self._keys[start:end]] = torch.arange(
                start, end, dtype=torch.int32, device=self._device
            )
            self._count = end

    def remove(self, keys: npt.ArrayLike) -> int:
        with self._lock:
            places = self._find(np.unique(as_keys(keys)))
            going = self._sent(places[places >= 0].astype(np.int64))
            left = self._count - len(going)
            stays = torch.ones(self._count - left, dtype=torch.bool, device=self._device)
            stays[going[going >= left] - left] = False
            self._places[self._keys[going]] = -1
            # The last rows that stay move into the gaps; then the end is overwritten.
            movers, gaps = torch.nonzero(stays)[:, 0] + left, going[going < left]
            for storage in self._storages():
                storage[gaps] = storage[movers]
                storage[left : self._count] = 0
            self._places[self._keys[gaps]] = gaps.to(torch.int32)
            self._count = left
            return len(going)

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = checked_query(query, self._dimension)
        with self._lock:
            among = None if allowed is None else self._among(allowed)
            if limit <= 0 or (self._count if among is None else len(among)) == 0:
                return best(np.empty(0, np.int64), np.empty(0), limit)
            found = self._scanned(wanted, limit, among)
            keys: Keys = self._keys[found].cpu().numpy()
            return best(keys, self._scored(found, wanted), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted, asked = checked_query(query, self._dimension), as_keys(keys)
        with self._lock:
            places = self._find(asked)
            held = places >= 0
            scores = np.full(len(asked), -1.0)
            scores[held] = self._scored(self._sent(places[held].astype(np.int64)), wanted)
        return scores

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        with self._lock:
            places = self._find(as_keys(keys))
            if (places < 0).any():
                raise KeyError(int(as_keys(keys)[places < 0][0]))
            rows: Matrix = self._matrix[self._sent(places.astype(np.int64))].cpu().numpy().astype(np.float32)
            return rows

    def keys(self) -> Keys:
        with self._lock:
            keys: Keys = self._keys[: self._count].sort().values.cpu().numpy()
            return keys

    def save(self, folder: Path) -> str:
        with self._lock:
            return save_rows(self, folder)

    @classmethod
    def load(
        cls, folder: Path, name: str, *, device: str | None = None, encode: Encode | None = None
    ) -> Self:
        dimension, keys, rows = load_rows(folder, name)
        index = cls(dimension, device=device, encode=encode, room=len(keys))
        for start in range(0, len(keys), _BLOCK["cpu"]):
            part = slice(start, start + _BLOCK["cpu"])
            index.add(keys[part], rows[part].astype(np.float32))
        return index

    def _sent(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)

    def _storages(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._matrix, self._codes, self._keys

    def _find(self, keys: Keys) -> npt.NDArray[np.int32]:
        """Return where each key's row stands, -1 for a key not held."""
        places = np.full(len(keys), -1, dtype=np.int32)
        known = (keys >= 0) & (keys < len(self._places))
        places[known] = self._places[self._sent(keys[known])].cpu().numpy()
        return places

    def _make_room(self, rows: int, keys: int) -> None:
        if rows > len(self._keys):
            more = max(rows, len(self._keys) * 3 // 2)
            self._matrix, self._codes, self._keys = (
                _longer(storage, more, 0) for storage in self._storages()
            )
        if keys > len(self._places):
            self._places = _longer(self._places, max(keys, len(self._places) * 3 // 2), -1)

    def _among(self, allowed: Allowed) -> Tensor:
        """Return the places of held rows whose keys are allowed."""
        known = min(len(allowed), len(self._places))
        places = self._places[:known][self._sent(allowed[:known])]
        return places[places >= 0].long()

    def _scanned(self, query: npt.NDArray[np.float32], limit: int, among: Tensor | None) -> Tensor:
        """Return places that hold the best rows by exact score, or by code those worth an exact score."""
        gathered = among if among is not None and _FEW * len(among) <= self._count else None
        if self._encode is None:
            wanted = self._sent(query)
            scores = self._scan(self._matrix, gathered, _scan_rows(self._device), wanted)
            depth = limit
            # No sum in single precision is further off than this, so no better row is below the line.
            slack = 2 * self._dimension * 2.0**-24 * float(np.linalg.norm(query)) + _TIE
        else:
            code = self._sent(_as_words(self._encode(query[None])))[0]
            scores = self._scan(self._codes, gathered, _scan_codes(self._device), code)
            depth, slack = max(RERANKED, _WIDER * limit), 0
        lowest = _lowest(scores)
        if among is not None and gathered is None:
            outside = torch.ones(self._count, dtype=torch.bool, device=self._device)
            outside[among] = False
            scores.masked_fill_(outside, lowest)
        line = _kth(scores, depth) - slack
        found = torch.nonzero((scores >= line) & (scores > lowest))[:, 0]
        places = found if gathered is None else gathered[found]
        if self._encode is not None and len(found) > depth:
            by_key = torch.argsort(self._keys[places])
            order = by_key[torch.sort(scores[found][by_key], descending=True, stable=True).indices]
            places = places[order[:depth]]
        return places

    def _scan(
        self, storage: Tensor, places: Tensor | None, scan: Callable[[Tensor, Tensor], Tensor], query: Tensor
    ) -> Tensor:
        """Return one figure a row, greater for nearer, of all rows or of those at ``places``."""
        count, block = self._count if places is None else len(places), _BLOCK[self._device.type]
        return torch.cat(
            [
                scan(
                    storage[start : min(start + block, count)]
                    if places is None
                    else storage[places[start : start + block]],
                    query,
                )
                for start in range(0, count, block)
            ]
        )

    def _scored(self, places: Tensor, query: npt.NDArray[np.float32]) -> Scores:
        wanted, block = self._sent(query).double(), _BLOCK["cpu"]
        parts = [
            (self._matrix[places[start : start + block]].double() * wanted).sum(dim=1).cpu().numpy()
            for start in range(0, len(places), block)
        ]
        return as_scores(np.concatenate([np.empty(0), *parts]))


def has_cuda() -> bool:
    """Say whether torch sees a CUDA device."""
    return torch.cuda.is_available()


def fill(read: Callable[[Keys], Matrix], count: int, dimension: int, device: str) -> TorchVectors:
    """Put rows 0 to ``count`` - 1 on a device, block by block; ``UnavailableError`` when they do not fit."""
    try:
        index = TorchVectors(dimension, device=device, room=count)
        for start in range(0, count, _BLOCK["cpu"]):
            keys = np.arange(start, min(start + _BLOCK["cpu"], count))
            index.add(keys, read(keys))
    except torch.OutOfMemoryError as error:
        raise UnavailableError(f"the device {device} has no room for {count} vectors") from error
    return index


def multiply_rows(rows: Tensor, query: Tensor) -> Tensor:
    """Return the products of half-precision rows with a query, in single precision: the plain scan."""
    return rows.float() @ query


def compare_codes(codes: Tensor, code: Tensor) -> Tensor:
    """Return minus the number of bits in which each code differs, int16: the plain scan."""
    bits = codes ^ code
    bits = bits - ((bits >> 1) & _MASKS[0])
    bits = (bits & _MASKS[1]) + ((bits >> 2) & _MASKS[1])
    bits = (bits + (bits >> 4)) & _MASKS[2]
    return -((bits * 0x01010101) >> 24).sum(dim=1).to(torch.int16)


def _scan_rows(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    if device.type != "cuda":
        return multiply_rows
    # Deferred: Triton comes with torch's CUDA builds only.
    from retrieval.torch_kernels import multiply_rows as fused

    return lambda rows, query: fused(rows, query, rows.new_empty(len(rows), dtype=torch.float32))


def _scan_codes(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    if device.type != "cuda":
        return compare_codes
    from retrieval.torch_kernels import compare_codes as fused

    return lambda codes, code: fused(codes, code, codes.new_empty(len(codes), dtype=torch.int16))


def _as_words(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return packed codes in words of 32 bits, the last filled up with zeros."""
    spare = -codes.shape[1] % 4
    return np.ascontiguousarray(np.pad(codes, ((0, 0), (0, spare)))).view(np.int32)


def _longer(storage: Tensor, rows: int, filling: int) -> Tensor:
    longer = storage.new_full((rows, *storage.shape[1:]), filling)
    longer[: len(storage)] = storage
    storage.zero_()  # the device's allocator keeps it, and removals do not reach it there
    return longer


def _lowest(scores: Tensor) -> float:
    return -float("inf") if scores.is_floating_point() else torch.iinfo(scores.dtype).min


def _kth(scores: Tensor, depth: int) -> Tensor:
    """Return the ``depth``-th greatest, the least where there are fewer.

    The greatest ``depth`` figures are in the ``depth`` groups with the greatest maxima, so that few are
    sorted.
    """
    groups = len(scores) // _GROUP
    if depth < groups:
        grouped = scores[: groups * _GROUP].view(groups, _GROUP)
        leading = torch.topk(grouped.amax(dim=1), depth, sorted=False).indices
        scores = torch.cat([grouped[leading].flatten(), scores[groups * _GROUP :]])
    return torch.topk(scores, min(depth, len(scores))).values[-1]
