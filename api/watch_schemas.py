"""What is taken of watches: the shape of the request that makes one."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from api.schemas import Filter, Name, Query, StrictModel
from service.watches import THRESHOLD


class WatchRequest(StrictModel):
    """A query that stands: what is remembered from now on is held against it.

    A passage matches with a cosine of `threshold`, or with all of the query's words. `stream_id` and `filter`
    say what it is held against.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "somebody falls into the water",
                    "name": "man overboard",
                    "filter": {"metadata.quay": 2},
                    "threshold": 0.5,
                    "subjects": ["adeyemi"],
                }
            ]
        }
    )

    query: Query
    name: Name | None = None
    filter: Filter | None = None
    stream_id: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9._~:-]+$")] | None = None
    threshold: Annotated[float, Field(ge=0, le=1, strict=False)] = THRESHOLD
    subjects: Annotated[tuple[Name, ...], Field(max_length=200, strict=False)] = ()
