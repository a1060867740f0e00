"""The two scans of `retrieval.torch_vectors` as Triton kernels: each byte is read once, nothing is written
but the result.

Nothing here knows keys, filters or limits. The only importer of triton.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

_ROWS = 64
"""So many rows one program takes."""


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(rows, query, scores, count, dimension, ROWS: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    # int64: 50 million rows of 384 have more places than int32 counts
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    inside = (row < count)[:, None] & (column < dimension)[None, :]
    block = tl.load(rows + row[:, None] * dimension + column[None, :], mask=inside, other=0.0)
    wanted = tl.load(query + column, mask=column < dimension, other=0.0)
    tl.store(scores + row, tl.sum(block.to(tl.float32) * wanted[None, :], axis=1), mask=row < count)


@triton.jit  # type: ignore[untyped-decorator]
def _compare(codes, code, scores, count, words, ROWS: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDE)
    inside = (row < count)[:, None] & (column < words)[None, :]
    block = tl.load(codes + row[:, None] * words + column[None, :], mask=inside, other=0)
    wanted = tl.load(code + column, mask=column < words, other=0)
    bits = block ^ wanted[None, :]
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    bits = (bits & 0x00FF00FF) + ((bits >> 8) & 0x00FF00FF)  # two counts a word, which sums do not overflow
    total = tl.sum(bits, axis=1)
    tl.store(scores + row, (-((total & 0xFFFF) + (total >> 16))).to(tl.int16), mask=row < count)


def multiply_rows(rows: Any, query: Any, scores: Any) -> Any:
    """Fill ``scores`` with the products of rows, shape (rows, dimension), and a query; return it."""
    return _launch(_multiply, rows, query, scores)


def compare_codes(codes: Any, code: Any, scores: Any) -> Any:
    """Fill ``scores`` with minus the number of differing bits of codes, shape (rows, words); return it."""
    return _launch(_compare, codes, code, scores)


def _launch(kernel: Any, rows: Any, query: Any, scores: Any) -> Any:
    count, width = rows.shape
    kernel[(triton.cdiv(count, _ROWS),)](
        rows, query, scores, count, width, ROWS=_ROWS, WIDE=triton.next_power_of_2(width)
    )
    return scores
