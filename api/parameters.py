"""Parameters that several routes take in their path or query."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator

from api.schemas import Moment


def _no_nul(text: str | None) -> str | None:
    if text is not None and "\0" in text:
        raise ValueError("holds a NUL character")
    return text


Id = Annotated[str, Path(max_length=200, pattern=r"^[A-Za-z0-9._~:-]+$")]
Limit = Annotated[int, Query(ge=1, le=500, description="Items per page.")]
Cursor = Annotated[
    str | None,
    Query(max_length=1000, pattern=r"^[!-~]+$", description="`next_cursor` of the page before."),
]
UserId = Annotated[str | None, Query(min_length=1, max_length=500), AfterValidator(_no_nul)]
Filter = Annotated[
    str | None, Query(max_length=8000, description="A filter as JSON, as in recall."), AfterValidator(_no_nul)
]
Pending = Annotated[
    bool, Query(description="Show documents as last acknowledged, though they may not be indexed yet.")
]
AsOf = Annotated[Moment | None, Query(description="The version that was current then (RFC 3339).")]
